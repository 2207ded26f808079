"""Connections to Redis: how they are made, one for each thread, and whether the server keeps what it acknowledges."""

import functools
import threading
from typing import Literal, cast

import redis

Durability = Literal["waitaof", "always", "none"]
"""`waitaof`: it can be asked after each write; `always`: it writes through; `none`: a crash may forget a request."""

NOT_DURABLE = (
    "a crash of Redis may forget that a telephone rang: it needs appendonly yes and, from Redis 7.2 on, appendfsync "
    "everysec, before that always"
)


def connect(url: str, *, max_connections: int, limit: float = 15) -> redis.Redis:
    """Return a client for the store: bounded in time, so that a half-open connection never hangs a worker.

    An answer may take `limit` seconds; one silent retry over a fresh connection is safe: each step can be taken twice.
    """
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        max_connections=max_connections,
        socket_timeout=limit,
        socket_connect_timeout=min(5, limit),
        socket_keepalive=True,
        health_check_interval=25,
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 1),
    )


class ThreadClient(threading.local):
    """A client for each thread, with a connection of its own.

    To take a connection from the pool, see whether it is sound and put it back is a quarter of a command's CPU time.
    One that has broken is noticed when it is used, and made anew by the library's retry.
    """

    def __init__(self, shared: redis.Redis) -> None:
        self._shared = shared

    @functools.cached_property
    def client(self) -> redis.Redis:
        """Return this thread's; connects when first asked for."""
        return cast("redis.Redis", self._shared.client())  # type: ignore[no-untyped-call]


def durability_of(client: redis.Redis) -> Durability:
    """Return what the server offers; a server that hides its configuration is asked for a proof instead."""
    try:
        configured = {**client.config_get("appendonly"), **client.config_get("appendfsync")}
    except redis.ResponseError:
        configured = {"appendonly": "yes", "appendfsync": "everysec"}
    if configured.get("appendonly") != "yes" or configured.get("appendfsync") == "no":
        return "none"
    try:
        client.execute_command("WAITAOF", 1, 0, 1)  # type: ignore[no-untyped-call]
    except redis.ResponseError:  # before Redis 7.2, or without an append-only file after all
        return "always" if configured.get("appendfsync") == "always" else "none"
    return "waitaof"

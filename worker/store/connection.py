"""Connect to Redis: one connection per thread, and a check that the server keeps acknowledged writes."""

import functools
import threading
from typing import Any, Literal, cast

import redis

from worker.store.primary import primary_of

FLUSHES_BEFORE_IT_CONFIRMS = 8  # the first version of Redis whose WAITAOF is right with `appendfsync everysec`

Durability = Literal["waitaof", "always", "none"]
"""`waitaof`: each write can be confirmed; `always`: each write is flushed; `none`: a crash may lose a request."""

NOT_DURABLE = (
    "a crash of Redis may lose the record of a call request: set appendonly yes, and appendfsync always (from Redis 8 "
    "on, everysec is enough)"
)


def connect(
    address: str, *, max_connections: int | None = None, limit: float = 15, retries: int = 1, decode: bool = True
) -> redis.Redis:
    """Return a client of a Redis URL, with time-outs, so that a half-open connection never blocks a worker.

    A response may take `limit` seconds; it contains text, or bytes without `decode`. One silent retry over a fresh
    connection is safe, because every script can run twice. The client follows the primary (`worker.store.primary`).
    """
    limits: dict[str, Any] = {
        "decode_responses": decode,
        "max_connections": max_connections,
        "socket_timeout": limit,
        "socket_connect_timeout": min(5, limit),
        "health_check_interval": 25,
        "retry": redis.retry.Retry(redis.backoff.NoBackoff(), retries),
    }
    return redis.Redis.from_pool(redis.ConnectionPool(**(limits | primary_of(address).options())))


class ThreadClient(threading.local):
    """Give each thread a client with a connection of its own.

    Taking a connection from the pool, checking it and returning it costs a quarter of a command's CPU time. A broken
    connection is detected on use and replaced by the library's retry.
    """

    def __init__(self, shared: redis.Redis) -> None:
        self._shared = shared

    @functools.cached_property
    def client(self) -> redis.Redis:
        """Return this thread's client; connects on first use."""
        return cast("redis.Redis", self._shared.client())  # type: ignore[no-untyped-call]


def durability_of(client: redis.Redis) -> Durability:
    """Return the durability that the server offers; probe a server that hides its configuration."""
    try:
        configured = {**client.config_get("appendonly"), **client.config_get("appendfsync")}
    except redis.ResponseError:
        configured = {"appendonly": "yes", "appendfsync": "everysec"}
    if configured.get("appendonly") != "yes" or configured.get("appendfsync") == "no":
        return "none"
    try:
        client.execute_command("WAITAOF", 1, 0, 1)  # type: ignore[no-untyped-call]
    except redis.ResponseError:  # before Redis 7.2, or without an append-only file
        return "always" if configured.get("appendfsync") == "always" else "none"
    return "none" if configured.get("appendfsync") == "everysec" and _confirms_early(client) else "waitaof"


def _confirms_early(client: redis.Redis) -> bool:
    """Return whether WAITAOF may confirm a write before it is flushed, with `appendfsync everysec`.

    Redis 7.2 and 7.4 do so, and Valkey, which calls itself Redis 7.2.4 (https://github.com/redis/redis/pull/13793).
    """
    try:
        version = str(client.info("server").get("redis_version", ""))
    except redis.ResponseError:
        return False
    major = version.partition(".")[0]
    return major.isdigit() and int(major) < FLUSHES_BEFORE_IT_CONFIRMS

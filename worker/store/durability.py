"""How the server can say that a write is on disk: before a telephone rings, `sending` must be."""

from typing import Literal

import redis

Durability = Literal["waitaof", "always", "none"]
"""`waitaof`: it can be asked after each write; `always`: it writes through; `none`: a crash may forget a request."""

NOT_DURABLE = (
    "a crash of Redis may forget that a telephone rang: it needs appendonly yes and, from Redis 7.2 on, appendfsync "
    "everysec, before that always"
)


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

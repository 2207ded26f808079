"""What can be read of the state's health: who sweeps, whether upstream is away, how the server is set."""

from dataclasses import dataclass
from typing import cast

import redis

from worker.core.model import Pair
from worker.store.base import Scripts


@dataclass(frozen=True, slots=True)
class LastSweep:
    """A turn to sweep was last taken at `at` (epoch seconds) by `owner`."""

    at: float
    owner: str


@dataclass(frozen=True, slots=True)
class Eviction:
    """What the server does when `maxmemory` bytes (0: no bound) are used up."""

    policy: str
    maxmemory: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a server uses, and beyond which it refuses writes; 0 where it has no limit of its own."""

    used: int
    limit: int


def memory_of(client: redis.Redis) -> Memory | None:
    """Return how much memory a server uses; None where it does not tell. Raises RedisError."""
    try:
        told = client.info("memory")
    except redis.ResponseError:
        return None
    return Memory(int(told.get("used_memory", 0)), int(told.get("maxmemory", 0)))


class ServerStatus(Scripts):
    """Reads for the diagnosis of an installation. All raise StoreUnavailable."""

    def last_sweep(self) -> LastSweep | None:
        """Return the last turn to sweep; None where none was taken within a day (S28)."""
        with self.translated():
            text = cast("str | None", self.client.get(self.keys.swept))
        if text is None:
            return None
        at, _, owner = text.partition(" ")
        return LastSweep(float(at), owner)

    def outage_since(self) -> float | None:
        """Return since when upstream has been away, in epoch seconds; None while it answers (S29)."""
        with self.translated():
            since = cast("str | None", self.client.hget(self.keys.outage, "since"))
        return None if since is None else float(since)

    def watched(self, pair: Pair) -> int:
        """Return how many calls hold the pair (S5)."""
        with self.translated():
            return int(self.client.scard(self.keys.live(pair)))

    def number_of_calls(self) -> int:
        """Return how many calls are being watched."""
        with self.translated():
            return int(self.client.zcard(self.keys.due))

    def eviction(self) -> Eviction | None:
        """Return what the server drops when it is full; None where it does not tell."""
        with self.translated():
            try:
                told = cast("dict[str, str]", self.client.config_get("maxmemory*"))
            except redis.ResponseError:
                return None
        return Eviction(told.get("maxmemory-policy", ""), int(told.get("maxmemory", 0)))

    def memory(self) -> Memory | None:
        """Return how much memory the server uses; None where it does not tell."""
        with self.translated():
            return memory_of(self.client)

    def version(self) -> str:
        """Return the server's name and version, `of unknown version` where it does not tell."""
        with self.translated():
            try:
                told = self.client.info("server")
            except redis.ResponseError:
                return "of unknown version"
        valkey = told.get("valkey_version")
        return f"Valkey {valkey}" if valkey else f"Redis {told.get('redis_version', 'of unknown version')}"

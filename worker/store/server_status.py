"""Read the server's health: the last sweep, the upstream outage, memory, eviction settings and replicas."""

from dataclasses import dataclass
from typing import cast

import redis

from worker.core.model import Pair
from worker.store.base import Scripts
from worker.store.connection import NOT_DURABLE, durability_of


@dataclass(frozen=True, slots=True)
class LastSweep:
    """The leader lock of the sweep was last acquired at `at` (epoch seconds) by `owner`."""

    at: float
    owner: str


@dataclass(frozen=True, slots=True)
class Eviction:
    """The server's eviction policy once `maxmemory` bytes (0: no bound) are used."""

    policy: str
    maxmemory: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a server uses, and the limit beyond which it refuses writes; 0 is no limit."""

    used: int
    limit: int


@dataclass(frozen=True, slots=True)
class Replicas:
    """The connected replicas of a server: by how many bytes each one is behind, and how many seconds ago it reported.

    `is_primary` is false if the server is a replica itself.
    """

    is_primary: bool
    bytes_behind: tuple[int, ...]
    reported: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.bytes_behind)


def memory_of(client: redis.Redis) -> Memory | None:
    """Return the memory use of a server; None where the server hides it. Raises RedisError."""
    try:
        info = client.info("memory")
    except redis.ResponseError:
        return None
    return Memory(int(info.get("used_memory", 0)), int(info.get("maxmemory", 0)))


class ServerStatus(Scripts):
    """Read the state of an installation for its diagnosis. All methods raise StoreUnavailable."""

    def last_sweep(self) -> LastSweep | None:
        """Return the last sweep; None if none ran within a day (S28)."""
        with self.translated():
            text = cast("str | None", self.client.get(self.keys.swept))
        if text is None:
            return None
        at, _, owner = text.partition(" ")
        return LastSweep(float(at), owner)

    def outage_since(self) -> float | None:
        """Return the start of the upstream outage in epoch seconds; None while upstream answers (S29)."""
        with self.translated():
            since = cast("str | None", self.client.hget(self.keys.outage, "since"))
        return None if since is None else float(since)

    def watched(self, pair: Pair) -> int:
        """Return the number of calls that hold the pair (S5)."""
        with self.translated():
            return int(self.client.scard(self.keys.live(pair)))

    def number_of_calls(self) -> int:
        """Return the number of watched calls."""
        with self.translated():
            return int(self.client.zcard(self.keys.due))

    def eviction(self) -> Eviction | None:
        """Return the server's eviction settings; None where the server hides them."""
        with self.translated():
            try:
                info = cast("dict[str, str]", self.client.config_get("maxmemory*"))
            except redis.ResponseError:
                return None
        return Eviction(info.get("maxmemory-policy", ""), int(info.get("maxmemory", 0)))

    def durability_fault(self) -> str | None:
        """Return that a crash may lose the phase `sending`, and the settings found; None on a durable server (S18)."""
        with self.translated():
            if durability_of(self.client) != "none":
                return None
            try:
                found = cast("dict[str, str]", self.client.config_get("append*"))
            except redis.ResponseError:
                found = {}
        if not found:
            what = "its settings are hidden, and WAITAOF is refused or confirms early"
        elif found.get("appendonly") != "yes":
            what = f"appendonly {found.get('appendonly')}"
        else:
            refused = ", and WAITAOF is refused or confirms early" if found.get("appendfsync") == "everysec" else ""
            what = f"appendfsync {found.get('appendfsync')} on {self.version()}{refused}"
        return f"{NOT_DURABLE}; found: {what}"

    def memory(self) -> Memory | None:
        """Return the server's memory use; None where the server hides it."""
        with self.translated():
            return memory_of(self.client)

    def replicas(self) -> Replicas | None:
        """Return the server's connected replicas (S41); None where the server hides them."""
        with self.translated():
            try:
                info = self.client.info("replication")
            except redis.ResponseError:
                return None
        known = (info[name] for name in info if name.removeprefix("slave").isdigit())
        online = [one for one in known if one.get("state") == "online"]
        written = int(info.get("master_repl_offset", 0))
        return Replicas(
            info.get("role", "master") == "master",
            tuple(max(0, written - int(one["offset"])) for one in online),
            tuple(int(one["lag"]) for one in online),
        )

    def version(self) -> str:
        """Return the server's name and version, or `of unknown version` where the server hides it."""
        with self.translated():
            try:
                info = self.client.info("server")
            except redis.ResponseError:
                return "of unknown version"
        valkey = info.get("valkey_version")
        return f"Valkey {valkey}" if valkey else f"Redis {info.get('redis_version', 'of unknown version')}"

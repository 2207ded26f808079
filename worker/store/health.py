"""What can be read of the state's health: who sweeps, how late polls are, whether upstream is away. Changes nothing."""

from dataclasses import dataclass
from typing import cast

import redis

from worker.store.base import Steps
from worker.values import Pair

BATCH = 1_000  # records in one round trip


@dataclass(frozen=True, slots=True)
class LastSweep:
    """A turn to sweep was last taken at `at` (epoch seconds) by `owner`."""

    at: float
    owner: str


@dataclass(frozen=True, slots=True)
class Lateness:
    """Of all watched calls: how late the latest poll is in seconds (0 where none is), how many are beyond the limit."""

    longest: float
    beyond: int


@dataclass(frozen=True, slots=True)
class Eviction:
    """What the server does when `maxmemory` bytes (0: no bound) are used up."""

    policy: str
    maxmemory: int


class Health(Steps):
    """Reads for the diagnosis of an installation. All raise StoreUnavailable."""

    def last_sweep(self) -> LastSweep | None:
        """Return the last turn to sweep; None where none was taken within a day (S28)."""
        with self.translated():
            text = cast("str | None", self.client.get(self.keys.swept))
        if text is None:
            return None
        at, _, owner = text.partition(" ")
        return LastSweep(float(at), owner)

    def lateness(self, *, limit: float) -> Lateness:
        """Return how late polls are, and how many by more than `limit` seconds.

        By the records' own due times: a reissue moves the one that the sweep looks at, whether or not anybody then
        carries the poll out. A poll under way counts as late until it is written down, one that waits for a token from
        the time on at which it may come back.
        """
        now = self.now()
        late = [now - due for due in self._due_times() if due < now]
        return Lateness(max(late, default=0.0), sum(one > limit for one in late))

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

    def version(self) -> str:
        """Return the server's name and version, `of unknown version` where it does not tell."""
        with self.translated():
            try:
                told = self.client.info("server")
            except redis.ResponseError:
                return "of unknown version"
        valkey = told.get("valkey_version")
        return f"Valkey {valkey}" if valkey else f"Redis {told.get('redis_version', 'of unknown version')}"

    def _due_times(self) -> list[float]:
        found: list[float] = []
        with self.translated():
            jobs = cast("list[str]", self.client.zrange(self.keys.due, 0, -1))
            for first in range(0, len(jobs), BATCH):
                pipeline = self.client.pipeline(transaction=False)
                for job_id in jobs[first : first + BATCH]:
                    pipeline.hmget(self.keys.job(job_id), ["due", "verdict", "slot"])
                found += [float(slot or due) for due, verdict, slot in pipeline.execute() if due and not verdict]
        return found

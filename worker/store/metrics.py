"""What is counted in Redis: by the very step that makes a change, so once, for all processes, and over restarts.

One hash holds every counter, a field each. A histogram is a field for each bucket (what fell into it alone, not below
it as well) and one for the sum in microseconds. How much there is of something is not counted but read when asked.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import redis

from worker.core.texts import LABELS
from worker.store.keys import Keys
from worker.store.outbox import OutboxScripts
from worker.store.terms import Terms, milliseconds

TALLY_EVERY = 5.0  # seconds between two tallies that workers keep for observers
TALLY_KEPT = 86_400  # seconds
BATCH = 1_000  # hashes in one step: a millisecond or two of Redis' only thread

# Read only. Of each hash one field is tallied, and how late it is by its due time, unless it has a verdict: what is
# counted stays where it is, so ten thousand calls cost a scrape ten answers of a line each.
TALLY = """
local field, limit = unpack(ARGV)
limit = tonumber(limit)
local t, tallied, longest, beyond = now(), {}, 0, 0
for _, key in ipairs(KEYS) do
  local r = redis.call('HMGET', key, field, 'due', 'verdict')
  if r[1] and not r[3] then
    tallied[r[1]] = (tallied[r[1]] or 0) + 1
    local late = r[2] and t - tonumber(r[2]) or 0
    if late > longest then longest = late end
    if late > limit then beyond = beyond + 1 end
  end
end
local reply = {stamp(longest), beyond}
for value, number in pairs(tallied) do
  reply[#reply + 1] = value
  reply[#reply + 1] = number
end
return reply
"""


@dataclass(frozen=True, slots=True)
class StateCounts:
    """How many hashes hold each value of a field, the most seconds that one is late, how many are beyond the limit."""

    numbers: dict[str, int]
    longest: float
    beyond: int


@dataclass(frozen=True, slots=True)
class CachedCounts:
    """What a worker tallied at `at` (epoch seconds): calls, pairs, since when each channel's oldest notice waits."""

    at: float
    calls: StateCounts
    pairs: StateCounts
    oldest: dict[str, float] = field(default_factory=dict)


class Metrics(OutboxScripts):
    """Reads of the counters, and tallies of what stands; all raise StoreUnavailable."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        self._tally = self.script(TALLY)

    def counters(self) -> dict[str, int]:
        """Return every counter by its field; one that never counted is absent."""
        with self.translated():
            fields = cast("dict[str, str]", self.client.hgetall(self.keys.counters))
        return {field: int(number) for field, number in fields.items()}

    def count(self, field: str) -> None:
        """Count one of something that no other step tells of."""
        with self.translated():
            self.client.hincrby(self.keys.counters, field, 1)

    def count_calls(self, *, limit: float) -> StateCounts:
        """Return how many watched calls stand at each status, and how late their polls are against `limit` seconds.

        By the records' own due times, so a poll under way counts as late until its end is written, and one that a limit
        of queries holds back counts as late as it is.
        """
        with self.translated():
            jobs = cast("list[str]", self.client.zrange(self.keys.due, 0, -1))
        return self._of([self.keys.job(job_id) for job_id in jobs], "call_status", limit)

    def count_pairs(self) -> StateCounts:
        """Return how many pairs that are not done are in each phase."""
        with self.translated():
            members = cast("list[str]", self.client.zrange(self.keys.pairs, 0, -1))
        return self._of([f"{self.keys.prefix}:ledger:{one}" for one in members], "phase", 0)

    def cache_counts(self, *, limit: float) -> bool:
        """Tally what stands and keep it for observers, unless a worker has done so within `TALLY_EVERY` seconds.

        Observers need no right to the records then, which hold person ids.
        """
        with self.translated():
            if not self.client.set(self.keys.tallying, "", nx=True, px=milliseconds(TALLY_EVERY)):
                return False
        calls, pairs = _without_odd_ones(self.count_calls(limit=limit)), self.count_pairs()
        oldest = {str(one.channel): one.oldest_at for one in self.notices() if one.oldest_at is not None}
        kept = CachedCounts(self.now(), calls, pairs, oldest)
        with self.translated():
            self.client.set(self.keys.tally, json.dumps(asdict(kept)), ex=TALLY_KEPT)
        return True

    def cached_counts(self) -> CachedCounts | None:
        """Return the last tally that was kept; None where no worker has kept one within a day."""
        with self.translated():
            text = cast("str | None", self.client.get(self.keys.tally))
        if text is None:
            return None
        kept = json.loads(text)
        return CachedCounts(kept["at"], StateCounts(**kept["calls"]), StateCounts(**kept["pairs"]), kept["oldest"])

    def _of(self, keys: Sequence[str], field: str, limit: float) -> StateCounts:
        numbers: dict[str, int] = {}
        longest, beyond = 0.0, 0
        for first in range(0, len(keys), BATCH):
            reply: Any = self.run(self._tally, keys[first : first + BATCH], [field, limit])
            late, over, *pairs = reply
            longest, beyond = max(longest, float(late)), beyond + int(over)
            for value, number in zip(*[iter(pairs)] * 2, strict=True):
                numbers[value] = numbers.get(value, 0) + int(number)
        return StateCounts(numbers, longest, beyond)


def _without_odd_ones(calls: StateCounts) -> StateCounts:
    """Return a tally of calls in which a status that upstream has made up, which may say anything, is `other`."""
    numbers: dict[str, int] = {}
    for status, number in calls.numbers.items():
        known = status if status in LABELS else "other"
        numbers[known] = numbers.get(known, 0) + number
    return replace(calls, numbers=numbers)

"""Read the metrics kept in Redis: each change is counted by its own script, once for all processes and across restarts.

One hash holds every counter as a field. A histogram has one field per bucket (its own values only, not cumulative) and
one for the sum in microseconds. Current totals are not counted; they are computed on request.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import redis

from worker.core.texts import LABELS
from worker.store.keys import Keys
from worker.store.outbox import OutboxScripts
from worker.store.terms import Terms, milliseconds

COUNT_INTERVAL = 5.0  # seconds between two updates of the cached counts
COUNTS_KEPT = 86_400  # seconds
BATCH = 1_000  # hashes per script: a millisecond or two of Redis' only thread

# Read only. Counts the values of one field over the hashes of a part of a sorted set, except those with a verdict, and
# how late they are by their due times. It returns totals only, so that ten thousand calls need ten short replies.
COUNT_VALUES = """
local set = unpack(KEYS)
local hashes, first, last, field, limit = unpack(ARGV)
limit = tonumber(limit)
local t, numbers, longest, beyond = now(), {}, 0, 0
local members = redis.call('ZRANGE', set, first, last)
for _, id in ipairs(members) do
  local r = redis.call('HMGET', hashes .. id, field, 'due', 'verdict')
  if r[1] and not r[3] then
    numbers[r[1]] = (numbers[r[1]] or 0) + 1
    local late = r[2] and t - tonumber(r[2]) or 0
    if late > longest then longest = late end
    if late > limit then beyond = beyond + 1 end
  end
end
local reply = {#members, stamp(longest), beyond}
for value, number in pairs(numbers) do
  reply[#reply + 1] = value
  reply[#reply + 1] = number
end
return reply
"""


@dataclass(frozen=True, slots=True)
class StateCounts:
    """Number of hashes per value of a field, the greatest lateness in seconds, and the number beyond the limit."""

    numbers: dict[str, int]
    longest: float
    beyond: int


@dataclass(frozen=True, slots=True)
class CachedCounts:
    """Counts that a worker cached at `at` (epoch seconds): calls, pairs, time of each channel's oldest notice."""

    at: float
    calls: StateCounts
    pairs: StateCounts
    oldest: dict[str, float] = field(default_factory=dict)


class Metrics(OutboxScripts):
    """Read counters and count current calls and pairs; all methods raise StoreUnavailable."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        self._count_values = self.script(COUNT_VALUES)

    def counters(self) -> dict[str, int]:
        """Return every counter by its field; a counter that is still zero is absent."""
        with self.translated():
            fields = cast("dict[str, str]", self.client.hgetall(self.keys.counters))
        return {field: int(number) for field, number in fields.items()}

    def count(self, field: str) -> None:
        """Count one event that no other script counts."""
        with self.translated():
            self.client.hincrby(self.keys.counters, field, 1)

    def count_calls(self, *, limit: float) -> StateCounts:
        """Return the number of watched calls per status, and the lateness of their polls against `limit` seconds.

        Lateness refers to the due times of the records: a poll in progress is late until its end is written, and so is
        a poll that the query limit holds back.
        """
        return self._of(self.keys.due, self.keys.job(""), "call_status", limit)

    def count_pairs(self) -> StateCounts:
        """Return the number of pairs per phase, without done ones."""
        return self._of(self.keys.pairs, f"{self.keys.prefix}:ledger:", "phase", 0)

    def cache_counts(self, *, limit: float) -> bool:
        """Cache the current counts for observers, unless a worker has done so within `COUNT_INTERVAL` seconds.

        Observers therefore need no right to read records, which hold person ids.
        """
        with self.translated():
            if not self.client.set(self.keys.counting, "", nx=True, px=milliseconds(COUNT_INTERVAL)):
                return False
        calls, pairs = _with_known_statuses(self.count_calls(limit=limit)), self.count_pairs()
        oldest = {str(one.channel): one.oldest_at for one in self.notices() if one.oldest_at is not None}
        kept = CachedCounts(self.now(), calls, pairs, oldest)
        with self.translated():
            self.client.set(self.keys.cached_counts, json.dumps(asdict(kept)), ex=COUNTS_KEPT)
        return True

    def cached_counts(self) -> CachedCounts | None:
        """Return the cached counts; None if no worker has cached any within a day."""
        with self.translated():
            text = cast("str | None", self.client.get(self.keys.cached_counts))
        if text is None:
            return None
        kept = json.loads(text)
        return CachedCounts(kept["at"], StateCounts(**kept["calls"]), StateCounts(**kept["pairs"]), kept["oldest"])

    def _of(self, key: str, hashes: str, field: str, limit: float) -> StateCounts:
        """Count over a sorted set; `hashes` is the start of the names of its members' hashes.

        A member that changes its place meanwhile may count twice or not at all.
        """
        numbers: dict[str, int] = {}
        longest, beyond = 0.0, 0
        first, members = 0, BATCH
        while members == BATCH:
            reply: Any = self.run(self._count_values, [key], [hashes, first, first + BATCH - 1, field, limit])
            members, late, over, *values = reply
            longest, beyond = max(longest, float(late)), beyond + int(over)
            for value, number in zip(*[iter(values)] * 2, strict=True):
                numbers[value] = numbers.get(value, 0) + int(number)
            first += BATCH
        return StateCounts(numbers, longest, beyond)


def _with_known_statuses(calls: StateCounts) -> StateCounts:
    """Return the counts with every status unknown to the contract as `other`; upstream may send any text."""
    numbers: dict[str, int] = {}
    for status, number in calls.numbers.items():
        known = status if status in LABELS else "other"
        numbers[known] = numbers.get(known, 0) + number
    return replace(calls, numbers=numbers)

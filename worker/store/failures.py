"""Remember the latest failed requests to upstream, of each kind: status queries and dials. Successes write nothing."""

from dataclasses import dataclass
from typing import Literal, cast

from worker.store.base import Scripts
from worker.store.terms import constants

FailureKind = Literal["query", "dial"]

FAILURES_KEPT = 86_400  # seconds
FAILURE_GAP = 600  # seconds without a failure after which the next one starts a new count

# Used by the scripts that store the end of a poll and of a dial.
FAILURES_LUA = (
    constants(FAILURES_KEPT=FAILURES_KEPT, FAILURE_GAP=FAILURE_GAP)
    + """
-- Add failed requests of a kind to those of the last minutes; the last reason replaces earlier ones.
local function note_failures(kind, reason, number, t)
  local key = PREFIX .. ':failed:' .. kind
  local last = redis.call('HGET', key, 'at')
  if not last or t - tonumber(last) > FAILURE_GAP then redis.call('HSET', key, 'since', stamp(t), 'number', 0) end
  redis.call('HSET', key, 'at', stamp(t), 'reason', reason)
  redis.call('HINCRBY', key, 'number', number)
  redis.call('EXPIRE', key, FAILURES_KEPT)
end

-- Remember that upstream answered a dial, if dials have failed lately.
local function note_answered_dial(t)
  local key = PREFIX .. ':failed:dial'
  if redis.call('EXISTS', key) == 1 then redis.call('HSET', key, 'answered_at', stamp(t)) end
end
"""
)


@dataclass(frozen=True, slots=True)
class Failures:
    """The latest failed requests of a kind: `number` from `since` to `at` (epoch seconds), and the last reason.

    `answered_at` is the time of the last answer, None if none came within a day.
    """

    number: int
    since: float
    at: float
    reason: str
    answered_at: float | None


class FailureQueries(Scripts):
    """Read the latest failures. Raises StoreUnavailable."""

    def failures(self, kind: FailureKind) -> Failures | None:
        """Return the latest failures of a kind; None if none was within a day."""
        with self.translated():
            found = cast("dict[str, str]", self.client.hgetall(self.keys.failed(kind)))
            answered = self.client.get(self.keys.good) if kind == "query" else found.get("answered_at")
        if not found:
            return None
        since, at, reason = float(found["since"]), float(found["at"]), found["reason"]
        return Failures(int(found["number"]), since, at, reason, float(str(answered)) if answered else None)

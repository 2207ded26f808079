"""Store histograms as fields of the counters' hash: one per bucket, and one for the sum in microseconds."""

from bisect import bisect_left

from api_client import Reason
from worker.core.poll_model import QueryResult, Timing

MICROSECONDS = 1_000_000

# Upper bounds in seconds, as texts, because they are names of fields. A poll should begin within a second of its due
# time.
LATENESS_BOUNDS = ("0.01", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "30", "60", "300")
LATENCY_BOUNDS = ("0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "30", "60", "120")
BEYOND = "Inf"

_LATENESS, _LATENCY = ([float(bound) for bound in bounds] for bounds in (LATENESS_BOUNDS, LATENCY_BOUNDS))

# Used by the only histogram whose seconds a script measures, between two scripts on Redis' clock.
OBSERVE = (
    f"local LATENCY = {{{', '.join(map(repr, LATENCY_BOUNDS))}}}"
    """
local function observe(name, seconds)
  local bucket = 'Inf'
  for _, bound in ipairs(LATENCY) do
    if seconds <= tonumber(bound) then bucket = bound break end
  end
  count(name .. ':' .. bucket)
  count(name .. ':sum', math.floor(math.max(0, seconds) * 1000000 + 0.5))
end
"""
)


def poll_counts(result: QueryResult, timing: Timing | None, reason: Reason | None) -> list[str | int]:
    """Return the counters that the end of a poll increases: field, number, field, number …, as the scripts take them.

    The bucket is found here, because Lua would spend as much of Redis' only thread on it as on the counting itself.
    """
    counts: list[str | int] = [f"polls:{result}", 1]
    if reason is not None:
        counts += (f"reasons:query:{reason}", 1)
    if timing is not None:
        late = max(0.0, timing.late)
        bucket = bisect_left(_LATENESS, late)
        name = LATENESS_BOUNDS[bucket] if bucket < len(_LATENESS) else BEYOND
        counts += (f"lateness:{name}", 1, "lateness:sum", round(late * MICROSECONDS))
        if timing.took is not None:
            bucket = bisect_left(_LATENCY, timing.took)
            name = LATENCY_BOUNDS[bucket] if bucket < len(_LATENCY) else BEYOND
            counts += (f"status_latency:{name}", 1, "status_latency:sum", round(timing.took * MICROSECONDS))
    return counts

"""Evaluate the upstream's request log: gaps, lateness, doubled and lost calls, figures. Pure: no clock."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

EARLY = 1.0  # seconds: a poll at most this much before its due time is on time (S20)
REISSUED = 1.5  # seconds beyond an interval from which a poll counts as late or reissued: more than any jitter
SOONEST = 1.9  # seconds from a poll whose worker died to its reissue: one lease
LOST_AFTER = 15.0  # seconds at the end of a run without a poll: the call is lost


@dataclass(frozen=True, slots=True)
class Watched:
    """A call in the upstream's log: sorted arrival times of its polls and the time of its end (epoch seconds)."""

    job_id: str
    arrivals: Sequence[float]
    ended_at: float = math.inf

    @property
    def end_seen(self) -> bool:
        """Whether a poll received the terminal status, so that no further one is due."""
        return bool(self.arrivals) and self.arrivals[-1] >= self.ended_at


def widest_gap(call: Watched, end: float) -> tuple[float, float]:
    """Return the longest time without a poll, in seconds, and its begin; the last gap lasts to the run's `end`.

    A call that was never polled has an infinite gap.
    """
    if not call.arrivals:
        return math.inf, -math.inf
    edges = [*call.arrivals] if call.end_seen else [*call.arrivals, end]
    return max(((later - earlier, earlier) for earlier, later in pairwise(edges)), default=(0.0, call.arrivals[0]))


def is_lost(call: Watched, end: float) -> bool:
    """Tell whether polls of a call stopped before the run's `end` although none received a terminal status."""
    return not call.end_seen and (not call.arrivals or call.arrivals[-1] < end - LOST_AFTER)


def count_doubled(call: Watched, interval: float, *, reissues: bool = True) -> int:
    """Count the polls without a due time of their own on the call's grid of `interval` seconds.

    A single chain serves each due time once; after a late poll it serves the newest passed one immediately. With
    `reissues`, a poll more than an interval after its predecessor may repeat that one's query, and so may one earlier
    poll of each call: its worker died before it stored the response.
    If there are too few polls to determine the grid, the grid with the lowest count applies.
    """
    grids = _grids(call.arrivals, interval)
    return min((_without_time(call.arrivals, interval, base, reissues) for base in grids), default=0)


def _without_time(arrivals: Sequence[float], interval: float, base: float, reissues: bool) -> int:
    previous = arrivals[0]
    late = _off_grid(previous, base, interval) > REISSUED
    served = math.floor((previous - base + EARLY) / interval) - (reissues and late)
    number, again = 0, reissues
    for at in arrivals[1:]:
        wanted = max(served + 1, math.floor((previous - base) / interval))
        if not (reissues and at - previous > interval + REISSUED):
            if at >= base + wanted * interval - EARLY:
                served = wanted
            elif again and at - previous >= SOONEST:
                again = False
            else:
                number += 1
        previous = at
    return number


def grid(arrivals: Sequence[float], interval: float) -> float:
    """Return the arrival whose grid of `interval` seconds has the most arrivals on time and the least lateness."""
    return min(_grids(arrivals, interval), key=lambda base: sum((at - base) % interval for at in arrivals))


def _grids(arrivals: Sequence[float], interval: float) -> list[float]:
    on_time = {base: sum(_off_grid(at, base, interval) <= EARLY for at in arrivals) for base in arrivals}
    return [base for base, number in on_time.items() if number == max(on_time.values())]


def latest(call: Watched, interval: float, end: float) -> tuple[float, float]:
    """Return the lateness of the latest poll, in seconds, and its due time on the call's own grid.

    Each due time is served by the first poll at or after it, so a skipped due time counts as late too.
    """
    if not call.arrivals:
        return math.inf, -math.inf
    first = call.arrivals[0]
    due = first - _off_grid(first, grid(call.arrivals, interval), interval)
    last = call.arrivals[-1] if call.end_seen else end
    late = []
    while due <= last:
        served = next((at for at in call.arrivals if at >= due - EARLY), end)
        late.append((served - due, due))
        due += interval
    return max(late)


def longest_return(calls: Iterable[Watched], back: float) -> float:
    """Return the seconds from `back` until every call had been polled again; infinite if one never was."""
    return max((next((at for at in call.arrivals if at >= back), math.inf) - back for call in calls), default=math.inf)


def longest_silence(calls: Iterable[Watched], begin: float, end: float) -> float:
    """Return the longest time between `begin` and `end` without a poll of any call, in seconds."""
    seen = sorted(at for call in calls for at in call.arrivals if begin <= at < end)
    return max(later - earlier for earlier, later in pairwise([begin, *seen, end]))


def _off_grid(at: float, base: float, interval: float) -> float:
    return (at - base + EARLY) % interval - EARLY


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the report; `passed` is None if the row has no goal."""

    name: str
    goal: str
    measured: str
    passed: bool | None


def at_most(name: str, value: float, limit: float, unit: str = "") -> Figure:
    """Return a figure that passes up to its limit."""
    return Figure(name, f"≤ {_text(limit, unit)}", _text(value, unit), value <= limit)


def at_least(name: str, value: float, limit: float, unit: str = "") -> Figure:
    """Return a figure that passes from its limit on."""
    return Figure(name, f"≥ {_text(limit, unit)}", _text(value, unit), value >= limit)


def exactly(name: str, value: float, wanted: float) -> Figure:
    """Return a figure that passes at one value only."""
    return Figure(name, _text(wanted, ""), _text(value, ""), value == wanted)


def for_information(name: str, measured: str) -> Figure:
    """Return a row without a goal that helps to interpret the others."""
    return Figure(name, "-", measured, None)


def _text(value: float, unit: str) -> str:
    number = str(value) if isinstance(value, int) else f"{value:.2f}"
    return f"{number} {unit}".strip()

"""What the upstream's request log says of watched calls: gaps, lateness, doubled and lost calls. Pure: no clock."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

EARLY = 1.0  # seconds: a poll that comes at most this much before its time is on time (S20)
REISSUED = 1.5  # seconds beyond an interval after which a poll is a late or a reissued one: above all jitter
SOONEST = 1.9  # seconds from a poll that died at work to the one that asks again: a lease
LOST_AFTER = 15.0  # seconds at the end of a run without a poll: the call is lost


@dataclass(frozen=True, slots=True)
class Watched:
    """A call as the upstream saw it: when its polls arrived, in order, and from when on the call had ended.

    All times are epoch seconds.
    """

    job_id: str
    arrivals: Sequence[float]
    ended_at: float = math.inf

    @property
    def told(self) -> bool:
        """Whether a poll was told of the end: no further one need come."""
        return bool(self.arrivals) and self.arrivals[-1] >= self.ended_at


def widest_gap(call: Watched, end: float) -> tuple[float, float]:
    """Return the longest time without a poll, in seconds, and when it began; the last one lasts to the run's `end`.

    A call that was never polled has an endless gap.
    """
    if not call.arrivals:
        return math.inf, -math.inf
    edges = [*call.arrivals] if call.told else [*call.arrivals, end]
    return max(((later - earlier, earlier) for earlier, later in pairwise(edges)), default=(0.0, call.arrivals[0]))


def is_lost(call: Watched, end: float) -> bool:
    """Tell whether nobody watches a call any more at the run's `end`, though it was never told to have ended."""
    return not call.told and (not call.arrivals or call.arrivals[-1] < end - LOST_AFTER)


def count_doubled(call: Watched, interval: float, *, reissues: bool = True) -> int:
    """Return how many polls had no time of their own on the call's grid of `interval` seconds.

    One chain serves each time on its grid once, after a late poll the newest that has passed at once. Where `reissues`
    are allowed, a poll that comes later than an interval after the one before may ask once more what that one asked,
    and so may one poll of each call that comes sooner: its worker died before it had stored the answer.
    Where there are too few polls to know the grid, the one that leaves the fewest without a time is taken.
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
    """Return the arrival on whose grid of `interval` seconds the most others are on time; of several, the earliest."""
    return min(_grids(arrivals, interval), key=lambda base: sum((at - base) % interval for at in arrivals))


def _grids(arrivals: Sequence[float], interval: float) -> list[float]:
    on_time = {base: sum(_off_grid(at, base, interval) <= EARLY for at in arrivals) for base in arrivals}
    return [base for base, number in on_time.items() if number == max(on_time.values())]


def latest(call: Watched, interval: float, end: float) -> tuple[float, float]:
    """Return how late the latest poll came, in seconds after its time on the call's own grid, and what that time was.

    Each time on the grid waits for the first poll at or after it, so that a time left out counts as well.
    """
    if not call.arrivals:
        return math.inf, -math.inf
    first = call.arrivals[0]
    due = first - _off_grid(first, grid(call.arrivals, interval), interval)
    last = call.arrivals[-1] if call.told else end
    late = []
    while due <= last:
        served = next((at for at in call.arrivals if at >= due - EARLY), end)
        late.append((served - due, due))
        due += interval
    return max(late)


def longest_return(calls: Iterable[Watched], back: float) -> float:
    """Return how many seconds after `back` the last of all calls was polled again; endless where one never was."""
    return max((next((at for at in call.arrivals if at >= back), math.inf) - back for call in calls), default=math.inf)


def longest_silence(calls: Iterable[Watched], begin: float, end: float) -> float:
    """Return the longest time between `begin` and `end` in which no call at all was polled, in seconds."""
    seen = sorted(at for call in calls for at in call.arrivals if begin <= at < end)
    return max(later - earlier for earlier, later in pairwise([begin, *seen, end]))


def _off_grid(at: float, base: float, interval: float) -> float:
    return (at - base + EARLY) % interval - EARLY


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report; `passed` is None where nothing is to be reached."""

    name: str
    goal: str
    measured: str
    passed: bool | None


def at_most(name: str, value: float, limit: float, unit: str = "") -> Figure:
    """Return a figure that is good up to its limit."""
    return Figure(name, f"≤ {_text(limit, unit)}", _text(value, unit), value <= limit)


def at_least(name: str, value: float, limit: float, unit: str = "") -> Figure:
    """Return a figure that is good from its limit on."""
    return Figure(name, f"≥ {_text(limit, unit)}", _text(value, unit), value >= limit)


def exactly(name: str, value: float, wanted: float) -> Figure:
    """Return a figure that has one good value."""
    return Figure(name, _text(wanted, ""), _text(value, ""), value == wanted)


def for_information(name: str, measured: str) -> Figure:
    """Return a line that helps to read the others."""
    return Figure(name, "-", measured, None)


def _text(value: float, unit: str) -> str:
    number = str(value) if isinstance(value, int) else f"{value:.2f}"
    return f"{number} {unit}".strip()

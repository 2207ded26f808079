"""The scripted life of a call: its status at each age. Pure: no clock, time is an argument."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

TERMINAL = frozenset({"Succeeded", "Failed", "Cancelled"})


class Step(NamedTuple):
    """The status of the call from the age of `after` seconds on."""

    status: str
    after: float


@dataclass(frozen=True, slots=True)
class Life:
    """The steps of a life, the first at age 0, each later than the one before."""

    steps: tuple[Step, ...]

    def status_at(self, age: float) -> str:
        """Return the status at this age in seconds; a negative age has the first status."""
        status = self.steps[0].status
        for step in self.steps[1:]:
            if age < step.after:
                break
            status = step.status
        return status

    def cut(self, status: str, age: float) -> "Life":
        """Return the same life with this status from this age on, instead of the later steps."""
        age = max(age, 0.0)
        lived = tuple(step for step in self.steps if step.after < age)
        return Life((*lived, Step(status, age)))

    @property
    def ends(self) -> float:
        """The age at which the call ends; infinite for an endless call."""
        return next((step.after for step in self.steps if step.status in TERMINAL), math.inf)

    @property
    def talk(self) -> tuple[float, float] | None:
        """The ages at which the talk begins and ends; None without a talk.

        A success without Executing was Executing between two queries: its talk is the second half of its life.
        """
        for step, following in zip(self.steps, (*self.steps[1:], Step("", math.inf)), strict=True):
            if step.status == "Executing":
                return step.after, following.after
            if step.status == "Succeeded":
                return step.after / 2, step.after
        return None


def _life(*steps: tuple[str, float]) -> Life:
    return Life(tuple(Step(status, after) for status, after in steps))


# Real calls: 9 to 22 s from creation to the first word, 2 to 34 s of talk.
LIVES = {
    "normal": _life(("Scheduling", 0), ("Executing", 12), ("Succeeded", 32)),
    "failed": _life(("Scheduling", 0), ("Failed", 25)),
    "cancelled": _life(("Scheduling", 0), ("Cancelled", 8)),
    "endless": _life(("Scheduling", 0)),
    "talking": _life(("Scheduling", 0), ("Executing", 12)),
    "paused": _life(("Scheduling", 0), ("Paused", 5)),
    "drafted": _life(("Drafted", 0)),
    "blink": _life(("Scheduling", 0), ("Succeeded", 6)),
    "unknown": _life(("Scheduling", 0), ("Transferring", 5)),
}


def parse_life(value: object) -> Life:
    """Return the life of this name or of these [status, seconds] pairs; ValueError names the fault."""
    if isinstance(value, Life):
        return value
    if isinstance(value, str):
        if value not in LIVES:
            raise ValueError(f"no life is called {value!r}; there are {', '.join(LIVES)}")
        return LIVES[value]
    if not isinstance(value, list) or not value:
        raise ValueError("must be the name of a life or a list of [status, seconds] pairs")
    steps = tuple(_step(pair) for pair in value)
    ages = [step.after for step in steps]
    if ages[0] != 0 or any(later <= earlier for earlier, later in pairwise(ages)):
        raise ValueError("the first step must be at 0 seconds and each later than the one before")
    return Life(steps)


def _step(pair: object) -> Step:
    if isinstance(pair, Sequence) and len(pair) == len(Step._fields):
        status, after = pair
        number = isinstance(after, int | float) and not isinstance(after, bool) and math.isfinite(after)
        if isinstance(status, str) and status and number:
            return Step(status, float(after))
    raise ValueError("each step must be a pair of a status and seconds")


@dataclass(slots=True)
class LifeClock:
    """The clock of all lives: real time, `speed` times as fast, without a jump when the speed changes."""

    speed: float = 1.0
    _since: float = 0.0
    _lived: float = 0.0

    def lived(self, now: float) -> float:
        """Return the seconds of this clock at the real time `now` (epoch seconds)."""
        return self._lived + (now - self._since) * self.speed

    def set_speed(self, speed: float, now: float) -> None:
        """Set the speed from `now` (epoch seconds) on."""
        self._lived, self._since, self.speed = self.lived(now), now, speed

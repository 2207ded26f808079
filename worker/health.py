"""A worker's sign of life: given while it does its work, and not merely while it is up. No Celery, no Redis."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

TICK = 1.0  # seconds between two turns of the event loop's timer


@dataclass(frozen=True, slots=True)
class Load:
    """What there is to do for a worker and what it does.

    `waiting` messages in its queues, `taken` tasks begun since its start, `full` while each of its threads has one.
    """

    waiting: int
    taken: int
    full: bool


class Beat:
    """Judges whether a worker works, on its own monotonic clock in seconds.

    It works while its event loop turns, and while it takes what waits in its queues: polls that are due and that
    nobody carries out come to wait there, for the sweep publishes them again. A worker with all hands full is excused
    for `longest`, the seconds that one task may take; `limit` is for how long nothing need happen otherwise.
    """

    def __init__(self, *, limit: float, longest: float, now: float) -> None:
        self._limit = limit
        self._longest = longest
        self._turned = self._worked = now
        self._taken = 0

    def tick(self, now: float) -> None:
        """Note that the event loop has turned."""
        self._turned = now

    def trouble(self, load: Load, now: float) -> str | None:
        """Return why the worker does not count as working, None where it does."""
        if not load.waiting or load.taken != self._taken:
            self._worked = now
        self._taken = load.taken
        if now - self._turned > self._limit:
            return f"the event loop has not turned for {now - self._turned:.0f} s"
        idle = now - self._worked
        if idle > self._limit + (self._longest if load.full else 0):
            return f"{load.waiting} messages wait and none has been taken for {idle:.0f} s"
        return None


class Sign:
    """The file that tells of the work, for `callwatch healthcheck`.

    Its time of change is that of the last sign, its text the seconds for which a sign holds.
    """

    def __init__(self, file: Path, holds: float) -> None:
        self._file = file
        self._text = f"{holds:g}\n"
        self._told: str | None = None

    def give(self, judge: Callable[[], str | None]) -> None:
        """Give a sign unless `judge` finds trouble; a trouble is logged once. Never raises."""
        try:
            trouble = judge()
            if trouble is None:
                self._write()
        except Exception as error:  # noqa: BLE001 - the sweep goes on whatever becomes of its sign
            trouble = f"{type(error).__name__}: {error}"
        kind = trouble and trouble.translate(_NO_DIGITS)
        if kind != self._told:
            log.warning("unhealthy: %s", trouble) if trouble else log.warning("healthy again")
        self._told = kind

    def withdraw(self) -> None:
        """Take the sign of an earlier worker away, and one's own at the end."""
        self._file.unlink(missing_ok=True)

    def _write(self) -> None:
        new = self._file.with_name(f"{self._file.name}.new")
        new.write_text(self._text, encoding="utf-8")
        os.replace(new, self._file)  # whole at any moment


_NO_DIGITS = str.maketrans("", "", "0123456789")

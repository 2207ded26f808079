"""A worker's sign of life: given while it does its work, and not merely while it is up. No Celery, no Redis."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

TICK = 1.0  # seconds between two turns of the event loop's timer
STALLED = 3 * TICK
SUCCESS_WITHIN = 5.0  # seconds that one turn of the sweep or the dispatcher may take


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """What there is to do for a worker in one queue: messages `waiting`, and tasks of it `taken` since its start."""

    waiting: int
    taken: int


class Heartbeat:
    """Judges at each look whether a worker works; all times are seconds of its own monotonic clock.

    It works if its event loop turns, if each thread in `succeed_within` (seconds between two of its turns) has
    succeeded lately, and if in each of its queues nothing waits or it has taken something since the
    last look: polls that are due come to wait there, for the dispatchers publish them.
    A worker with all hands full is excused for `longest`, the seconds that one task may take.
    """

    def __init__(self, *, longest: float, now: float, succeed_within: Mapping[str, float] | None = None) -> None:
        self._longest = longest
        self._limits = {name: SUCCESS_WITHIN + 3 * turn for name, turn in (succeed_within or {}).items()}
        self._succeeded = dict.fromkeys(self._limits, now)
        self._start = self._turned = now
        self._worked: dict[str, float] = {}
        self._taken: dict[str, int] = {}

    def tick(self, now: float) -> None:
        """Note that the event loop has turned."""
        self._turned = now

    def succeeded(self, thread: str, now: float) -> None:
        """Note that a thread has done its work once."""
        self._succeeded[thread] = now

    def trouble(self, loads: Mapping[str, QueueLoad], now: float, *, full: bool) -> str | None:
        """Return why the worker is not seen working, None where it is.

        `loads` holds its queues by name; `full` says that each of its threads has a task.
        """
        for queue, load in loads.items():
            if not load.waiting or load.taken != self._taken.get(queue, 0):
                self._worked[queue] = now
            self._taken[queue] = load.taken
        if now - self._turned > STALLED:
            return f"the event loop has not turned for {now - self._turned:.0f} s"
        for name, limit in self._limits.items():
            if now - self._succeeded[name] > limit:
                return f"the {name} has not succeeded for {now - self._succeeded[name]:.0f} s"
        for queue, load in loads.items():
            idle = now - self._worked.get(queue, self._start)
            if idle > (self._longest if full else 0):
                return f"{load.waiting} messages wait in {queue} and none has been taken for {idle:.0f} s"
        return None


class HealthFile:
    """The file that tells `callwatch healthcheck` of work: when it was last seen is the time of the file's change.

    The file's text is for how many seconds that holds.
    """

    def __init__(self, file: Path, *, holds: float, now: float) -> None:
        self._file = file
        self._holds = holds
        self._given = now
        self._healthy = True

    def give(self, judge: Callable[[], str | None], *, now: float) -> None:
        """Give a sign unless `judge` finds trouble; trouble that lasts is logged, once. Never raises."""
        try:
            trouble = judge()
            if trouble is None:
                self._write()
                self._given = now
        except Exception as error:  # noqa: BLE001 - the sweep goes on whatever becomes of its sign
            trouble = f"{type(error).__name__}: {error}"
        healthy = now - self._given <= self._holds
        if healthy != self._healthy:
            log.warning("healthy again") if healthy else log.error("unhealthy: %s", trouble)
        self._healthy = healthy

    def withdraw(self) -> None:
        """Take the file away: an earlier worker's at the start, one's own at the end."""
        with contextlib.suppress(OSError):  # what is in its place is told of when a sign is to be given
            self._file.unlink()

    def _write(self) -> None:
        """Write it whole at any moment: a new file under a name that cannot be foreseen, then the change of names.

        No link is followed, neither in that name's place nor in the file's own.
        """
        number, name = tempfile.mkstemp(prefix=f".{self._file.name}.", dir=self._file.parent)
        try:
            with open(number, "w", encoding="utf-8") as new:  # noqa: PTH123 - it is open already
                os.fchmod(number, 0o644)  # the health check may be another user's
                new.write(f"{self._holds:g}\n")
            Path(name).replace(self._file)
        except BaseException:
            Path(name).unlink()
            raise

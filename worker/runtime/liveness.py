"""Health of a worker: check that it works, and keep its health file current. No Celery, no Redis."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

TICK = 1.0  # seconds between two heartbeats of the event loop
RESTART_AFTER = 300.0  # seconds for which a worker may be unhealthy while Redis works, before it ends
ASLEEP = 60.0  # seconds between two heartbeats after which the process was suspended
STALLED = 3 * TICK  # seconds without a heartbeat after which the event loop counts as blocked
SUCCESS_WITHIN = 5.0  # seconds that one round of the sweep or the dispatcher may take


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """Load of one queue: messages `waiting` in it, and tasks that the worker has `taken` from it since its start."""

    waiting: int
    taken: int


class Heartbeat:
    """Check whether a worker works; all times are seconds of its own monotonic clock.

    The worker is healthy if its event loop runs, each thread in `succeed_within` (seconds between two of its rounds)
    has succeeded recently, and each of its queues is empty or the worker has taken a task from it since the last check.
    Due polls reach these queues too, because the dispatchers publish them. While every thread of the pool has a task,
    messages may wait for `longest`, the seconds that one task may take.
    """

    def __init__(self, *, longest: float, now: float, succeed_within: Mapping[str, float] | None = None) -> None:
        self._longest = longest
        self._limits = {name: SUCCESS_WITHIN + 3 * pause for name, pause in (succeed_within or {}).items()}
        self._succeeded = dict.fromkeys(self._limits, now)
        self._start = self._loop_ran_at = now
        self._worked: dict[str, float] = {}
        self._taken: dict[str, int] = {}

    def tick(self, now: float) -> None:
        """Record a heartbeat of the event loop."""
        self._loop_ran_at = now

    def succeeded(self, thread: str, now: float) -> None:
        """Record that a thread has completed a round."""
        self._succeeded[thread] = now

    def fault(self, loads: Mapping[str, QueueLoad], now: float, *, full: bool) -> str | None:
        """Return why the worker is unhealthy, or None.

        `loads` holds the worker's queues by name; `full` says that each thread of its pool has a task.
        """
        for queue, load in loads.items():
            if not load.waiting or load.taken != self._taken.get(queue, 0):
                self._worked[queue] = now
            self._taken[queue] = load.taken
        if now - self._loop_ran_at > STALLED:
            return f"the event loop has not run for {now - self._loop_ran_at:.0f} s"
        for name, limit in self._limits.items():
            if now - self._succeeded[name] > limit:
                return f"the {name} has not succeeded for {now - self._succeeded[name]:.0f} s"
        for queue, load in loads.items():
            idle = now - self._worked.get(queue, self._start)
            if idle > (self._longest if full else 0):
                return f"{load.waiting} messages wait in {queue} and none has been taken for {idle:.0f} s"
        return None


class RestartTimer:
    """Decide when an unhealthy worker must end, so that its supervisor starts a new one; times of its monotonic clock.

    Neither a failed Redis counts, nor a time in which the process was suspended.
    """

    def __init__(self, now: float) -> None:
        self._from = self._seen = now

    def reset(self, now: float) -> None:
        """Restart the timer: the worker is healthy, or Redis is the reason that it is not."""
        self._from = now

    def has_expired(self, now: float) -> bool:
        """Return whether the worker has been unhealthy for `RESTART_AFTER`, and reset the timer then."""
        if now - self._seen > ASLEEP:
            self.reset(now)
        self._seen = now
        if now - self._from <= RESTART_AFTER:
            return False
        self.reset(now)
        return True


class HealthFile:
    """The file that `callwatch healthcheck` reads: its modification time is the time of the last successful check.

    Its text is `valid_for`, the seconds for which that check is valid.
    """

    def __init__(self, file: Path, *, valid_for: float, now: float) -> None:
        self._file = file
        self._valid_for = valid_for
        self._checked_at = now
        self._healthy = True

    def renew(self, check: Callable[[], str | None], *, now: float) -> bool:
        """Renew the file and return True if `check` returns no fault; log once when the worker becomes unhealthy.

        Never raises.
        """
        try:
            fault = check() or self._write()
            if fault is None:
                self._checked_at = now
        except Exception as error:  # noqa: BLE001 - a failed health check must not end the thread of the sweep
            fault = f"{type(error).__name__}: {error}"
        healthy = now - self._checked_at <= self._valid_for
        if healthy != self._healthy:
            log.warning("healthy again") if healthy else log.error("unhealthy: %s", fault)
        self._healthy = healthy
        return fault is None

    def remove(self) -> None:
        """Remove the file: at the start one of an earlier worker, at the end this worker's own."""
        with contextlib.suppress(OSError):  # an error in its place is logged when the file is written
            self._file.unlink()

    def _write(self) -> str | None:
        """Replace the file; return why it cannot be written, or None."""
        try:
            self._replace()
        except OSError as error:
            return f"{self._file} cannot be written: {error.strerror or error}"
        return None

    def _replace(self) -> None:
        """Replace the file atomically: write a temporary file with an unpredictable name, then rename it.

        No symbolic link is followed, neither at the temporary name nor at the file's own.
        """
        number, name = tempfile.mkstemp(prefix=f".{self._file.name}.", dir=self._file.parent)
        try:
            with open(number, "w", encoding="utf-8") as new:  # noqa: PTH123 - a file descriptor, not a path
                os.fchmod(number, 0o644)  # the health check may run as another user
                new.write(f"{self._valid_for:g}\n")
            Path(name).replace(self._file)
        except BaseException:
            Path(name).unlink()
            raise

"""Which poll goes next in a worker, and how many are at work at once; see docs/adr/0014-line.md."""

import heapq
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Work = Callable[[], object]

log = logging.getLogger(__name__)

_this_thread = threading.local()


class Line:
    """Polls that wait for a thread, the longest overdue first; not more than `most` of them are at work at once.

    `start` has a thread run what it is given. A thread goes on with the next poll until none is left.
    """

    def __init__(self, most: int, start: Callable[[Work], object]) -> None:
        self._most = most
        self._start = start
        self._at_work = 0  # more than `most` when several come back at once from where they waited
        self._polls: list[tuple[float, int, Work]] = []
        self._numbers = itertools.count()  # of two that are due at the same time the first to come goes first
        self._lock = threading.Lock()
        self._closed = False

    def put(self, work: Work, *, due: float) -> None:
        """Let a poll wait for its turn; `due` is when it should begin, in epoch seconds."""
        with self._lock:
            if not self._closed:
                heapq.heappush(self._polls, (due, next(self._numbers), work))
                self._serve()

    def close(self) -> None:
        """Begin no other poll: those that wait, and those still to come, are dropped."""
        with self._lock:
            self._closed = True
            self._polls.clear()

    def step_out(self) -> None:
        """Make room for another poll."""
        with self._lock:
            self._at_work -= 1
            self._serve()

    def come_back(self) -> None:
        """Go on at once: a poll that has its answer is not kept waiting by one that has not begun."""
        with self._lock:
            self._at_work += 1

    def _serve(self) -> None:
        """Send a thread if one is wanted; the lock is held, so that none is sent for after `close`."""
        if self._polls and self._at_work < self._most:
            self._at_work += 1
            self._start(self._run)

    def _run(self) -> None:
        _this_thread.line = self
        while work := self._next():
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - whatever became of it, the next one has to be carried out
                log.error("poll failed: %s: %s", type(error).__name__, error)  # noqa: TRY400 - its trace is Celery's
        _this_thread.line = None

    def _next(self) -> Work | None:
        with self._lock:
            if self._polls and self._at_work <= self._most:
                return heapq.heappop(self._polls)[2]
            self._at_work -= 1
            return None


@contextmanager
def waiting() -> Iterator[None]:
    """Make room for other polls while the one of this thread waits; in another pool than ours nothing happens."""
    line: Line | None = getattr(_this_thread, "line", None)
    if line is None:
        yield
        return
    try:
        line.step_out()
        yield
    finally:
        line.come_back()

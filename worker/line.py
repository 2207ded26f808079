"""Who goes next among a worker's tasks, and how many polls are at work at once; see docs/adr/0014-line.md."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Work = Callable[[], object]

_this_thread = threading.local()


class Line:
    """Tasks that wait for a thread: polls that were missed before other polls, and so many of all at work at once.

    Whatever is no poll takes turns with them and is not counted: a dial may last a minute and a half.
    """

    def __init__(self, at_work: int) -> None:
        self._places = at_work  # that are free; below zero when several come back at once from where they waited
        self._missed: deque[Work] = deque()
        self._polls: deque[Work] = deque()
        self._others: deque[Work] = deque()
        self._others_turn = True
        self._changed = threading.Condition()

    def put(self, work: Work, *, poll: bool, missed: bool = False) -> None:
        """Let a task wait for its turn."""
        with self._changed:
            (self._others if not poll else self._missed if missed else self._polls).append(work)
            if not poll or self._places > 0:
                self._changed.notify()

    def run_next(self) -> None:
        """Wait until a task may run, and run it; to be called once for each that was put here."""
        with self._changed:
            self._changed.wait_for(lambda: self._others or self._may_poll())
            is_poll = self._may_poll() and not (self._others and self._others_turn)
            self._others_turn = is_poll
            if not is_poll:
                work = self._others.popleft()
            else:
                work = (self._missed or self._polls).popleft()
                self._places -= 1
        if not is_poll:
            work()
            return
        _this_thread.line = self
        try:
            work()
        finally:
            _this_thread.line = None
            self.step_out()

    def step_out(self) -> None:
        """Make room for another poll."""
        with self._changed:
            self._places += 1
            if self._may_poll():  # to wake a thread in vain costs a change of threads
                self._changed.notify()

    def come_back(self) -> None:
        """Go on at once: a poll that has its answer is not kept waiting by one that has not begun."""
        with self._changed:
            self._places -= 1

    def _may_poll(self) -> bool:
        return self._places > 0 and bool(self._missed or self._polls)


@contextmanager
def waiting() -> Iterator[None]:
    """Make room for other polls while the one of this thread waits; in another pool than ours nothing happens."""
    line: Line | None = getattr(_this_thread, "line", None)
    if line is None:
        yield
        return
    line.step_out()
    try:
        yield
    finally:
        line.come_back()

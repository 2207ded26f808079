"""Ctrl-C and its like for a program that has something to stop: the first asks, the second insists."""

import os
import select
import signal
import time
from types import FrameType, TracebackType
from typing import Any, Self

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO = 0.5  # seconds: `make` passes on what the terminal has sent to everybody already; that is no second signal


class Signals:
    """Within its block a first signal makes `stopped` true and ends `wait`; a second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self._first: float | None = None
        self.insisted = False

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._reader, self._writer = os.pipe()
        self._before: dict[int, Any] = {number: signal.signal(number, self._note) for number in ASKING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Listen no more."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)

    @property
    def stopped(self) -> bool:
        """Whether a signal has come."""
        return self._first is not None

    def wait(self, seconds: float) -> bool:
        """Wait that long or until a signal comes; return whether one has."""
        select.select([self._reader], [], [], seconds)
        return self.stopped

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            os.write(self._writer, b"!")  # stays there: every later wait returns at once
        elif now > self._first + ECHO:
            self.insisted = True
            raise KeyboardInterrupt

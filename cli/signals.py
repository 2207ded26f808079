"""Handle SIGINT, SIGTERM and SIGHUP: the first asks the program to stop, the second interrupts it."""

import os
import select
import signal
import time
from types import FrameType, TracebackType
from typing import Any, Self

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO = 0.5  # seconds in which a signal counts as a copy: `make` forwards the terminal's signal to its child once more


class Signals:
    """Within the block the first signal sets `stopped` and ends `wait`; a second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self._first: float | None = None
        self.insisted = False

    def __enter__(self) -> Self:
        """Install the handlers."""
        self._reader, self._writer = os.pipe()
        self._before: dict[int, Any] = {number: signal.signal(number, self._note) for number in ASKING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)

    @property
    def stopped(self) -> bool:
        """Whether a signal has arrived."""
        return self._first is not None

    def wait(self, seconds: float) -> bool:
        """Wait for a signal, at most this long; return whether one has arrived."""
        select.select([self._reader], [], [], seconds)
        return self.stopped

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            os.write(self._writer, b"!")  # stays in the pipe: every later wait returns at once
        elif now > self._first + ECHO:
            self.insisted = True
            raise KeyboardInterrupt

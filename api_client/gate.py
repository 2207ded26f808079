"""Decide right before the first byte whether a dial may be sent, and know afterwards whether it can have been sent."""

import time
from collections.abc import Callable
from enum import Enum, auto

MAX_SEND_DELAY = 2.0
"""Longest time in seconds from the start of `before_send` to the first byte; after it nothing is sent (S18)."""


_UPTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A clock that continues while the machine is suspended: on Linux not the monotonic one, on macOS that one."""


class GateShutError(Exception):
    """The gate is shut: nothing was sent. Not an OSError, which urllib3 would treat as a lost connection."""


class _State(Enum):
    IDLE = auto()  # the request has not been passed to a library
    ARMED = auto()  # the request has been passed to a library, the gate was not asked: it may have been sent
    UNREACHED = auto()  # no connection was established
    OPEN = auto()  # the gate was asked, and `before_send` has returned
    SHUT = auto()
    PASSED = auto()


class Gate:
    """Run `before_send` on the established connection, then let exactly one request pass, within the limit (S18).

    Only certain states prove that nothing was sent; a request that bypassed the gate proves nothing.
    """

    def __init__(self, before_send: Callable[[], None]) -> None:
        self._before_send = before_send
        self._state = _State.IDLE
        self._asked_at = (0.0, 0.0)
        self.refusal: Exception | None = None
        """The exception of `before_send`."""

    @property
    def passed(self) -> bool:
        """Whether the request went through the gate and may have been sent."""
        return self._state is _State.PASSED

    @property
    def proves_nothing_was_sent(self) -> bool:
        """Whether a retry cannot ring a phone twice (S12)."""
        return self._state in {_State.IDLE, _State.UNREACHED, _State.SHUT}

    def arm(self) -> None:
        """Record that the request is passed to the library."""
        self._state = _State.ARMED

    def not_reached(self) -> None:
        """Record that a connection was not established, so that nothing was sent on it."""
        if self._state is _State.ARMED:
            self._state = _State.UNREACHED

    def ask(self) -> None:
        """Run `before_send` on the established connection; GateShutError if it raises or has run before."""
        if self._state not in {_State.ARMED, _State.UNREACHED}:
            raise self.shut()
        self._asked_at = (
            _clocks()
        )  # before the ledger is written: a process that is suspended in between must not dial late
        try:
            self._before_send()
        except Exception as error:  # noqa: BLE001  stored, because urllib3 wraps exceptions that look like network errors
            self.refusal = error
            raise self.shut() from None
        self._state = _State.OPEN

    def let_pass(self) -> None:
        """Let the first byte of the request pass; GateShutError if the gate was not asked, or too long ago."""
        if self._state is not _State.OPEN or self._age() > MAX_SEND_DELAY:
            raise self.shut()
        self._state = _State.PASSED

    def _age(self) -> float:
        """Return the seconds since the start of `before_send`, by the clock that counted more."""
        return max(now - then for now, then in zip(_clocks(), self._asked_at, strict=True))

    def shut(self) -> GateShutError:
        """Shut the gate and return the error to raise; a request that has passed stays passed."""
        if not self.passed:
            self._state = _State.SHUT
        return GateShutError()


def _clocks() -> tuple[float, float]:
    """Return the seconds of two clocks: since boot, and of the wall clock.

    The first cannot be set back. The second is corrected after a virtual machine was suspended from outside, with all
    of its clocks. A wall clock that is set forward costs one attempt that sends nothing.
    """
    return time.clock_gettime(_UPTIME), time.time()

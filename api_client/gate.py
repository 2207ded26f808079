"""Decide at the last moment whether a dial's request may leave, and know afterwards whether it can have left."""

import time
from collections.abc import Callable
from enum import Enum, auto

MAX_SEND_DELAY = 2.0
"""Seconds between the start of `before_send` and the first byte, above which nothing is sent (S18)."""


_UPTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""The clock that goes on while a machine is suspended: where Linux' monotonic one does not, that of macOS does."""


class GateShutError(Exception):
    """The gate let nothing pass. No OSError: urllib3 would take it for a lost connection."""


class _State(Enum):
    IDLE = auto()  # no library has been handed the request
    ARMED = auto()  # one has, and the gate was not asked: what became of the request is not known
    UNREACHED = auto()  # the connection never stood
    OPEN = auto()  # asked, and `before_send` has returned
    SHUT = auto()
    PASSED = auto()


class Gate:
    """Run `before_send` when the connection stands, and let one request pass, ever, and only if that was quick (S18).

    Whatever does not prove that nothing was sent leaves it unproven: a request that went around the gate included.
    """

    def __init__(self, before_send: Callable[[], None]) -> None:
        self._before_send = before_send
        self._state = _State.IDLE
        self._asked_at = (0.0, 0.0)
        self.refusal: Exception | None = None
        """What `before_send` raised."""

    @property
    def passed(self) -> bool:
        """From here on the request may have left the machine, in order."""
        return self._state is _State.PASSED

    @property
    def proves_nothing_was_sent(self) -> bool:
        """Whether trying again cannot ring a phone twice (S12)."""
        return self._state in {_State.IDLE, _State.UNREACHED, _State.SHUT}

    def arm(self) -> None:
        """Note that the request is being handed to the library."""
        self._state = _State.ARMED

    def not_reached(self) -> None:
        """Note that a connection of ours was not established, so that nothing was sent on it."""
        if self._state is _State.ARMED:
            self._state = _State.UNREACHED

    def ask(self) -> None:
        """Run `before_send`, now that the connection stands; GateShutError if it raises or has run before."""
        if self._state not in {_State.ARMED, _State.UNREACHED}:
            raise self.shut()
        self._asked_at = _clocks()  # before the ledger is written: a process stopped in between must not dial late
        try:
            self._before_send()
        except Exception as error:  # noqa: BLE001  kept aside, as urllib3 rewraps what looks like a network's
            self.refusal = error
            raise self.shut() from None
        self._state = _State.OPEN

    def let_pass(self) -> None:
        """Let the request's first byte pass right now; GateShutError if it was not asked, or too long ago."""
        if self._state is not _State.OPEN or self._age() > MAX_SEND_DELAY:
            raise self.shut()
        self._state = _State.PASSED

    def _age(self) -> float:
        """Return the seconds since `before_send` was begun, by the clock that counts more of them."""
        return max(now - then for now, then in zip(_clocks(), self._asked_at, strict=True))

    def shut(self) -> GateShutError:
        """Let nothing pass from now on, and return the error to raise; what has passed remains so."""
        if not self.passed:
            self._state = _State.SHUT
        return GateShutError()


def _clocks() -> tuple[float, float]:
    """Return the seconds of two witnesses: since boot, and of the wall clock.

    The first one cannot be set back, and the second one is put right when a virtual machine wakes up that was itself
    stopped from outside, with all of its clocks. One set forward costs a try that sends nothing.
    """
    return time.clock_gettime(_UPTIME), time.time()

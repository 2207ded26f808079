"""The gate before the first byte of a dial: its clocks, its single passage, and its proof that nothing was sent."""

import time
from collections.abc import Callable

import pytest

from api_client.gate import Gate, GateShutError


def nothing() -> None:
    """Replace `before_send` by a function without effect."""


def armed(before_send: Callable[[], None] = nothing) -> Gate:
    gate = Gate(before_send)
    gate.arm()
    return gate


class Clocks:
    """The clocks of a machine, in place of the module `time`; only the test moves them."""

    def __init__(self) -> None:
        self.boottime = self.monotonic_time = 1000.0
        self.wall = 1_770_463_000.0

    def monotonic(self) -> float:
        return self.monotonic_time

    def clock_gettime(self, clock: int) -> float:
        return self.monotonic_time if clock == time.CLOCK_MONOTONIC else self.boottime

    def time(self) -> float:
        return self.wall

    def stop_process(self, seconds: float) -> None:
        self.suspend_machine(seconds)
        self.monotonic_time += seconds

    def suspend_machine(self, seconds: float) -> None:
        self.boottime += seconds
        self.wall += seconds

    def freeze_virtual_machine(self, seconds: float) -> None:
        """Suspend it like a host: the guest's clocks stop, and a time service corrects its wall clock afterwards."""
        self.wall += seconds

    def suspend_and_set_wall_clock_back(self, seconds: float) -> None:
        self.suspend_machine(seconds)
        self.wall -= 3600


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """The clocks of the gate."""
    clocks = Clocks()
    monkeypatch.setattr("api_client.gate.time", clocks)
    return clocks


@pytest.mark.parametrize(
    ("seconds", "passes"),
    [
        pytest.param((0.0, 0.0), True, id="at once"),
        pytest.param((2.0, 0.0), True, id="two seconds in before_send"),
        pytest.param((2.01, 0.0), False, id="longer in before_send"),
        pytest.param((0.0, 2.01), False, id="longer between before_send and the first byte"),
    ],
)
@pytest.mark.parametrize(
    "pause",
    [
        pytest.param(Clocks.stop_process, id="process"),
        pytest.param(Clocks.suspend_machine, id="machine"),
        pytest.param(Clocks.freeze_virtual_machine, id="virtual machine"),
        pytest.param(Clocks.suspend_and_set_wall_clock_back, id="machine, and the wall clock set back meanwhile"),
    ],
)
def test_suspended_process_does_not_send_late(
    clock: Clocks, pause: Callable[[Clocks, float], None], seconds: tuple[float, float], passes: bool
) -> None:
    """S18: the time counts from before `before_send`, which writes `sending`, to the first byte."""
    in_before_send, after_it = seconds
    gate = armed(lambda: pause(clock, in_before_send))
    gate.ask()
    pause(clock, after_it)
    if passes:
        gate.let_pass()
    else:
        with pytest.raises(GateShutError):
            gate.let_pass()
    assert (gate.passed, gate.proves_nothing_was_sent, gate.refusal) == (passes, not passes, None)


def test_gate_keeps_the_exception_of_before_send() -> None:
    error = ConnectionResetError("Redis is away")

    def before_send() -> None:
        raise error

    gate = armed(before_send)
    with pytest.raises(GateShutError):
        gate.ask()
    with pytest.raises(GateShutError):
        gate.let_pass()
    assert not gate.passed
    assert gate.proves_nothing_was_sent
    assert gate.refusal is error


def test_gate_lets_one_request_pass() -> None:
    """S12: even if the library retries, `before_send` runs once and one request passes."""
    runs: list[None] = []
    gate = armed(lambda: runs.append(None))
    gate.ask()
    gate.let_pass()
    for again in (gate.let_pass, gate.ask, gate.let_pass):
        with pytest.raises(GateShutError):
            again()
    gate.not_reached()
    assert (gate.passed, gate.proves_nothing_was_sent, len(runs)) == (True, False, 1)


def test_second_connection_shuts_the_gate_for_both() -> None:
    gate = armed()
    gate.ask()
    with pytest.raises(GateShutError):
        gate.ask()
    with pytest.raises(GateShutError):
        gate.let_pass()
    assert gate.proves_nothing_was_sent


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([], id="not armed"),
        pytest.param([Gate.arm], id="not asked"),
        pytest.param([Gate.arm, Gate.not_reached], id="no connection"),
        pytest.param([Gate.arm, Gate.ask, Gate.shut], id="shut"),
    ],
)
def test_nothing_passes_a_gate_that_was_not_asked(steps: list[Callable[[Gate], object]]) -> None:
    """S18."""
    gate = Gate(nothing)
    for step in steps:
        step(gate)
    with pytest.raises(GateShutError):
        gate.let_pass()
    assert not gate.passed


def test_an_unarmed_gate_never_runs_before_send() -> None:
    runs: list[None] = []
    with pytest.raises(GateShutError):
        Gate(lambda: runs.append(None)).ask()
    assert runs == []


@pytest.mark.parametrize(
    ("steps", "proves"),
    [
        pytest.param([], True, id="no library has the request"),
        pytest.param([Gate.arm], False, id="the library has the request, its state is unknown"),
        pytest.param([Gate.arm, Gate.not_reached], True, id="no connection was established"),
        pytest.param([Gate.arm, Gate.not_reached, Gate.ask], False, id="a second connection was established"),
        pytest.param([Gate.arm, Gate.ask], False, id="asked, its state is unknown"),
        pytest.param([Gate.arm, Gate.ask, Gate.not_reached], False, id="another connection was not established"),
        pytest.param([Gate.arm, Gate.ask, Gate.shut], True, id="shut"),
        pytest.param([Gate.arm, Gate.ask, Gate.let_pass], False, id="passed"),
        pytest.param([Gate.arm, Gate.ask, Gate.let_pass, Gate.shut], False, id="passed, then shut"),
    ],
)
def test_states_that_prove_that_nothing_was_sent(steps: list[Callable[[Gate], object]], proves: bool) -> None:
    """S12, S18: only in these states may the request be sent again."""
    gate = Gate(nothing)
    for step in steps:
        step(gate)
    assert gate.proves_nothing_was_sent is proves

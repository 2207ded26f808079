"""The gate before the first byte of a dial: its clock, and that it opens once at most."""

import pytest

from api_client.transport import Gate, GateShutError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands at its only element."""
    now = [1000.0]
    monkeypatch.setattr("api_client.transport.monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "passes"),
    [
        pytest.param(0.0, True, id="at once"),
        pytest.param(2.0, True, id="two seconds"),
        pytest.param(2.01, False, id="a process that was stopped must not dial late"),
    ],
)
def test_how_long_before_send_may_take(clock: list[float], seconds: float, passes: bool) -> None:
    """S18: counted from before `before_send`, which writes `sending`, to after it."""

    def before_send() -> None:
        clock[0] += seconds

    gate = Gate(before_send)
    if passes:
        gate()
    else:
        with pytest.raises(GateShutError):
            gate()
    assert (gate.passed, gate.refusal) == (passes, None)


def test_it_keeps_what_before_send_raised() -> None:
    error = ConnectionResetError("Redis is away")

    def before_send() -> None:
        raise error

    gate = Gate(before_send)
    with pytest.raises(GateShutError):
        gate()
    assert not gate.passed
    assert gate.refusal is error


def test_it_opens_once() -> None:
    """S12: whatever the library beneath may come to retry, `before_send` runs once and one request passes."""
    runs: list[None] = []
    gate = Gate(lambda: runs.append(None))
    gate()
    with pytest.raises(GateShutError):
        gate()
    assert (gate.passed, len(runs)) == (True, 1)

"""Test that memory returns to the system after most streams closed, and not while they come and go."""

import gc
import os
import subprocess
import sys
import weakref

import pytest

from gateway.__main__ import ALLOCATOR, use_allocator_of_c
from gateway.memory import MANY, RISE, Tide, give_back, settle
from tests.deployment import ROOT


@pytest.mark.parametrize(
    ("streams", "given_back"),
    [
        pytest.param([10 * MANY, 0, 0], 1, id="all have closed"),
        pytest.param([10 * MANY, 0, 0, 0, 0], 1, id="once"),
        pytest.param([10 * MANY, 4 * MANY, 4 * MANY], 1, id="most have closed"),
        pytest.param([10 * MANY, 0, 0, 10 * MANY, 0, 0], 2, id="again after the next rise"),
        pytest.param([10 * MANY, 6 * MANY, 6 * MANY], 0, id="some have closed"),
        pytest.param([10 * MANY, 4 * MANY, 3 * MANY, 2 * MANY], 0, id="they are still closing"),
        pytest.param([MANY - 1, 0, 0], 0, id="too few to matter"),
    ],
)
def test_memory_is_returned_after_most_streams_closed(streams: list[int], given_back: int) -> None:
    tide = Tide()
    assert sum(tide.is_out(number) for number in streams) == given_back


def test_freezing_happens_in_steps_and_restarts_after_most_streams_closed() -> None:
    """Objects held only by cycles stay frozen until memory is next returned, so freezing must be rare."""
    tide = Tide()
    steps = [tide.has_risen(number) for number in (RISE - 1, RISE, RISE + 1, 0, RISE, 2 * RISE)]
    assert steps == [False, True, False, False, False, True]
    assert not tide.is_out(2 * RISE)
    assert not tide.is_out(0)
    assert tide.is_out(0)
    assert tide.has_risen(RISE)


def test_returning_memory_collects_frozen_cycles() -> None:
    class Node:
        itself: "Node"

    node = Node()
    node.itself = node
    freed = weakref.ref(node)
    del node
    settle()
    gc.collect()
    assert freed() is not None
    give_back()
    assert freed() is None
    gc.unfreeze()


def test_gateway_restarts_once_under_the_c_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own allocator would keep the memory of ended streams."""
    begun: list[tuple[str, ...]] = []
    monkeypatch.setattr(os, "execv", lambda _, command: begun.append(command))
    monkeypatch.setattr(sys, "argv", ["gateway", "--port", "8080"])
    monkeypatch.setenv(ALLOCATOR, "")
    monkeypatch.delenv(ALLOCATOR)
    use_allocator_of_c()
    assert begun == [(sys.executable, "-m", "gateway", "--port", "8080")]
    assert os.environ[ALLOCATOR] == "malloc"
    use_allocator_of_c()
    assert len(begun) == 1


def test_program_that_restarts_itself_imports_no_settings_before() -> None:
    """Both processes would import them, which takes a tenth of a gateway's start."""
    shown = subprocess.check_output(
        (sys.executable, "-c", "import sys, gateway.__main__; print(sorted(sys.modules))"), cwd=ROOT, text=True
    )
    assert "gateway.__main__" in shown
    assert "config" not in shown
    assert "pydantic" not in shown


def test_objects_held_only_by_cycles_are_freed() -> None:
    class Node:
        itself: "Node"

    node = Node()
    node.itself = node
    freed = weakref.ref(node)
    gc.disable()
    try:
        del node
        give_back()
        assert freed() is None
    finally:
        gc.enable()
        gc.unfreeze()

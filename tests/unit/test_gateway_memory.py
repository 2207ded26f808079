"""Memory is given back once most streams have left, and not while they come and go."""

import gc
import os
import sys
import weakref

import pytest

from gateway.__main__ import ALLOCATOR, use_allocator_of_c
from gateway.memory import MANY, RISE, Tide, give_back, settle


@pytest.mark.parametrize(
    ("streams", "given_back"),
    [
        pytest.param([10 * MANY, 0, 0], 1, id="all have left"),
        pytest.param([10 * MANY, 0, 0, 0, 0], 1, id="once"),
        pytest.param([10 * MANY, 4 * MANY, 4 * MANY], 1, id="most have left"),
        pytest.param([10 * MANY, 0, 0, 10 * MANY, 0, 0], 2, id="again after the next tide"),
        pytest.param([10 * MANY, 6 * MANY, 6 * MANY], 0, id="some have left"),
        pytest.param([10 * MANY, 4 * MANY, 3 * MANY, 2 * MANY], 0, id="they are still leaving"),
        pytest.param([MANY - 1, 0, 0], 0, id="too few to matter"),
    ],
)
def test_when_memory_is_given_back(streams: list[int], given_back: int) -> None:
    tide = Tide()
    assert sum(tide.is_out(number) for number in streams) == given_back


def test_streams_settle_in_steps_and_anew_after_most_have_left() -> None:
    """A step for each so many: what only cycles hold waits there for the next tide, so there must be few."""
    tide = Tide()
    steps = [tide.has_risen(number) for number in (RISE - 1, RISE, RISE + 1, 0, RISE, 2 * RISE)]
    assert steps == [False, True, False, False, False, True]
    assert not tide.is_out(2 * RISE)
    assert not tide.is_out(0)
    assert tide.is_out(0)
    assert tide.has_risen(RISE)


def test_what_has_settled_is_looked_through_when_memory_is_given_back() -> None:
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


def test_the_gateway_starts_anew_under_the_allocator_of_c_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own would keep the memory of streams that have ended."""
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


def test_what_only_cycles_hold_is_freed() -> None:
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

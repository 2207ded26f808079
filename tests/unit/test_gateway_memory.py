"""Memory is given back once most streams have left, and not while they come and go."""

import gc
import os
import sys
import weakref

import pytest

from gateway.__main__ import ALLOCATOR, use_allocator_of_c
from gateway.memory import MANY, Tide, give_back


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

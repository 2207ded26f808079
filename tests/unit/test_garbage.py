"""Test the tuning of the garbage collector."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from worker.runtime.garbage import THRESHOLDS, tune_collector


@pytest.fixture(autouse=True)
def _restored_collector() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def test_objects_of_the_start_are_never_collected_again() -> None:
    kept = [object()]
    tune_collector()
    assert gc.get_freeze_count() > 0
    assert not any(one is kept for one in gc.get_objects())


class Circle:
    """An object that refers to itself, so that only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_of_a_running_worker_is_still_collected() -> None:
    tune_collector()
    first = weakref.ref(Circle())
    for _ in range(2 * THRESHOLDS[0]):
        Circle()
    assert first() is None

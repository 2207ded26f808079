"""Test that concurrent triggers share a batch and get independent outcomes (S42)."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gateway.intake import LONGEST_BATCH, MAX_IN_FLIGHT, Intake, Outcome
from gateway.problems import Problem
from gateway.triggers import Asked, Order
from worker.core.interfaces import StoreUnavailable
from worker.core.messages import read_trigger

ORDER = Order(read_trigger({"case_id": "C-1", "mediation_id": 20}), 60.0)


def asked(key: str) -> Asked:
    return Asked("backend", key, ORDER)


class Store:
    """Accepts batches; while `open` is cleared, they wait."""

    def __init__(self, outcome: Callable[[Asked], Outcome] = lambda one: {"id": one.key}) -> None:
        self.batches: list[list[str]] = []
        self.open = threading.Event()
        self.open.set()
        self._begun = threading.Semaphore(0)
        self._outcome = outcome

    def submit(self, batch: Sequence[Asked]) -> list[Outcome]:
        self.batches.append([one.key for one in batch])
        self._begun.release()
        assert self.open.wait(60)
        return [self._outcome(one) for one in batch]

    async def begun(self) -> None:
        """Wait until another batch has begun."""
        await asyncio.to_thread(self._begun.acquire)


def run(store: Store, scenario: Callable[[Intake], Awaitable[Any]]) -> Any:
    async def all_of_it() -> Any:
        with ThreadPoolExecutor(8) as threads:
            return await scenario(Intake(store.submit, threads))

    return asyncio.run(all_of_it())


def test_concurrent_triggers_share_one_batch() -> None:
    store = Store()

    async def scenario(intake: Intake) -> list[Any]:
        return await asyncio.gather(*(intake.take(asked(f"k-{n}")) for n in range(10)))

    assert run(store, scenario) == [{"id": f"k-{n}"} for n in range(10)]
    assert store.batches == [[f"k-{n}" for n in range(10)]]


@pytest.mark.parametrize(
    ("slow", "batches"),
    [
        pytest.param(0.0, MAX_IN_FLIGHT, id="batches in flight are slow"),
        pytest.param(1_000.0, 1, id="batches in flight are fast"),
    ],
)
def test_triggers_gather_while_all_batches_are_in_flight(
    monkeypatch: pytest.MonkeyPatch, slow: float, batches: int
) -> None:
    """Threads and connections stay bounded for any number of requests; a slow batch does not delay the others."""
    monkeypatch.setattr("gateway.intake.SLOW", slow)
    store = Store()
    store.open.clear()

    async def scenario(intake: Intake) -> None:
        waiting = []
        for number in range(batches + 3):
            waiting.append(asyncio.ensure_future(intake.take(asked(f"k-{number}"))))
            if number < batches:
                await store.begun()
            for _ in range(5):  # iterations of the loop in which a surplus batch would begin
                await asyncio.sleep(0)
        store.open.set()
        await asyncio.gather(*waiting)

    run(store, scenario)
    assert store.batches == [*([f"k-{n}"] for n in range(batches)), [f"k-{n}" for n in range(batches, batches + 3)]]


def test_batch_size_is_bounded() -> None:
    store = Store()

    async def scenario(intake: Intake) -> None:
        await asyncio.gather(*(intake.take(asked(f"k-{n}")) for n in range(2 * LONGEST_BATCH + 1)))

    run(store, scenario)
    assert sorted(map(len, store.batches)) == [1, LONGEST_BATCH, LONGEST_BATCH]


def test_each_trigger_of_a_batch_gets_its_own_outcome() -> None:
    """S42: only the key that was used with other arguments is refused; a key that was handled is to be looked up."""
    outcomes: dict[str, Outcome] = {"good": {"id": "h"}, "reused": Problem("idempotency-key-reused"), "handled": None}
    store = Store(lambda one: outcomes[one.key])

    async def scenario(intake: Intake) -> list[Any]:
        return await asyncio.gather(*(intake.take(asked(key)) for key in outcomes), return_exceptions=True)

    good, reused, handled = run(store, scenario)
    assert (good, handled) == ({"id": "h"}, None)
    assert isinstance(reused, Problem)


def test_failed_batch_fails_each_of_its_triggers() -> None:
    def away(_: Asked) -> Outcome:
        raise StoreUnavailable("away")

    async def scenario(intake: Intake) -> list[Any]:
        first = await asyncio.gather(*(intake.take(asked(f"k-{n}")) for n in range(3)), return_exceptions=True)
        return [*first, *await asyncio.gather(intake.take(asked("later")), return_exceptions=True)]

    store = Store(away)
    assert [type(one) for one in run(store, scenario)] == [StoreUnavailable] * 4
    assert store.batches[-1] == ["later"], "the batch slot is free again"


def test_cancelled_request_does_not_affect_its_batch() -> None:
    store = Store()
    store.open.clear()

    async def scenario(intake: Intake) -> Any:
        hasty, patient = (asyncio.ensure_future(intake.take(asked(key))) for key in ("hasty", "patient"))
        await store.begun()
        hasty.cancel()
        store.open.set()
        return await patient

    assert run(store, scenario) == {"id": "patient"}
    assert store.batches == [["hasty", "patient"]]


def test_batch_dropped_at_shutdown_is_unavailable() -> None:
    """S42: the client may send the same key again, to the next process."""
    store = Store()
    store.open.clear()

    async def scenario() -> None:
        threads = ThreadPoolExecutor(1)
        intake = Intake(store.submit, threads)
        blocked = asyncio.ensure_future(intake.take(asked("blocked")))
        await store.begun()
        dropped = asyncio.ensure_future(intake.take(asked("dropped")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        threads.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(StoreUnavailable):
            await dropped
        store.open.set()
        assert await blocked == {"id": "blocked"}

    asyncio.run(scenario())

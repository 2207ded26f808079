"""Test triggers while the store is unavailable or refuses, and without a free dial slot."""

from typing import Any

import pytest

from tests.fakes import job_id, record
from tests.world import World
from worker.core.interfaces import StoreRefused, StoreUnavailable, StoreUnconfirmed
from worker.store import RedisStore

JOB = job_id(1)


class Flaky:
    """A method of the store that is unavailable for its first calls."""

    def __init__(self, world: World, step: str, failures: int, kind: type[StoreUnavailable] = StoreUnavailable) -> None:
        self._step = getattr(world.store, step)
        self._failures = failures
        self._kind = kind

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._failures:
            self._failures -= 1
            raise self._kind("Redis: ConnectionError")
        return self._step(*args, **kwargs)


@pytest.mark.parametrize("step", ["claim", "begin_sending", "settle"])
def test_trigger_waits_for_a_briefly_unavailable_store(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """S18: an answer is never discarded, and the request is still made only once."""
    world.upstream.dials = [[record(JOB)]]
    monkeypatch.setattr(world.store, step, Flaky(world, step, 3), raising=False)
    assert world.trigger()["outcome"] == "started"
    assert len(world.upstream.requests) == 1
    assert len(world.store.calls()) == 1


def test_answer_is_kept_while_the_store_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """S18: only this process knows it."""
    world.upstream.dials = [[record(JOB)]]
    monkeypatch.setattr(world.store, "settle", Flaky(world, "settle", 100), raising=False)
    assert world.trigger()["outcome"] == "started"
    assert len(world.upstream.requests) == 1
    assert world.clock.slept[:7] == [0.5, 1, 2, 4, 8, 8, 8], "seconds: a returning Redis is not flooded"


@pytest.mark.parametrize("kind", [StoreUnavailable, StoreRefused])
def test_answer_waits_for_a_store_that_refuses(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: type[StoreUnavailable]
) -> None:
    """S18: until the store is repaired, only this process knows the answer."""
    world.upstream.dials = [[record(JOB)]]
    monkeypatch.setattr(world.store, "settle", Flaky(world, "settle", 3, kind), raising=False)
    assert world.trigger()["outcome"] == "started"
    assert len(world.upstream.requests) == 1


def test_s38_trigger_refused_by_the_store_fails_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It blocks no thread, and is not redelivered for ever."""
    from worker import tasks  # noqa: PLC0415

    monkeypatch.setattr(world.store, "claim", Flaky(world, "claim", 1_000, StoreRefused), raising=False)
    ended = tasks.trigger.apply(kwargs={"case_id": "C-1", "mediation_id": "20"}, task_id="task-1")
    assert ended.state == "FAILURE"
    assert isinstance(ended.result, StoreRefused)
    assert world.clock.slept == []
    assert world.upstream.requests == []


def test_trigger_that_cannot_be_claimed_returns_to_the_queue(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """S1: it is neither lost nor answered."""
    from worker import tasks  # noqa: PLC0415

    monkeypatch.setattr(world.store, "claim", Flaky(world, "claim", 1_000), raising=False)
    state = tasks.trigger.apply(kwargs={"case_id": "C-1", "mediation_id": "20"}, task_id="task-1").state
    assert state == "REJECTED"
    assert world.clock.monotonic() >= 50


def test_worker_without_a_free_dial_slot_returns_the_trigger_unclaimed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dials occupy at most half of the threads of a worker that polls as well; others wait a second in the queue."""
    from worker import tasks  # noqa: PLC0415

    back: list[dict[str, Any]] = []
    monkeypatch.setattr(tasks.trigger, "apply_async", lambda **options: back.append(options))
    slots = tasks.DialSlots()
    slots.limit(1)
    monkeypatch.setattr(tasks, "dial_slots", slots)
    world.upstream.dials = [[record(JOB)]]
    world.upstream.before_connect = lambda: world.trigger("C-2", task_id="task-2", call_person_id="person-0001")
    assert world.trigger()["outcome"] == "started"
    (message,) = back
    assert (message["countdown"], message["task_id"], message["kwargs"]["case_id"]) == (1, "task-2", "C-2")
    assert "person-0001" not in message["kwargsrepr"]
    assert world.store.pairs(case_id="C-2") == []
    world.upstream.before_connect = lambda: None
    assert world.trigger("C-3", task_id="task-3")["outcome"] == "started"


def test_s1_trigger_rejected_by_the_broker_stays_in_the_queue(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a free slot it returns unchanged, neither lost nor answered nor claimed."""
    from worker import tasks  # noqa: PLC0415

    slots = tasks.DialSlots()
    slots.limit(1)
    assert slots.take()
    monkeypatch.setattr(tasks, "dial_slots", slots)
    world.queue.broken = ConnectionResetError("broker away")
    applied = tasks.trigger.apply(kwargs={"case_id": "C-1", "mediation_id": "20"}, task_id="task-1")
    assert (applied.state, applied.result.requeue) == ("REJECTED", True)
    assert world.store.pairs(finished=True) == []
    slots.give_back()
    assert slots.take(), "it occupies no slot"


@pytest.mark.parametrize(("held_back", "outcome", "requests"), [(1, "started", 1), (4, "failed", 0)])
def test_s41_request_that_no_replica_confirms_is_tried_again_and_never_sent_unconfirmed(
    world: World, monkeypatch: pytest.MonkeyPatch, held_back: int, outcome: str, requests: int
) -> None:
    """S12 S41: it counts as not sent; after the fourth attempt the trigger fails and the pair is free."""
    run_durably, unconfirmed = RedisStore.run_durably, ["confirmed by 0 of 1 replicas in time"] * held_back

    def run(store: RedisStore, *script: Any) -> tuple[Any, str]:
        reply, _ = run_durably(store, *script)
        return reply, unconfirmed.pop() if unconfirmed else ""

    monkeypatch.setattr(RedisStore, "run_durably", run)
    world.upstream.dials = [[record(JOB)]]
    assert world.trigger()["outcome"] == outcome
    assert len(world.upstream.requests) == requests
    assert bool(world.redis.exists("t:lock:C-1:20")) is bool(requests)
    assert world.store.counters()["requests_held_back"] == held_back


def test_s41_uncounted_attempt_is_held_back_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counter is lost with the store; the request is not sent either."""

    def away(*_: object) -> None:
        raise StoreUnavailable("gone")

    def unconfirmed(*_: object, **__: object) -> float:
        raise StoreUnconfirmed("Redis: not on disk in time")

    monkeypatch.setattr(RedisStore, "count", away)
    monkeypatch.setattr(RedisStore, "begin_sending", unconfirmed)
    world.upstream.dials = [[record(JOB)]]
    assert world.trigger()["outcome"] == "failed"
    assert world.upstream.requests == []

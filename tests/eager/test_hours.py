"""Test that a trigger outside calling hours waits in Redis and dials later: once per pair, under its task id."""

import itertools
import time
from datetime import datetime
from typing import Any, NoReturn
from zoneinfo import ZoneInfo

import pytest

from api_client import NotSent, OutcomeUnknown
from tests.eager.scenes import entry
from tests.fakes import job_id, record
from tests.world import World
from worker.core import texts
from worker.core.model import Pair
from worker.store import Erased

OFFICE = {"calling_hours": "09:00-21:00", "calling_days": "mon-sat", "holidays": "CN"}
office = pytest.mark.parametrize("world", [OFFICE], indirect=True)
DAY = 86_400


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Asia/Shanghai")).timestamp()


def phase(world: World) -> list[str]:
    return [state.phase for state in world.store.pairs(case_id="C-1", finished=True)]


@pytest.fixture(autouse=True)
def one_call(world: World) -> None:
    """Each request starts one call, which ends at its first poll; a sweep every ten minutes passes the nights."""
    numbers = iter(range(1, 99))
    world.upstream.dials = [lambda _: [record(job_id(next(numbers), at=time.time()))]]
    world.sweeping = 600


@office
@pytest.mark.parametrize(
    ("moment", "outcome", "dialled"),
    [
        pytest.param("2026-11-23 20:59:59", "started", "2026-11-23 20:59:59", id="one second before closing"),
        pytest.param("2026-11-23 21:00:00", "deferred", "2026-11-24 09:00:00", id="closing time"),
        pytest.param("2026-10-01 10:00:00", "deferred", "2026-10-08 09:00:00", id="a public holiday"),
        pytest.param(
            "2026-10-10 10:00:00", "started", "2026-10-10 10:00:00", id="a working Saturday in lieu of a holiday"
        ),
        pytest.param("2026-11-29 10:00:00", "deferred", "2026-11-30 09:00:00", id="a Sunday"),
    ],
)
def test_calling_hours_apply_when_the_request_is_sent(world: World, moment: str, outcome: str, dialled: str) -> None:
    world.clock.move_to(at(moment))
    result = world.trigger()
    assert result["outcome"] == outcome
    if outcome == "deferred":
        assert result["deferred_until"] == at(dialled)
        assert world.events() == ["deferred"]
        assert phase(world) == ["waiting"]
        assert not world.redis.exists(world.keys.lock(Pair("C-1", "20"))), "the lock is not held"
        assert len(world.queue) == 0, "no countdown is held for hours"
        world.run(at(dialled) - time.time() - 1)
        assert world.upstream.requests == []
        world.run(1200)
    ((sent_at, _),) = world.upstream.requests
    assert sent_at == pytest.approx(at(dialled), abs=601)
    assert sent_at >= at(dialled) or outcome == "started"
    world.run(60)
    assert phase(world) == ["done"]


@office
def test_waiting_trigger_keeps_waiting_while_new_calls_are_stopped(world: World) -> None:
    """S16: deferred on a Thursday night, stopped until Monday."""
    world.clock.move_to(at("2026-11-26 22:00:00"))
    assert world.trigger()["outcome"] == "deferred"
    world.store.pause("maintenance")
    world.run(at("2026-11-30 10:00:00") - time.time())
    assert phase(world) == ["waiting"]
    world.store.resume()
    world.run(3600)
    assert len(world.upstream.requests) == 1
    assert phase(world) == ["done"]


@office
def test_late_trigger_waits_for_the_next_calling_hours(world: World) -> None:
    """The dial checks the hours itself: a query or a retry may outlast the closing time."""
    world.clock.move_to(at("2026-11-23 20:59:59"))
    world.upstream.before_connect = lambda: world.clock.move_to(at("2026-11-23 21:00:00"))
    assert world.trigger()["outcome"] == "deferred"
    assert world.upstream.requests == []
    world.upstream.before_connect = lambda: None
    world.run(13 * 3600)
    assert len(world.upstream.requests) == 1


@office
def test_s12_unsent_dial_waits_when_its_next_attempt_would_be_late(world: World) -> None:
    """`sending` is already written, and only its owner knows that nothing was sent."""

    def refuse(_: object) -> NoReturn:
        world.upstream.requests.clear()  # nothing left this machine
        world.clock.move_to(at("2026-11-23 21:00:00"))
        raise NotSent("POST /external/call-back: connection refused")

    world.upstream.dials.insert(0, refuse)
    world.clock.move_to(at("2026-11-23 20:59:59"))
    assert world.trigger(task_id="one")["outcome"] == "deferred"
    assert phase(world) == ["waiting"]
    assert world.trigger(task_id="one")["outcome"] == "deferred", "its redelivery gets the same result"
    world.run(13 * 3600)
    ((sent_at, _),) = world.upstream.requests
    assert sent_at == pytest.approx(at("2026-11-24 09:00"), abs=601)


@office
def test_s5_dial_deferred_after_sending_queries_again_when_it_is_due(world: World) -> None:
    """S5: the query before its first attempt is a night old, and the call of the lost answer has appeared since."""

    def refuse(_: object) -> NoReturn:
        world.clock.move_to(at("2026-11-23 21:00:00"))
        raise NotSent("POST /external/call-back: connection refused")

    world.upstream.dials = [OutcomeUnknown("POST /external/call-back: ReadTimeout"), refuse, [record(job_id(9))]]
    world.clock.move_to(at("2026-11-23 20:30:00"))
    assert world.trigger(task_id="one")["outcome"] == "unknown"
    world.sweeping = 10
    world.run(1_799)
    assert world.trigger(task_id="two")["outcome"] == "deferred"
    requests = len(world.upstream.requests)
    world.upstream.log_entries = [entry(job_id(1, at=at("2026-11-23 20:30:01")))]
    world.sweeping = 600
    world.run(13 * 3600)
    assert world.trigger(task_id="two")["outcome"] == "skipped"
    assert len(world.upstream.requests) == requests


@office
def test_s17_one_trigger_waits_per_pair_and_each_task_dials_once(world: World) -> None:
    world.clock.move_to(at("2026-11-23 22:00:00"))
    first = [world.trigger(task_id="one") for _ in range(3)]
    others = [world.trigger(task_id=f"more-{number}") for number in range(5)]
    assert {result["outcome"] for result in [*first, *others]} == {"deferred"}
    assert {result["deferred_until"] for result in [*first, *others]} == {at("2026-11-24 09:00")}
    assert world.trigger(case_id="C-2", task_id="two")["outcome"] == "deferred"
    world.run(12 * 3600)
    assert set(world.upstream.calls_per_pair().values()) == {1}
    assert len(world.upstream.calls_per_pair()) == 2
    assert [world.trigger(task_id=task)["outcome"] for task in ("one", "more-0", "more-4")] == [
        "started",
        "deferred",
        "deferred",
    ]
    assert len(world.upstream.requests) == 2


@office
def test_lost_message_is_published_again(world: World) -> None:
    world.clock.move_to(at("2026-11-23 22:00:00"))
    world.trigger()
    world.clock.move_to(at("2026-11-24 09:00:00"))
    assert world.sweep() == 1
    world.queue.heap.clear()
    world.sweeping = 10
    world.run(200)
    assert len(world.upstream.requests) == 1


@office
@pytest.mark.parametrize("expires", [3600, 11 * 3600 - 1], ids=["within the night", "a second before the opening"])
def test_expired_trigger_makes_no_call_and_is_published(world: World, expires: float) -> None:
    world.clock.move_to(at("2026-11-23 22:00:00"))
    defer(world, expires=time.time() + expires)
    world.run(DAY)
    assert world.upstream.requests == []
    assert world.events() == ["deferred", "dial_failed"]
    assert world.store.history("C-1")[-1]["message"] == texts.TRIGGER_EXPIRED
    assert phase(world) == ["done"]
    assert world.store.history("C-1")[-1]["at"] <= at("2026-11-23 22:00:00") + expires + 601


def defer(world: World, *, expires: float | None, task_id: str = "task-1") -> Any:
    flow = world.parts.trigger_flow()
    result = flow({"case_id": "C-1", "mediation_id": "20"}, task_id=task_id, expires=expires)
    assert result is not None
    return result["outcome"]


@office
@pytest.mark.parametrize("order", [("short", "long"), ("long", "short"), ("short", "for ever"), ("for ever", "short")])
def test_first_of_two_equal_triggers_waits_with_the_longer_expiry(world: World, order: tuple[str, str]) -> None:
    world.clock.move_to(at("2026-11-23 22:00:00"))
    lives = {"short": time.time() + 60, "long": time.time() + DAY, "for ever": None}
    assert [defer(world, expires=lives[name], task_id=name) for name in order] == ["deferred", "deferred"]
    world.run(12 * 3600)
    assert len(world.upstream.requests) == 1
    assert "dial_failed" not in world.events()


@office
@pytest.mark.parametrize("first", ["", "P-1"], ids=["everyone waits", "one person waits"])
def test_trigger_with_other_arguments_does_not_replace_the_waiting_one(world: World, first: str) -> None:
    """S4 S17: the waiting trigger's back end got `deferred`; the new one is skipped and extends no expiry."""
    world.clock.move_to(at("2026-11-23 22:00:00"))
    other = "" if first else "P-1"
    flow = world.parts.trigger_flow()
    kwargs = {"case_id": "C-1", "mediation_id": "20"}
    waiting = flow(kwargs | {"call_person_id": first}, task_id="first", expires=time.time() + 12 * 3600)
    later = flow(kwargs | {"call_person_id": other}, task_id="second", expires=time.time() + DAY)
    assert waiting is not None
    assert later is not None
    assert (waiting["outcome"], later["outcome"], later["message"]) == ("deferred", "skipped", texts.ALREADY_ACTIVE)
    expires = world.redis.hget(world.keys.ledger(Pair("C-1", "20")), "expires")
    assert float(str(expires)) == pytest.approx(time.time() + 12 * 3600)
    world.run(12 * 3600)
    ((_, request),) = world.upstream.requests
    assert request.call_person_id == first


@office
def test_s16_trigger_keeps_waiting_during_a_pause(world: World) -> None:
    world.clock.move_to(at("2026-11-23 22:00:00"))
    world.trigger()
    world.store.pause("maintenance")
    world.run(12 * 3600)
    assert phase(world) == ["waiting"]
    assert world.upstream.requests == []
    world.store.resume()
    world.run(1300)
    assert len(world.upstream.requests) == 1


@office
def test_erased_trigger_does_not_dial(world: World) -> None:
    world.clock.move_to(at("2026-11-23 22:00:00"))
    world.trigger()
    world.clock.move_to(at("2026-11-24 09:00:00"))
    assert world.sweep() == 1, "published"
    assert isinstance(world.store.erase("C-1", anyway=False), Erased)
    world.run(DAY)
    assert world.upstream.requests == []


@office
def test_nine_days_of_holiday_lose_no_trigger(world: World) -> None:
    """The ledger outlives the wait, not only one day like other records."""
    world.clock.move_to(at("2026-02-14 21:30:00"))
    world.sweeping = 6 * 3600
    world.trigger()
    world.run(9 * DAY)
    assert world.upstream.requests == []
    world.run(DAY)
    ((sent_at, _),) = world.upstream.requests
    assert sent_at >= at("2026-02-24 09:00:00")


@office
def test_s18_former_owner_does_not_defer_the_trigger_again(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The owner was stopped for half a minute between its claim and its check of the hours."""
    world.clock.move_to(at("2026-11-23 22:00"))
    defer, second = world.store.defer, []

    def stopped(*args: Any, **options: Any) -> bool:
        monkeypatch.setattr(world.store, "defer", defer)
        world.clock.sleep(31)
        second.append(world.trigger())
        return defer(*args, **options)

    monkeypatch.setattr(world.store, "defer", stopped)
    assert world.trigger() is None
    assert [result["outcome"] for result in second] == ["deferred"]
    assert world.events() == ["deferred"]
    assert "the claim passed to another owner before the request: nothing sent" in caplog.messages
    world.run(DAY)
    assert len(world.upstream.requests) == 1


# the request limit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [{"dial_rate": 2}], indirect=True)
def test_requests_are_spread_and_long_waits_are_deferred(world: World) -> None:
    world.sweeping = 1
    world.queue.heap.clear()
    outcomes = [world.trigger(case_id=f"C-{number}", task_id=f"task-{number}")["outcome"] for number in range(12)]
    assert set(outcomes) == {"started"}, "one worker waits for its token"
    times = [sent_at for sent_at, _ in world.upstream.requests]
    assert all(times[number + 2] - times[number] >= 1 for number in range(10))


@pytest.mark.parametrize("world", [{"dial_rate": 0.05}], indirect=True)
def test_deferred_triggers_dial_once_and_in_order(world: World) -> None:
    """S6: one request per pair, however many wait."""
    world.sweeping = 1
    outcomes = [world.trigger(case_id=f"C-{number}", task_id=f"task-{number}")["outcome"] for number in range(5)]
    assert outcomes == ["started", *["deferred"] * 4]
    world.run(200)
    times = [sent_at for sent_at, _ in world.upstream.requests]
    assert len(times) == 5
    assert set(world.upstream.calls_per_pair().values()) == {1}
    assert all(later - earlier >= 19 for earlier, later in itertools.pairwise(times))

"""Test that one owner of a pair dials: duplicate deliveries, former owners, a pause before the request."""

import logging
from typing import Any

import pytest

from api_client import NotSent, OutcomeUnknown, Rejected
from tests.eager.scenes import locked
from tests.fakes import job_id, record
from tests.world import World
from worker.core.messages import TriggerResult
from worker.core.model import Pair
from worker.core.trigger_model import NewJob, Settlement

JOB = job_id(1)


ENDS: list[Any] = [
    pytest.param([record(JOB)], "started", id="started"),
    pytest.param([record(None, code=1002)], "refused", id="refused"),
    pytest.param(Rejected("HTTP 404"), "failed", id="failed"),
    pytest.param(OutcomeUnknown("reset"), "unknown", id="unknown"),
]


@pytest.mark.parametrize(("dial", "outcome"), ENDS)
def test_redelivered_trigger_never_dials_again(world: World, dial: Any, outcome: str) -> None:
    """S17: while its pair is held, and after its release."""
    world.upstream.dials = [dial]
    first = world.trigger()
    assert first["outcome"] == outcome
    assert world.trigger().data == first.data
    world.run(8_000)
    assert world.trigger().data == first.data
    assert len(world.upstream.requests) == 1


def test_skipped_and_disabled_results_are_stored(world: World) -> None:
    """S17: a handled task id returns its stored result, even if the state has changed since."""
    world.upstream.dials = [[record(JOB)]]
    world.trigger()
    assert world.trigger(task_id="task-2")["outcome"] == "skipped"
    world.store.pause("tests")
    assert world.trigger(case_id="C-2", task_id="task-3")["outcome"] == "disabled"
    world.store.resume()
    world.run(60)
    assert world.trigger(task_id="task-2")["outcome"] == "skipped"
    assert world.trigger(case_id="C-2", task_id="task-3")["outcome"] == "disabled"
    assert len(world.upstream.requests) == 1


def test_skipped_trigger_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """S4."""
    caplog.set_level(logging.INFO)
    world.upstream.dials = [[record(JOB)]]
    world.trigger()
    result = world.trigger(task_id="task-2")
    assert [job["job_id"] for job in result["jobs"]] == [JOB]
    assert "已有活跃外呼任务,跳过发起新外呼" in caplog.messages


def test_duplicate_delivery_during_the_dial_is_dropped_without_a_result(world: World) -> None:
    """S17."""
    copies: list[Any] = []

    def during_the_dial(_request: object) -> list[Any]:
        copies.append(world.trigger())
        return [record(JOB)]

    world.upstream.dials = [during_the_dial]
    assert world.trigger()["outcome"] == "started"
    assert copies == [None]
    assert len(world.upstream.requests) == 1


def test_owner_that_was_stopped_too_long_does_not_send(world: World) -> None:
    """S18: its claim has been taken over; only the new owner calls."""
    world.upstream.dials = [[record(JOB)]]
    taken_over: list[Any] = []

    def stopped() -> None:
        world.upstream.before_connect = lambda: None
        world.clock.sleep(31)
        taken_over.append(world.trigger())

    world.upstream.before_connect = stopped
    assert world.trigger() is None
    assert taken_over[0]["outcome"] == "started"
    assert len(world.upstream.requests) == 1


def test_former_owner_that_could_not_connect_changes_nothing(world: World) -> None:
    """S18 S5: it has no call to report, so its failure affects neither the new owner's call nor the lock."""
    world.upstream.life = lambda _job, _age: "Executing"
    world.upstream.dials = [*[NotSent("refused")] * 4, [record(JOB)]]
    attempts: list[Any] = []

    def stopped_at_the_last_try() -> None:
        attempts.append(None)
        if len(attempts) == 4:
            world.clock.sleep(31)
            attempts.append(world.trigger())

    world.upstream.before_connect = stopped_at_the_last_try
    assert world.trigger() is None
    assert [attempt["outcome"] for attempt in attempts if attempt] == ["started"]
    assert world.events() == ["started"]
    assert locked(world)
    assert world.trigger()["outcome"] == "started", "the recorded result is the new owner's"


def test_late_answer_of_an_earlier_owner_stops_the_request(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """S18 S4: its call is watched by now, and the trigger that has claimed the pair must not ring again."""
    world.upstream.life = lambda _job, _age: "Executing"
    pair = Pair("C-1", "20")
    world.store.claim(pair, token="early", task_id="early", arguments="{}", expires=None, enabled=True)
    sent_at = world.store.begin_sending(pair, "early")
    assert isinstance(sent_at, float)
    world.sweeping = 5
    world.run(1_000)
    assert world.events() == ["unknown", "nothing_found", "released"]

    def receive_the_answer() -> None:
        result = TriggerResult.of("started", "C-1", "20")
        jobs = [NewJob(JOB, "P-1", "Executing", 5)]
        assert world.store.settle(Settlement(pair, "early", "early", result, "watching", sent_at, jobs, []))

    world.upstream.dials = [[record(job_id(2))]]
    world.upstream.before_connect = receive_the_answer
    caplog.set_level(logging.INFO)
    result = world.trigger()
    assert (result["outcome"], result["message"]) == ("skipped", "已有活跃外呼任务,跳过发起新外呼")
    assert world.upstream.requests == []
    assert [call.job_id for call in world.store.calls()] == [JOB]
    assert locked(world)


def test_pause_between_claim_and_request_stops_the_request(world: World) -> None:
    """S16: also checked when sending; the pair is free afterwards."""
    world.upstream.dials = [[record(JOB)]]
    world.upstream.before_connect = lambda: world.store.pause("tests")
    assert world.trigger()["outcome"] == "disabled"
    assert world.upstream.requests == []
    assert not locked(world)


def test_calls_made_before_a_pause_stay_watched(world: World) -> None:
    """S16."""
    world.upstream.life = lambda _job, age: "Succeeded" if age > 50 else "Executing"
    world.upstream.dials = [[record(JOB)]]
    world.trigger()
    world.store.pause("tests")
    world.run(100)
    assert world.events() == ["started", "status_changed", "ended"]


def test_failure_affects_only_its_trigger(world: World) -> None:
    """S12: no other trigger stops."""
    world.upstream.dials = [
        [record(JOB)],
        OutcomeUnknown("reset"),
        Rejected("HTTP 500"),
        [record(job_id(4))],
    ]
    outcomes = [world.trigger(f"C-{n}", task_id=f"task-{n}")["outcome"] for n in range(4)]
    assert outcomes == ["started", "unknown", "failed", "started"]
    world.run(20)
    assert {job for _, job in world.upstream.queries} == {JOB, job_id(4)}

"""Test that every trigger without success names its reason: in result, history, notices, counters and logs (S38)."""

import logging
from typing import Any, get_args

import pytest

from api_client import REASONS, CallRecord, NotSent, OutcomeUnknown, Rejected, Unavailable
from tests.fakes import START, job_id, record
from tests.reasons import AT_NIGHT, CALLING_HOURS, counted, last_event, logged
from tests.world import World
from worker.core.decision import Outcome
from worker.core.model import Pair

JOB = job_id(1)
PAIR = Pair("C-1", "20")
NOTICES = {"notice_url": "http://127.0.0.1:1/hook", "notice_secret": "a made-up secret"}
notified = pytest.mark.parametrize("world", [NOTICES], indirect=True)


def refusal(code: int | None, person: str = "P-1") -> CallRecord:
    return record(None, code=code, person=person)


@pytest.mark.parametrize(
    ("dial", "outcome", "reason"),
    [
        pytest.param(Rejected("HTTP 401", reason="http_401"), "failed", "http_401", id="rejected"),
        pytest.param(NotSent("refused", reason="tls"), "failed", "tls", id="not sent"),
        pytest.param(OutcomeUnknown("no answer", reason="timeout"), "unknown", "timeout", id="lost answer"),
        pytest.param([], "unknown", "no_records", id="a person that upstream does not know"),
        pytest.param([refusal(0)], "unknown", "no_job_id", id="a record without a job"),
        pytest.param([refusal(1001)], "refused", "must_wait", id="must wait"),
        pytest.param([refusal(1002), refusal(1002)], "refused", "limit_reached", id="limit"),
        pytest.param([refusal(1001), refusal(1002)], "refused", "refused", id="different refusals"),
        pytest.param([refusal(4711)], "refused", "refused", id="another refusal"),
    ],
)
def test_s38_dial_without_a_call_names_its_reason(
    world: World, caplog: pytest.LogCaptureFixture, dial: Any, outcome: str, reason: str
) -> None:
    world.upstream.dials = [dial]
    result = world.trigger(call_person_id="P-404")
    assert (result["outcome"], result["reason"]) == (outcome, reason)
    assert repr(result).startswith(f"{outcome} ({reason}) C-1/20")
    event = last_event(world)
    assert event == {"kind": event["kind"], "reason": event["reason"], "task_id": "task-1"}
    assert event["reason"] == (reason if outcome != "refused" else event["reason"])
    assert counted(world) == {reason: 1}
    assert logged(caplog) == {reason}


def test_started_trigger_has_no_reason(world: World) -> None:
    world.upstream.dials = [[record(JOB), refusal(1002)]]
    result = world.trigger()
    assert (result["outcome"], "reason" in result) == ("started", False)
    assert counted(world) == {}
    kinds = [(event["kind"], event.get("reason"), event["task_id"]) for event in world.store.history("C-1")]
    assert kinds == [("started", None, "task-1"), ("refused", "limit_reached", "task-1")]


@notified
def test_refusal_of_a_notice_is_joined_to_its_person_by_the_result(world: World) -> None:
    """S37: the notice has no person; the list `refused` of the result has one at the index that the notice names."""
    world.upstream.dials = [[refusal(1001, "P-1"), record(JOB, person="P-2"), refusal(1002, "P-3")]]
    result = world.trigger(task_id="load-7")
    entries = world.store.outbox("webhook").read("-", limit=9)
    joined = {
        (entry.event["task_id"], result["refused"][entry.event["refused_index"]]["person_id"]): entry.event["reason"]
        for entry in entries
    }
    assert joined == {("load-7", "P-1"): "must_wait", ("load-7", "P-3"): "limit_reached"}


@notified
def test_every_notice_names_its_trigger(world: World) -> None:
    """S14 S18: also the notices of the sweep, the look-up and the polls."""
    world.sweeping = 1
    world.upstream.dials = [OutcomeUnknown("no answer", reason="timeout"), [record(job_id(2))]]
    world.upstream.log_entries = []
    world.trigger(task_id="load-1")
    world.run(800)
    world.upstream.life = lambda _job, _age: "Failed"
    assert world.trigger(task_id="load-2")["outcome"] == "started"
    world.run(60)
    told = [(event["kind"], event["task_id"]) for event in world.store.history("C-1")]
    assert told == [
        ("unknown", "load-1"),
        ("nothing_found", "load-1"),
        ("released", "load-1"),
        ("started", "load-2"),
        ("ended", "load-2"),
    ]
    assert {entry.event["task_id"] for entry in world.store.outbox("webhook").read("-", limit=9)} == {
        "load-1",
        "load-2",
    }


def test_adopted_call_names_the_trigger_of_its_request(world: World) -> None:
    """S14."""
    world.sweeping = 1
    world.upstream.dials = [OutcomeUnknown("no answer", reason="timeout")]
    world.upstream.life = lambda _job, _age: "Executing"
    world.trigger(task_id='load "1"')
    world.upstream.case_status = lambda _case: world.upstream.status(case_ref="C-1", job_id=job_id(1, at=START + 1))
    world.run(30)
    adopted = [event for event in world.store.history("C-1") if event["kind"] == "adopted"]
    assert [event["task_id"] for event in adopted] == ['load "1"']
    assert world.store.release(PAIR, by="an operator", why="known") == "released"
    assert last_event(world) == {"kind": "released", "reason": None, "task_id": 'load "1"'}


def test_skipped_trigger_names_the_active_call(world: World) -> None:
    world.upstream.dials = [[record(JOB)]]
    world.trigger()
    assert world.trigger(task_id="task-2")["reason"] == "active_call"
    assert counted(world) == {"active_call": 1}


def test_query_that_finds_an_active_call_names_it(world: World) -> None:
    """S5: after a lost watch, the next trigger queries upstream first."""
    world.upstream.dials = [[record(JOB)]]
    world.upstream.life = lambda _job, age: Unavailable("down", reason="http_5xx") if age < 200 else "Executing"
    world.trigger()
    world.run(200)
    assert world.trigger(task_id="task-2")["reason"] == "active_call"


def test_disabled_trigger_names_the_pause(world: World) -> None:
    world.store.pause("maintenance")
    assert world.trigger()["reason"] == "paused"
    assert last_event(world) == {"kind": "disabled", "reason": "paused", "task_id": "task-1"}
    assert counted(world) == {"paused": 1}


def test_pause_during_a_dial_names_the_pause(world: World) -> None:
    """S16."""
    world.upstream.dials = [[record(JOB)]]
    world.upstream.before_connect = lambda: world.store.pause("maintenance")
    result = world.trigger()
    assert (result["outcome"], result["reason"]) == ("disabled", "paused")


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({"case_id": ""}, "missing_argument"),
        ({"call_auto": 7}, "bad_argument"),
        ({"callPersonId": "P"}, "bad_argument"),
    ],
)
def test_invalid_trigger_names_the_kind_of_fault(
    world: World, caplog: pytest.LogCaptureFixture, kwargs: dict[str, Any], reason: str
) -> None:
    """S2: the log line has the reason, and the wrong field beside it."""
    assert world.trigger(**kwargs)["reason"] == reason
    assert counted(world) == {reason: 1}
    (line,) = [one for one in caplog.records if getattr(one, "reason", None) == reason]
    assert next(iter(kwargs)) in line.__dict__["fault"]


def test_reused_task_id_is_named(world: World) -> None:
    world.upstream.dials = [[record(JOB)]]
    world.trigger()
    assert world.trigger(case_id="C-2")["reason"] == "task_id_reused"


def test_task_id_whose_result_has_expired_is_named(world: World) -> None:
    """S18."""
    world.upstream.dials = [[record(JOB)]]
    world.trigger()
    world.run(100)
    world.redis.delete("t:task:task-1")
    assert world.trigger()["reason"] == "handled_before"


def test_erased_case_is_named(world: World) -> None:
    world.upstream.dials = [[record(JOB)]]
    world.trigger()
    world.run(100)
    world.store.erase("C-1", anyway=True)
    assert world.trigger()["reason"] == "erased"


@pytest.mark.parametrize(
    ("world", "reason"),
    [
        pytest.param(CALLING_HOURS, "calling_hours", id="hours"),
        pytest.param({"dial_rate": 0.01}, "throttled", id="rate"),
    ],
    indirect=["world"],
)
def test_deferred_trigger_names_hours_or_rate(world: World, caplog: pytest.LogCaptureFixture, reason: str) -> None:
    """A duplicate delivery while it waits gets the same result."""
    caplog.set_level(logging.INFO)
    world.clock.move_to(AT_NIGHT)
    world.upstream.dials = [[record(JOB)]]
    if reason == "throttled":
        world.trigger(case_id="C-0", task_id="task-0")
    result = world.trigger()
    assert (result["outcome"], result["reason"]) == ("deferred", reason)
    assert world.trigger().data == result.data
    assert last_event(world) == {"kind": "deferred", "reason": reason, "task_id": "task-1"}
    assert counted(world) == {reason: 2}
    assert reason in logged(caplog)


@pytest.mark.parametrize("world", [CALLING_HOURS], indirect=True)
def test_deferral_of_an_earlier_release_counts_as_calling_hours(world: World) -> None:
    """Its ledger names no reason."""
    world.clock.move_to(AT_NIGHT)
    world.trigger()
    world.redis.hdel("t:ledger:C-1:20", "reason")
    assert world.trigger()["reason"] == "calling_hours"


def test_reasons_are_no_outcomes_and_no_phone_number() -> None:
    """S37: they may stand in labels and logs."""
    assert set(REASONS) & set(get_args(Outcome)) == {"refused"}
    assert all(reason.replace("_", "").isalnum() and reason.isascii() and reason.islower() for reason in REASONS)

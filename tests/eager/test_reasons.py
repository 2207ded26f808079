"""Test that every result without success names its reason: in result, history, notices, counters and logs (S38)."""

import json
import logging
from typing import Any, get_args

import pytest

from api_client import REASONS, ApiError, CallRecord, NotSent, OutcomeUnknown, ProtocolError, Rejected, Unavailable
from tests.fakes import START, World, job_id, record
from worker.core.decision import Outcome
from worker.core.model import Pair
from worker.core.trigger_model import Claimed

JOB = job_id(1)
PAIR = Pair("C-1", "20")
NIGHT = {"calling_hours": "09:00-21:00"}  # the virtual clock starts outside these hours
NOTICES = {"notice_url": "http://127.0.0.1:1/hook", "notice_secret": "a made-up secret"}
notified = pytest.mark.parametrize("world", [NOTICES], indirect=True)


def last_event(world: World) -> dict[str, Any]:
    """Return kind, reason and task of the newest event of the case."""
    event = world.store.history("C-1")[-1]
    return {name: event.get(name) for name in ("kind", "reason", "task_id")}


def counted(world: World, subject: str = "trigger") -> dict[str, int]:
    """Return the counters of reasons."""
    head = f"reasons:{subject}:"
    return {name.removeprefix(head): n for name, n in world.store.counters().items() if name.startswith(head)}


def logged(caplog: pytest.LogCaptureFixture) -> set[str]:
    """Return the reasons that the log lines carry."""
    return {reason for line in caplog.records if (reason := getattr(line, "reason", None))}


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


# triggers without a dial ----------------------------------------------------------------------------------------------


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
    [pytest.param(NIGHT, "calling_hours", id="hours"), pytest.param({"dial_rate": 0.01}, "throttled", id="rate")],
    indirect=["world"],
)
def test_deferred_trigger_names_hours_or_rate(world: World, caplog: pytest.LogCaptureFixture, reason: str) -> None:
    """A duplicate delivery while it waits gets the same result."""
    caplog.set_level(logging.INFO)
    world.clock.move_to(START + 86_400 - START % 86_400 + 15 * 3_600)  # 23:00 in China
    world.upstream.dials = [[record(JOB)]]
    if reason == "throttled":
        world.trigger(case_id="C-0", task_id="task-0")
    result = world.trigger()
    assert (result["outcome"], result["reason"]) == ("deferred", reason)
    assert world.trigger().data == result.data
    assert last_event(world) == {"kind": "deferred", "reason": reason, "task_id": "task-1"}
    assert counted(world) == {reason: 2}
    assert reason in logged(caplog)


@pytest.mark.parametrize("world", [NIGHT], indirect=True)
def test_deferral_of_an_earlier_release_counts_as_calling_hours(world: World) -> None:
    """Its ledger names no reason."""
    world.clock.move_to(START + 86_400 - START % 86_400 + 15 * 3_600)
    world.trigger()
    world.redis.hdel("t:ledger:C-1:20", "reason")
    assert world.trigger()["reason"] == "calling_hours"


# the sweep ------------------------------------------------------------------------------------------------------------


def dead_claim(world: World, expires: float | None = None) -> None:
    arguments = json.dumps({"case_id": "C-1", "mediation_id": "20"})
    claimed = world.store.claim(
        PAIR, token="dead", task_id="task-1", arguments=arguments, expires=expires, enabled=True
    )
    assert claimed == Claimed()


def test_expired_claim_is_named(world: World) -> None:
    dead_claim(world, expires=START + 20)
    world.clock.sleep(31)
    world.sweep()
    assert last_event(world) == {"kind": "dial_failed", "reason": "expired", "task_id": "task-1"}
    assert counted(world) == {"expired": 1}
    state = world.store.trigger_state("task-1", PAIR)
    assert state.result is not None
    assert (state.result["outcome"], state.result["reason"]) == ("failed", "expired")


@pytest.mark.parametrize("world", [NIGHT], indirect=True)
def test_deferred_trigger_that_expires_has_a_result(world: World) -> None:
    """S42: the gateway does not say for ever that it waits."""
    world.clock.move_to(START + 86_400 - START % 86_400 + 15 * 3_600)
    world.trigger()
    world.redis.hset("t:ledger:C-1:20", "expires", f"{world.store.now() + 60:.3f}")
    world.redis.zadd("t:pairs", {"C-1:20": 0})
    world.clock.sleep(61)
    world.sweep()
    state = world.store.trigger_state("task-1", PAIR)
    assert state.result is not None
    assert (state.phase, state.result["reason"]) == ("done", "expired")


def test_result_of_an_earlier_owner_outlasts_the_expiry(world: World) -> None:
    """S18: the slow first owner has called, the second one died."""
    dead_claim(world, expires=START + 20)
    world.redis.set("t:task:task-1", '{"outcome": "started"}')
    world.clock.sleep(31)
    world.sweep()
    state = world.store.trigger_state("task-1", PAIR)
    assert state.result == {"outcome": "started"}


def test_claim_that_is_never_sent_is_named(world: World) -> None:
    """S18."""
    dead_claim(world)
    for _ in range(360):
        world.clock.sleep(10)
        world.sweep()
    assert last_event(world) == {"kind": "dial_failed", "reason": "never_sent", "task_id": "task-1"}
    assert world.trigger()["reason"] == "never_sent"
    assert counted(world) == {"never_sent": 1}


def test_dead_sender_and_its_look_up_are_named(world: World) -> None:
    """S14 S18."""
    dead_claim(world)
    world.store.begin_sending(PAIR, "dead")
    world.sweeping = 1
    world.run(1_000)
    told = [(event["kind"], event.get("reason")) for event in world.store.history("C-1")]
    assert told == [("unknown", "sender_died"), ("nothing_found", "not_found"), ("released", None)]
    assert world.trigger()["reason"] == "sender_died"
    assert counted(world) == {"sender_died": 1}


def test_late_answer_of_a_stopped_sender_changes_nothing_but_the_result(world: World) -> None:
    """S18: the sweep has already made the outcome unknown; the look-up goes on, and nothing is counted twice."""

    def stopped(_request: object) -> list[CallRecord]:
        world.clock.sleep(300)
        world.sweep()
        raise OutcomeUnknown("no answer", reason="timeout")

    world.upstream.dials = [stopped]
    assert world.trigger()["reason"] == "timeout"
    assert counted(world) == {"sender_died": 1}
    assert [event["kind"] for event in world.store.history("C-1")] == ["unknown"]


def test_look_up_without_an_answer_is_named(world: World) -> None:
    """S14: for a day upstream could not be asked."""
    world.sweeping = 900
    world.upstream.dials = [OutcomeUnknown("no answer", reason="timeout")]
    world.upstream.log_entries = Unavailable("down", reason="connect")
    world.trigger()
    world.run(90_000)
    told = [(event["kind"], event.get("reason")) for event in world.store.history("C-1")]
    assert ("nothing_found", "not_asked") in told


# the query before a call ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log_entries", "case_status", "reason"),
    [
        (Unavailable("down", reason="http_403"), ProtocolError("no such call"), "http_403"),
        ([], Unavailable("down", reason="http_5xx"), "http_5xx"),
        (Unavailable("down", reason="dns"), Unavailable("down", reason="timeout"), "dns"),
    ],
)
def test_s5_unanswered_query_before_a_call_names_its_first_failure(
    world: World, log_entries: Any, case_status: ApiError, reason: str
) -> None:
    world.upstream.dials = [[record(JOB)]]
    world.upstream.life = lambda _job, _age: Unavailable("down", reason="http_5xx")
    world.trigger()
    world.run(200)
    world.upstream.log_entries, world.upstream.case_status = log_entries, lambda _case: case_status
    result = world.trigger(task_id="task-2")
    assert (result["outcome"], result["reason"]) == ("failed", reason)
    assert last_event(world) == {"kind": "dial_failed", "reason": reason, "task_id": "task-2"}


# the watch ------------------------------------------------------------------------------------------------------------


def test_s24_lost_watch_names_its_last_failure(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.upstream.dials = [[record(JOB)]]
    failures = iter([Unavailable("down", reason="http_5xx")] * 4)
    world.upstream.life = lambda _job, _age: next(failures, ProtocolError("null", reason="no_status"))
    world.trigger()
    world.run(200)
    assert last_event(world) == {"kind": "lost", "reason": "no_status", "task_id": "task-1"}
    assert counted(world, "query") == {"http_5xx": 4, "no_status": 6}
    assert [line.__dict__["reason"] for line in caplog.records if "重试次数超限" in line.message] == ["no_status"]


def test_s25_expired_watch_names_the_deadline(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.upstream.dials = [[record(JOB)]]
    world.upstream.life = lambda _job, _age: "Executing"
    world.trigger()
    world.run(7_300)
    assert last_event(world) == {"kind": "expired", "reason": "deadline", "task_id": "task-1"}
    assert [line.__dict__["reason"] for line in caplog.records if "轮询超时" in line.message] == ["deadline"]
    assert counted(world, "query") == {}


def test_s28_watch_whose_queries_outlast_their_leases_names_that(world: World) -> None:
    world.upstream.dials = [[record(JOB)]]
    world.trigger()
    world.redis.hset(f"t:job:{JOB}", "retry_count", 10)
    world.run(20)
    assert last_event(world) == {"kind": "lost", "reason": "lease_ended", "task_id": "task-1"}


def test_ended_call_has_no_reason(world: World) -> None:
    """Upstream names none."""
    world.upstream.dials = [[record(JOB)]]
    world.upstream.life = lambda _job, _age: "Failed"
    world.trigger()
    world.run(60)
    assert last_event(world) == {"kind": "ended", "reason": None, "task_id": "task-1"}


def test_reasons_are_no_outcomes_and_no_phone_number() -> None:
    """S37: they may stand in labels and logs."""
    assert set(REASONS) & set(get_args(Outcome)) == {"refused"}
    assert all(reason.replace("_", "").isalnum() and reason.isascii() and reason.islower() for reason in REASONS)

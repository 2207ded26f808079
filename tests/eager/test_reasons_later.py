"""Test that the sweep, a look-up, a query before a call and a watch name their reasons (S38)."""

import json
from typing import Any

import pytest

from api_client import ApiError, CallRecord, OutcomeUnknown, ProtocolError, Unavailable
from tests.fakes import START, job_id, record
from tests.reasons import AT_NIGHT, CALLING_HOURS, counted, last_event
from tests.world import World
from worker.core.model import Pair
from worker.core.trigger_model import Claimed

JOB = job_id(1)
PAIR = Pair("C-1", "20")


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


@pytest.mark.parametrize("world", [CALLING_HOURS], indirect=True)
def test_deferred_trigger_that_expires_has_a_result(world: World) -> None:
    """S42: the gateway does not say for ever that it waits."""
    world.clock.move_to(AT_NIGHT)
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

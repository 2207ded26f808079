"""Test the query of upstream before a new call, after a pair's lost, expired or unknown end (S5)."""

from typing import Any

import pytest

from api_client import CallRecord, ConversationLog, OutcomeUnknown, ProtocolError, Reason, Rejected, Unavailable
from tests.eager.scenes import entry, lose_the_answer, phase
from tests.fakes import START, Dial, job_id, record
from tests.world import World
from worker.core.dial_result import read_answer
from worker.core.model import Call, Pair
from worker.core.trigger_model import Settlement
from worker.store.erasure import Erased

JOB = job_id(1, at=START + 1)
LOST = OutcomeUnknown("POST /call-v2: ReadTimeout")


def lose_the_watch(world: World) -> None:
    world.upstream.life = lambda _job, _age: Unavailable("down")
    world.upstream.dials = [[record(JOB, person="P-1")]]
    assert world.trigger()["outcome"] == "started"
    world.run(200)
    assert phase(world) == "done"
    world.upstream.dials = [[record(job_id(9))]]


def test_lost_call_that_is_still_active_is_watched_again(world: World) -> None:
    """S5: and the new trigger is skipped; the person's telephone does not ring a second time."""
    lose_the_watch(world)
    world.upstream.life = lambda _job, age: "Succeeded" if age > 400 else "Executing"
    result = world.trigger(task_id="task-2")
    assert (result["outcome"], [job["job_id"] for job in result["jobs"]]) == ("skipped", [JOB])
    assert phase(world) == "watching"
    world.run(300)
    assert [call.verdict for call in world.store.calls(job_id=JOB)] == ["ended"]
    assert phase(world) == "done"
    assert len(world.upstream.requests) == 1


def test_lost_call_that_has_ended_frees_the_pair(world: World) -> None:
    """S5: queried, found ended, called again."""
    lose_the_watch(world)
    world.upstream.life = lambda _job, _age: "Failed"
    assert world.trigger(task_id="task-2")["outcome"] == "started"
    assert len(world.upstream.requests) == 2


@pytest.mark.parametrize("reason", ["no_status", "inner_code"])
@pytest.mark.parametrize(
    ("log_entries", "outcome"), [([], "started"), ([entry(JOB)], "skipped"), ([entry(JOB, "Failed")], "started")]
)
def test_lost_call_that_upstream_no_longer_knows_is_judged_by_the_log(
    world: World, reason: Reason, log_entries: list[ConversationLog], outcome: str
) -> None:
    """S5: "no such call" is an answer; else a pair whose call upstream has lost could not be called for a day."""
    lose_the_watch(world)
    world.upstream.life = lambda _job, _age: ProtocolError("GET /status: no callStatus", reason=reason)
    world.upstream.log_entries = log_entries
    assert world.trigger(task_id="task-2")["outcome"] == outcome


def test_unreadable_status_of_a_lost_call_sends_nothing(world: World) -> None:
    """S5: it denies no call."""
    lose_the_watch(world)
    world.upstream.life = lambda _job, _age: ProtocolError("GET /status: unreadable", reason="unreadable")
    assert world.trigger(task_id="task-2")["outcome"] == "failed"
    assert len(world.upstream.requests) == 1


def test_only_calls_without_a_known_end_are_queried(world: World) -> None:
    """S5: neither an ended call of this pair nor another mediation's call."""
    world.upstream.dials = [[record(job_id(3))]]
    assert world.trigger("C-1", "21", task_id="task-0")["outcome"] == "started"
    world.upstream.life = lambda job, _age: "Succeeded" if job == job_id(2) else Unavailable("down")
    world.upstream.dials = [[record(JOB, person="P-1"), record(job_id(2), person="P-2")]]
    assert world.trigger()["outcome"] == "started"
    world.run(200)
    verdicts = {call.job_id: call.verdict for call in world.store.calls(finished=True)}
    assert verdicts == {job_id(3): "lost", job_id(2): "ended", JOB: "lost"}
    world.upstream.queries.clear()
    world.upstream.life = lambda _job, _age: "Failed"
    world.upstream.dials = [[record(job_id(9))]]
    assert world.trigger(task_id="task-2")["outcome"] == "started"
    assert [job for _, job in world.upstream.queries] == [JOB]


def test_unanswered_query_sends_nothing(world: World) -> None:
    """S5: failed, and the pair is free for another trigger, which must query again."""
    lose_the_watch(world)
    world.upstream.log_entries = Unavailable("down")
    assert world.trigger(task_id="task-2")["outcome"] == "failed"
    world.upstream.log_entries = []
    assert world.trigger(task_id="task-3")["outcome"] == "failed"  # the call's own status is still unanswered
    assert len(world.upstream.requests) == 1
    world.upstream.life = lambda _job, _age: "Failed"
    assert world.trigger(task_id="task-4")["outcome"] == "started"


def test_unrecorded_call_is_found_by_the_query(world: World) -> None:
    """S5 S14: after an unknown outcome that was released."""
    lose_the_answer(world)
    world.run(800)
    assert phase(world) == "done"
    world.upstream.log_entries = [entry(JOB)]
    world.upstream.life = lambda _job, _age: "Executing"
    result = world.trigger(task_id="task-2")
    assert (result["outcome"], [job["job_id"] for job in result["jobs"]]) == ("skipped", [JOB])
    assert len(world.upstream.requests) == 1


@pytest.mark.parametrize(
    ("dial", "outcome"),
    [
        pytest.param(LOST, "unknown", id="its answer is lost too"),
        pytest.param([record(job_id(2, at=START + 900))], "started", id="its watch is lost"),
        pytest.param([record(job_id(2, at=START + 900)), record(None, code=None)], "started", id="one without a job"),
        pytest.param([record(None, code=1002)], "refused", id="all are refused"),
        pytest.param(Rejected("POST /call-v2: HTTP 404"), "failed", id="it is rejected"),
    ],
)
def test_late_call_of_a_lost_answer_is_found_after_one_more_trigger(world: World, dial: Dial, outcome: str) -> None:
    """S5 S14: upstream shows the call only after the next request; the one after that does not ring beside it."""
    lose_the_answer(world)
    world.run(800)
    world.upstream.dials = [dial]
    world.upstream.life = lambda _job, _age: Unavailable("down")
    assert world.trigger(task_id="task-2")["outcome"] == outcome
    world.run(800)
    assert phase(world) == "done"
    world.upstream.log_entries = [entry(JOB)]
    world.upstream.life = lambda job, _age: "Executing" if job == JOB else "Failed"
    result = world.trigger(task_id="task-3")
    assert (result["outcome"], [job["job_id"] for job in result["jobs"]]) == ("skipped", [JOB])
    assert len(world.upstream.requests) == 2


def test_call_that_ends_well_ends_the_query_first(world: World) -> None:
    """S5: the pair's last trigger is that one, and its case can be erased."""
    lose_the_answer(world)
    world.run(800)
    world.upstream.dials = [[record(job_id(2, at=START + 900))]]
    assert world.trigger(task_id="task-2")["outcome"] == "started"
    world.run(60)
    assert phase(world) == "done"
    world.upstream.log_entries = Unavailable("down")
    assert world.trigger(task_id="task-3")["outcome"] == "started"
    world.run(60)
    assert isinstance(world.store.erase("C-1", anyway=False), Erased)


@pytest.mark.parametrize(
    ("person", "refused"),
    [pytest.param("P-2", [], id="one person"), pytest.param("", [record(None, code=1002)], id="one is refused")],
)
def test_request_that_calls_not_everyone_leaves_the_query_first(
    world: World, person: str, refused: list[CallRecord]
) -> None:
    """S5 S4: for the others, the lost answer is still the last one of the pair."""
    lose_the_answer(world)
    world.run(800)
    world.upstream.dials = [[record(job_id(2, at=START + 900), person="P-2"), *refused]]
    assert world.trigger(task_id="task-2", call_person_id=person)["outcome"] == "started"
    world.run(60)
    assert phase(world) == "done"
    world.upstream.log_entries = [entry(JOB)]
    world.upstream.life = lambda _job, _age: "Executing"
    assert world.trigger(task_id="task-3")["outcome"] == "skipped"


def test_failure_after_a_good_end_counts_from_the_first_lost_answer(world: World) -> None:
    """S5: a call newly found is watched, whichever request of the last day made it."""
    lose_the_answer(world)
    world.run(800)
    world.upstream.dials = [[record(job_id(2, at=START + 900))]]
    assert world.trigger(task_id="task-2")["outcome"] == "started"
    world.run(60)
    world.upstream.dials = [LOST]
    assert world.trigger(task_id="task-3")["outcome"] == "unknown"
    world.run(800)
    world.upstream.log_entries = [entry(JOB)]
    world.upstream.life = lambda _job, _age: "Executing"
    assert world.trigger(task_id="task-4")["outcome"] == "skipped"


def test_failure_older_than_a_day_does_not_widen_a_later_one(world: World) -> None:
    """S5: calls of a request before that day are not taken for calls of the last one."""
    lose_the_answer(world)
    world.run(800)
    world.clock.sleep(86_401)
    world.upstream.dials = [LOST]
    assert world.trigger(task_id="task-2")["outcome"] == "unknown"
    world.run(800)
    world.upstream.log_entries = [entry(JOB)]
    world.upstream.dials = [[record(job_id(9))]]
    assert world.trigger(task_id="task-3")["outcome"] == "started"


def test_failure_is_forgotten_after_a_day(world: World) -> None:
    """S5: within 24 h."""
    lose_the_watch(world)
    world.clock.sleep(86_401)
    world.upstream.log_entries = Unavailable("down")
    assert world.trigger(task_id="task-2")["outcome"] == "started"


def test_call_found_while_another_mediation_is_sending_is_left_to_it(world: World) -> None:
    """S5 S14: it may belong to the other request; nothing is sent, and nothing adopted."""
    lose_the_watch(world)
    theirs = job_id(4, at=START + 300)
    found: list[object] = []

    def during_the_other_dial(_request: object) -> list[object]:
        world.upstream.log_entries = [entry(theirs)]
        found.append(world.trigger(task_id="task-2")["outcome"])
        return [record(theirs, person="P-2")]

    world.upstream.life = lambda _job, _age: "Executing"
    world.upstream.dials = [during_the_other_dial]  # type: ignore[list-item]
    assert world.trigger("C-1", "21", task_id="task-3")["outcome"] == "started"
    assert found == ["failed"]
    (call,) = world.store.calls()
    assert (call.mediation_id, call.person_id) == ("21", "P-2")


def test_call_stored_by_another_mediation_between_two_reads_is_left_to_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S5 S14: the same, with the other answer stored while the trigger reads the records."""
    lose_the_watch(world)
    theirs, other = job_id(4, at=START + 300), Pair("C-1", "21")
    world.store.claim(other, token="tok", task_id="task-2", arguments="{}", expires=None, enabled=True)
    sent_at = world.store.begin_sending(other, "tok")
    assert isinstance(sent_at, float)
    world.upstream.log_entries = [entry(theirs)]
    world.upstream.life = lambda _job, _age: "Failed"
    read = world.store.calls

    def read_before_the_answer(**which: Any) -> list[Call]:
        calls, end = read(**which), read_answer([record(theirs, person="P-2")], other, interval=10)
        world.store.settle(Settlement(other, "tok", "task-2", end.result, "watching", sent_at, end.jobs, end.events))
        return calls

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "calls", read_before_the_answer)
        assert world.trigger(task_id="task-3")["outcome"] == "failed"
    (call,) = world.store.calls()
    assert (call.job_id, call.shared_with) == (theirs, ())
    world.run(60)


def test_call_named_by_two_answers_holds_both_pairs(world: World) -> None:
    """S5 S14: neither pair is called again while it is watched, and its end releases both."""
    lose_the_answer(world)
    world.upstream.life = lambda _job, age: "Succeeded" if age > 400 else "Executing"
    world.upstream.log_entries = [entry(JOB)]
    world.run(200)
    assert phase(world) == "watching"
    world.upstream.dials = [[record(JOB, person="P-1")]]
    assert world.trigger("C-1", "21", task_id="task-2")["outcome"] == "started"
    (call,) = world.store.calls()
    assert (call.mediation_id, call.person_id, call.call_status) == ("21", "P-1", "Executing")
    for mediation_id in ("20", "21"):
        assert world.trigger("C-1", mediation_id, task_id=f"again-{mediation_id}")["outcome"] == "skipped"
    world.run(300)
    assert (phase(world), phase(world, "21")) == ("done", "done")
    assert world.redis.exists("t:lock:C-1:20", "t:lock:C-1:21") == 0


@pytest.mark.parametrize("again", ["20", "21"])
def test_call_that_holds_two_pairs_is_queried_before_either_calls_again(world: World, again: str) -> None:
    """S5 S14: it was lost and is still active; watched again, it holds both."""
    lose_the_answer(world)
    world.upstream.dials = [LOST]
    assert world.trigger("C-1", "21", task_id="task-2")["outcome"] == "unknown"
    world.upstream.log_entries = [entry(JOB)]
    world.upstream.life = lambda _job, _age: Unavailable("down")
    world.run(300)
    assert [call.verdict for call in world.store.calls(finished=True)] == ["lost"]
    assert (phase(world), phase(world, "21")) == ("done", "done")
    world.upstream.life = lambda _job, age: "Succeeded" if age > 500 else "Executing"
    assert world.trigger("C-1", again, task_id="task-3")["outcome"] == "skipped"
    assert [call.verdict for call in world.store.calls()] == [None]
    for mediation_id in ("20", "21"):
        assert world.trigger("C-1", mediation_id, task_id=f"again-{mediation_id}")["outcome"] == "skipped"
    world.run(300)
    assert world.redis.exists("t:lock:C-1:20", "t:lock:C-1:21", "t:live:C-1:20", "t:live:C-1:21") == 0
    assert len(world.upstream.requests) == 2


def test_late_answer_with_a_lost_call_makes_the_next_trigger_query(world: World) -> None:
    """S5: for whichever mediation it was watched."""
    lose_the_answer(world)
    world.upstream.life = lambda _job, _age: Unavailable("down")
    world.upstream.log_entries = [entry(JOB)]
    world.run(300)
    assert phase(world) == "done"
    world.upstream.dials = [[record(JOB, person="P-1")]]
    assert world.trigger("C-1", "21", task_id="task-2")["outcome"] == "started"
    assert phase(world, "21") == "done"
    world.upstream.life = lambda _job, _age: "Executing"
    assert world.trigger("C-1", "21", task_id="task-3")["outcome"] == "skipped"
    assert len(world.upstream.requests) == 2


@pytest.mark.parametrize("world", [{"history_ttl": 60}], indirect=True, ids=["a minute of history"])
def test_failure_is_remembered_for_a_day_even_with_a_short_history(world: World) -> None:
    """S5: within 24 h."""
    lose_the_watch(world)
    world.clock.sleep(3_600)
    world.upstream.life = lambda _job, _age: "Executing"
    assert world.trigger(task_id="task-2")["outcome"] == "skipped"
    assert len(world.upstream.requests) == 1

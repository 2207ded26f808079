"""Test against second calls: after days without a worker, with half an upstream, by a broker that redelivers."""

import itertools
from typing import Any

import pytest

from api_client import CallRequest, CallStatus, OutcomeUnknown, ProtocolError, Unavailable
from tests.eager.scenes import entry, killed, phase
from tests.fakes import START, job_id, record
from tests.world import World
from worker.core import texts
from worker.core.model import Pair

DAY = 86_400
five_minutes = pytest.mark.parametrize("world", [{"max_poll_duration": 300}], indirect=True, ids=["five minutes"])
PAIR = Pair("C-1", "20")
JOB = job_id(1, at=START + 1)
LOST = OutcomeUnknown("POST /call-v2: ReadTimeout")


# -- days without a worker ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [1.2, 30])
def test_trigger_with_a_sent_request_does_not_dial_after_days(world: World, days: float) -> None:
    """S18: ledger and handled task id have no time to live until the pair is done."""
    killed(world, sending=True)
    world.clock.sleep(days * DAY)
    world.upstream.dials = [[record(JOB)]]
    assert world.trigger() is None, (
        "the request left: the duplicate delivery returns no result until the outcome is known"
    )
    world.sweep()
    assert world.trigger()["outcome"] == "unknown"
    assert world.trigger(task_id="task-2")["outcome"] == "skipped"
    assert world.upstream.requests == []


def test_handled_task_id_lives_for_a_day_after_its_pair_is_done(world: World) -> None:
    """S17 S18: the time to live begins with `done`."""
    killed(world, sending=True)
    world.clock.sleep(2 * DAY)
    world.sweeping = 60
    world.run(900)
    assert phase(world) == "done"
    assert 0 < world.redis.ttl(world.keys.task("task-1")) <= DAY
    assert world.trigger()["outcome"] == "unknown"
    assert world.upstream.requests == []


def test_watch_outlasts_days_without_a_worker(world: World) -> None:
    """S25 S28: the call keeps its record, is queried once more, and its end is published."""
    world.upstream.dials = [[record(JOB)]]
    assert world.trigger()["outcome"] == "started"
    world.queue.heap.clear()
    world.clock.sleep(3 * DAY)
    world.sweeping = 1
    world.run(5)
    assert world.events() == ["ended"], "the case's history is a day long"
    assert len(world.upstream.queries) == 1
    assert phase(world) == "done"


def test_open_pair_without_a_ledger_is_looked_up_before_a_call(world: World) -> None:
    """S18 S5: the server lost a key; a telephone may be ringing."""
    world.redis.zadd(world.keys.pairs, {"C-1:20": START + 60})
    world.upstream.dials = [[record(job_id(9))]]
    world.upstream.life = lambda _job, _age: "Executing"
    world.upstream.log_entries = [entry(JOB)]
    result = world.trigger()
    assert (result["outcome"], [job["job_id"] for job in result["jobs"]]) == ("skipped", [JOB])


@pytest.mark.parametrize("active", [True, False])
def test_sweep_remembers_an_open_pair_without_a_ledger(world: World, active: bool) -> None:
    """S18 S5: its state is lost, so its next trigger queries upstream first."""
    world.redis.zadd(world.keys.pairs, {"C-1:20": START - 1})
    world.sweep()
    assert phase(world) == "done"
    world.upstream.dials = [[record(job_id(9))]]
    world.upstream.log_entries = [entry(JOB, "Executing" if active else "Succeeded")]
    assert world.trigger()["outcome"] == ("skipped" if active else "started")


@five_minutes
def test_lost_ledger_does_not_release_watched_calls(world: World) -> None:
    """S5 S18: the last call releases the pair, with the token in its lock."""
    world.upstream.dials = [[record(JOB)]]
    world.upstream.life = lambda _job, age: "Succeeded" if age > 10_000 else "Executing"
    world.trigger()
    world.redis.delete(world.keys.ledger(PAIR), world.keys.task("task-1"))
    world.redis.zadd(world.keys.pairs, {"C-1:20": START - 1})
    world.sweep()
    assert phase(world) == "watching"
    assert world.trigger(task_id="task-2")["outcome"] == "skipped"
    world.run(320)
    assert phase(world) == "done"
    assert not world.redis.exists(world.keys.lock(PAIR))


def test_watched_call_without_a_record_does_not_hold_its_pair_for_ever(world: World) -> None:
    """S5: the safety limit of the watch removes it, and the next trigger queries upstream first."""
    world.upstream.dials = [[record(JOB)]]
    world.trigger()
    world.redis.delete(world.keys.job(JOB))
    world.queue.heap.clear()
    world.sweeping = 60
    world.run(7_400)
    assert phase(world) == "done"
    world.upstream.log_entries = Unavailable("down")
    assert world.trigger(task_id="task-2")["outcome"] == "failed"


# -- half an upstream --------------------------------------------------------------------------------------------------


def test_status_of_another_mediations_call_denies_nothing(world: World) -> None:
    """S5: the status by case names only one call; without the conversation log no request is sent."""
    world.upstream.dials = [LOST]
    world.upstream.log_entries = Unavailable("GET /conversation-log: answer too large")
    assert world.trigger()["outcome"] == "unknown"
    assert world.store.release(PAIR, by="me", why="a test") == "released"
    other = job_id(5, at=START + 100)
    status = CallStatus.model_validate({"jobId": other, "callStatus": "Succeeded"})
    world.upstream.case_status = lambda _case: status
    world.upstream.dials = [[record(job_id(9))]]
    assert world.trigger(task_id="task-2")["outcome"] == "failed"
    assert len(world.upstream.requests) == 1


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(Unavailable("GET /status: ReadTimeout"), "failed"), (ProtocolError("GET /status: data null"), "started")],
    ids=["no answer", "no such call"],
)
def test_query_before_a_call_also_needs_the_status_answer(world: World, status: Any, outcome: str) -> None:
    """S5: the answer that there is no such call is sufficient."""
    world.upstream.dials = [LOST]
    assert world.trigger()["outcome"] == "unknown"
    assert world.store.release(PAIR, by="me", why="a test") == "released"
    world.upstream.case_status = lambda _case: status
    world.upstream.dials = [[record(job_id(9))]]
    assert world.trigger(task_id="task-2")["outcome"] == outcome


def test_look_ups_continue_until_one_is_answered(world: World) -> None:
    """S14: a call that upstream did not name for an hour is watched once it appears, and was never reported missing."""
    world.upstream.dials = [LOST]
    world.upstream.log_entries = Unavailable("down")
    world.upstream.life = lambda _job, _age: "Executing"
    assert world.trigger()["outcome"] == "unknown"
    world.sweeping = 5
    looks: list[float] = []
    world.upstream.case_status = lambda _case: looks.append(world.clock.monotonic()) or Unavailable("down")  # type: ignore[func-returns-value]
    world.sweeping = 15
    world.run(3_600)
    assert world.events() == ["unknown"]
    gaps = [later - earlier for earlier, later in itertools.pairwise(looks) if earlier > 130]
    assert len(gaps) > 50
    assert min(gaps) >= 60, "at most once a minute"
    world.upstream.log_entries = [entry(JOB)]
    world.upstream.case_status = lambda _case: ProtocolError("data null")
    world.run(70)
    assert world.events() == ["unknown", "adopted"]
    world.run(130)
    assert phase(world) == "watching"


def test_window_begins_with_the_first_answer_after_an_outage(world: World) -> None:
    """S14: 120 s from there, then the hold."""
    world.upstream.dials = [LOST]
    world.upstream.log_entries = Unavailable("down")
    assert world.trigger()["outcome"] == "unknown"
    world.sweeping = 5
    world.run(600)
    world.upstream.log_entries = []
    world.run(119)
    assert world.events() == ["unknown"]
    world.run(80)
    assert world.events() == ["unknown", "nothing_found"]
    assert world.store.history("C-1")[-1]["message"] == texts.NOTHING_FOUND


def test_day_without_an_answer_is_published_and_the_next_trigger_queries_first(world: World) -> None:
    """S14 S5: upstream did not answer; the failure is remembered from the release on."""
    world.upstream.dials = [LOST]
    world.upstream.log_entries = Unavailable("down")
    assert world.trigger()["outcome"] == "unknown"
    world.sweeping = 60
    world.run(300)
    world.clock.sleep(DAY - 500)
    world.run(120)
    assert world.events() == ["unknown"]
    world.run(900)
    assert world.events() == ["nothing_found", "released"], "the history of a case is a day long"
    assert world.store.history("C-1")[0]["message"] == texts.NOT_ASKED
    assert world.trigger(task_id="task-2")["outcome"] == "failed"
    assert len(world.upstream.requests) == 1


# -- calls that are forgotten too soon, or brought back ----------------------------------------------------------------


@pytest.mark.parametrize(
    "world", [{"max_poll_duration": 300}, {"max_poll_duration": 300, "history_ttl": 60}], indirect=True, ids=str
)
def test_ended_call_is_remembered_as_long_as_its_siblings_failure(world: World) -> None:
    """S5: otherwise it would pass for a new call and end a second time."""
    other = job_id(2, at=START + 2)
    world.upstream.dials = [[record(JOB, person="P-1"), record(other, person="P-2")]]
    world.upstream.life = lambda job, _age: "Succeeded" if job == JOB else "Executing"
    world.upstream.log_entries = [entry(other, "Succeeded"), entry(JOB, "Executing")]  # the log is late
    assert world.trigger()["outcome"] == "started"
    world.run(320)
    verdicts = {call.job_id: call.verdict for job in (JOB, other) for call in world.store.calls(job_id=job)}
    assert verdicts == {JOB: "ended", other: "expired"}
    world.clock.sleep(DAY - 200)
    world.upstream.life = lambda _job, _age: "Succeeded"
    world.upstream.dials = [[record(job_id(9))]]
    assert world.trigger(task_id="task-2")["outcome"] == "started"


def test_terminal_call_is_not_watched_again(world: World) -> None:
    """S5: a newly found call that has ended holds no pair."""
    world.upstream.dials = [LOST]
    assert world.trigger()["outcome"] == "unknown"
    assert world.store.release(PAIR, by="me", why="a test") == "released"
    world.upstream.log_entries = [entry(JOB, "Failed")]
    world.upstream.dials = [[record(job_id(9))]]
    assert world.trigger(task_id="task-2")["outcome"] == "started"
    assert [call.job_id for call in world.store.calls()] == [job_id(9)]


@pytest.mark.parametrize("status", ["Succeeded", "Executing"])
def test_answer_past_the_deadline_of_its_calls_queries_once(world: World, status: str) -> None:
    """S25: its sender was stopped for three hours."""

    def stopped(_request: CallRequest) -> list[Any]:
        world.clock.sleep(3 * 3_600)
        return [record(JOB, person="P-1")]

    world.upstream.dials = [stopped]
    world.upstream.life = lambda _job, _age: status
    world.sweeping = 1
    assert world.trigger()["outcome"] == "started"
    world.run(15)
    assert len(world.upstream.queries) == 1
    assert world.events() == ["started", "ended" if status == "Succeeded" else "expired"]


def test_answer_moves_a_call_to_the_mediation_that_it_names(world: World) -> None:
    """S14: adopted by one mediation's look-up, named by the other's answer; its end is published for the latter."""
    world.upstream.dials = [LOST]
    assert world.trigger()["outcome"] == "unknown"
    world.sweeping = 5
    world.upstream.log_entries = [entry(JOB)]
    world.upstream.life = lambda _job, age: "Succeeded" if age > 300 else "Executing"
    world.run(30)
    world.upstream.dials = [[record(JOB, person="P-1")]]
    assert world.trigger("C-1", "21", task_id="task-2")["outcome"] == "started"
    (call,) = world.store.calls()
    assert (call.mediation_id, call.shared_with) == ("21", (PAIR,))
    world.run(400)
    (ended,) = [event for event in world.store.history("C-1") if event["kind"] == "ended"]
    assert ended["mediation_id"] == "21"
    assert (phase(world), phase(world, "21")) == ("done", "done")


# -- a broker that redelivers ------------------------------------------------------------------------------------------


def test_task_id_that_has_dialled_does_not_dial_again_for_a_month(world: World) -> None:
    """S18: its pair is done and its result expired (S17); the broker kept the message, or a process was suspended."""
    world.upstream.dials = [[record(JOB)], [record(job_id(9))]]
    assert world.trigger()["outcome"] == "started"
    world.run(20)
    assert phase(world) == "done"
    world.clock.sleep(30 * DAY)
    world.sweep()
    assert not world.redis.exists(world.keys.task("task-1"))
    flow = world.parts.trigger_flow()
    result = flow({"case_id": "C-1", "mediation_id": "20"}, task_id="task-1")
    assert result is not None
    assert (result["outcome"], result["message"]) == ("skipped", texts.HANDLED_BEFORE)
    assert len(world.upstream.requests) == 1


def test_sent_requests_are_remembered_for_31_days(world: World) -> None:
    """S18: the record is bounded."""
    world.upstream.dials = [[record(JOB)]]
    world.trigger()
    world.run(20)
    world.clock.sleep(31 * DAY)
    world.sweep()
    assert world.redis.zcard(world.keys.dialled) == 0

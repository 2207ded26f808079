"""Test that a trigger calls once: its queries, the result of each answer, its messages, and the pair's release."""

import logging
from typing import Any

import pytest

from api_client import ApiError, NotSent, OutcomeUnknown, Rejected
from tests.fakes import START, World, job_id, record
from worker.core.interfaces import StoreRefused, StoreUnavailable, StoreUnconfirmed
from worker.core.messages import TriggerResult
from worker.core.model import NewJob, Pair, Settlement
from worker.store import RedisStore

JOB = job_id(1)


def locked(world: World) -> bool:
    return bool(world.redis.exists("t:lock:C-1:20"))


def test_trigger_calls_and_watches(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """S1 S3 S11 S15 S18: the request's defaults, the two log lines, the result, and a poll for each call."""
    caplog.set_level(logging.INFO)
    world.upstream.dials = [
        [record(JOB, person="person-0001", callStatus="Executing"), record(job_id(2), person="P-2")]
    ]
    result = world.trigger(mediation_id=20)
    assert result.data == {
        "outcome": "started",
        "case_id": "C-1",
        "mediation_id": "20",
        "jobs": [
            {"job_id": JOB, "person_id": "person-0001", "call_status": "Executing"},
            {"job_id": job_id(2), "person_id": "P-2", "call_status": "Scheduling"},
        ],
        "refused": [],
        "message": "",
    }
    (_, request), *others = world.upstream.requests
    assert others == []
    assert (request.case_id, request.mediation_id, request.call_auto, request.call_person_id) == ("C-1", "20", 0, "")
    assert "发起外呼,mediationId: 20, caseId: C-1" in caplog.messages
    assert f"存储 jobId: {JOB}, callStatus: Executing" in caplog.messages
    assert f"存储 jobId: {job_id(2)}, callStatus: Scheduling" in caplog.messages
    assert sorted(world.redis.zrange("t:due", 0, -1)) == [JOB, job_id(2)]
    assert {call.poll_no for call in world.store.calls()} == {1}
    call = world.store.calls(job_id=JOB)[0]
    assert (call.started_at, call.deadline, call.executing_since) == (START, START + 7_200, START)


def test_started_record_without_a_status_is_scheduling(world: World) -> None:
    """S10."""
    world.upstream.dials = [[record(JOB, callStatus=None)]]
    assert world.trigger()["jobs"][0]["call_status"] == "Scheduling"


def test_trigger_parameters_reach_upstream(world: World) -> None:
    """S3 S4: a trigger for one person shares the pair's lock."""
    world.upstream.dials = [[record(JOB)]]
    assert world.trigger(call_auto=1, call_person_id="P-7")["outcome"] == "started"
    assert (world.upstream.requests[0][1].call_auto, world.upstream.requests[0][1].call_person_id) == (1, "P-7")
    assert world.trigger(task_id="task-2", call_person_id="P-8")["outcome"] == "skipped"
    assert len(world.upstream.requests) == 1


@pytest.mark.parametrize(
    ("case_id", "mediation_id"),
    [("", "20"), ("C-1", ""), ("  ", "20"), (None, "20"), ("C-1", None)],
    ids=["empty case", "empty mediation", "blank case", "no case", "no mediation"],
)
def test_missing_parameters_make_no_call(
    world: World, caplog: pytest.LogCaptureFixture, case_id: Any, mediation_id: Any
) -> None:
    """S2."""
    result = world.trigger(case_id, mediation_id)
    assert result["outcome"] == "invalid"
    assert result["message"].startswith("缺少必要参数,跳过外呼触发: ")
    assert "缺少必要参数,跳过外呼触发" in caplog.messages
    assert world.upstream.requests == []
    assert set(world.redis.scan_iter("*")) == {world.keys.counters}
    assert world.parts.store.counters() == {"triggers:invalid": 1}


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        pytest.param(
            {"case_id": ["C-1"]},
            "case_id: of type list, should be a text of 1 to 200 characters, all printable",
            id="a list",
        ),
        pytest.param({"case_id": "x" * 201}, "case_id: a text of 201 characters, should be", id="too long"),
        pytest.param({"case_id": "\ud800"}, "case_id: a text of 1 characters, should be", id="no Unicode text"),
        pytest.param({"mediation_id": True}, "mediation_id: a number out of range", id="a truth value"),
        pytest.param({"call_auto": 2}, "call_auto: a number out of range, should be 0 (automatic) or 1", id="auto 2"),
        pytest.param({"call_auto": "yes"}, "call_auto: a text of 3 characters, should be 0", id="auto text"),
        pytest.param({"call_person_id": {}}, "call_person_id: of type dict, should be a text", id="person"),
    ],
)
def test_invalid_kwargs_are_named_and_make_no_call(world: World, kwargs: dict[str, Any], reason: str) -> None:
    """S38: validated again on arrival; one line names the field, the value's kind and the expected value."""
    result = world.trigger(**({"case_id": "C-1", "mediation_id": "20"} | kwargs))
    assert result["outcome"] == "invalid"
    assert reason in result["message"]
    assert "\n" not in result["message"]
    assert world.upstream.requests == []


def test_kwargs_of_a_newer_version_are_accepted(world: World) -> None:
    """S38: unknown ones are ignored, None is the default."""
    world.upstream.dials = [[record(JOB)]]
    assert world.trigger(call_auto=None, call_person_id=None, novelty=1, v=2)["outcome"] == "started"


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({"callPersonId": "person-0001"}, "callPersonId: unknown, should be call_person_id"),
        ({"call_persn_id": "person-0001", "v": 1}, "call_persn_id: unknown, should be call_person_id"),
        ({"callAuto": 1}, "callAuto: unknown, should be call_auto"),
        ({"zzz": 1}, "zzz: unknown, should be one of case_id, mediation_id, call_auto, call_person_id"),
        ({"a\nb": 1}, "ab: unknown"),
        ({"v": "2", "zzz": 1}, "v: a text of 1 characters, should be a whole number, 1 for this version"),
        ({"v": 0}, "v: a number out of range"),
    ],
)
def test_s38_unknown_kwargs_make_no_call(
    world: World, kwargs: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A misspelt person would otherwise call everyone in the case."""
    result = world.trigger(**({"case_id": "C-1", "mediation_id": "20"} | kwargs))
    assert result["outcome"] == "invalid"
    assert reason in result["message"]
    assert world.upstream.requests == []
    assert "person-0001" not in caplog.text


def test_s38_task_id_of_another_pair_makes_no_call_and_keeps_the_first_result(world: World) -> None:
    world.upstream.dials = [[record(JOB)]]
    first = world.parts.trigger_flow()
    started = first({"case_id": "C-1", "mediation_id": "20"}, task_id="task-1")
    other = first({"case_id": "C-2", "mediation_id": "20"}, task_id="task-1")
    assert started is not None
    assert other is not None
    assert (started["outcome"], other["outcome"]) == ("started", "invalid")
    assert "task id: used before for another pair, should be a new one" in other["message"]
    assert len(world.upstream.requests) == 1
    again = first({"case_id": "C-1", "mediation_id": "20"}, task_id="task-1")
    assert again is not None
    assert again["outcome"] == "started"


def test_refused_persons_are_reported_with_the_started_ones(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """S8 S9: one warning, masked in the log, complete in the result, with the record's details."""
    world.upstream.dials = [
        [
            record(JOB, person="person-0001"),
            record(
                None, code=1001, person="person-0002", message="请等待", startTime="2026-02-08 09:00", callInterval=30
            ),
            record(None, code=1002, person="person-0003", message=None),
        ]
    ]
    result = world.trigger()
    assert result["outcome"] == "started"
    assert result["message"] == "部分联系人外呼失败:person-0002(请等待)、person-0003(未知错误)"
    assert "部分联系人外呼失败:***0002(未到下一轮外呼时间,请等待)、***0003(外呼次数已达上限)" in caplog.messages
    assert result["refused"] == [
        {
            "person_id": "person-0002",
            "error_code": 1001,
            "message": "请等待",
            "start_time": "2026-02-08 09:00",
            "call_interval": 30,
        },
        {"person_id": "person-0003", "error_code": 1002, "message": "未知错误"},
    ]
    assert world.events() == ["started", "refused", "refused"]
    assert "person-0002" not in str(world.store.history("C-1"))
    assert locked(world)


def test_all_refused_releases_the_pair(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """S8 S9: no person is called again automatically."""
    world.upstream.dials = [
        [record(None, code=1002, person="person-0003", message="已达上限"), record(None, code=7, person=None)]
    ]
    result = world.trigger()
    assert (result["outcome"], result["message"]) == ("refused", "外呼失败:person-0003(已达上限)、未知联系人(未知错误)")
    assert "外呼失败:***0003(外呼次数已达上限)、未知联系人(错误码 7)" in caplog.messages
    assert not locked(world)
    world.run(9_000)
    assert len(world.upstream.requests) == 1
    assert world.trigger(task_id="task-2")["outcome"] == "refused"


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([record(None)], id="code 0 without a job"),
        pytest.param([record(None), record(None, code=1002)], id="and one refused"),
        pytest.param([], id="an empty list"),
        pytest.param([record(JOB, code=None)], id="a job without a code"),
    ],
)
def test_answer_without_a_job_is_unknown(world: World, records: list[Any]) -> None:
    """S7: no record has a jobId."""
    world.upstream.dials = [records]
    result = world.trigger()
    assert result["outcome"] == "unknown"
    assert locked(world)
    assert world.events()[-1] == "unknown"


def test_record_without_a_job_among_started_ones_is_warned_about(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """S7: a protocol error of that record; the others are watched."""
    world.upstream.dials = [[record(JOB), record(None, person="person-0009")]]
    assert world.trigger()["outcome"] == "started"
    assert "外呼记录缺少 jobId,通话结果未知:***0009" in caplog.messages


@pytest.mark.parametrize("status", [301, 400, 404, 429])
def test_refused_request_fails_at_once_and_frees_the_pair(
    world: World, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """S12: one request, no retry."""
    world.upstream.dials = [Rejected(f"POST /call-v2: HTTP {status}")]
    result = world.trigger()
    assert (result["outcome"], result["message"]) == ("failed", "发起外呼失败,请稍后重试")
    assert f"makeCallV2 failed: POST /call-v2: HTTP {status}" in caplog.messages
    assert len(world.upstream.requests) == 1
    assert not locked(world)
    assert world.events() == ["dial_failed"]


def test_unsent_request_is_retried_three_times(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """S12: with back-off, within the 30 s of a claim; then failed, and the pair is free."""
    world.upstream.dials = [NotSent("POST /call-v2: connection refused")]
    attempts: list[None] = []
    world.upstream.before_connect = lambda: attempts.append(None)
    assert world.trigger()["outcome"] == "failed"
    assert len(attempts) == 4
    assert world.clock.slept == [0.5, 1.0, 2.0]
    assert "makeCallV2 failed: POST /call-v2: connection refused" in caplog.messages
    assert not locked(world)


def test_second_attempt_may_succeed(world: World) -> None:
    """S12: and makes the only request."""
    world.upstream.dials = [NotSent("refused"), NotSent("refused"), [record(JOB)]]
    assert world.trigger()["outcome"] == "started"
    assert len(world.upstream.requests) == 1


def test_lost_answer_is_unknown_and_never_sent_again(world: World) -> None:
    """S13 S14: the lock stays, every further trigger is skipped, with a message."""
    world.upstream.dials = [OutcomeUnknown("POST /call-v2: ReadTimeout")]
    result = world.trigger()
    assert (result["outcome"], result["message"]) == ("unknown", "外呼结果未知,电话可能已拨出,请勿重复发起")
    assert locked(world)
    assert world.trigger(task_id="task-2")["outcome"] == "skipped"
    assert len(world.upstream.requests) == 1
    assert world.events() == ["unknown"]


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


@pytest.mark.parametrize("error", [NotSent("x"), Rejected("x"), OutcomeUnknown("x")])
def test_persons_and_numbers_stay_out_of_logs_reprs_and_events(
    world: World, caplog: pytest.LogCaptureFixture, error: ApiError
) -> None:
    """S37: for any outcome of the dial."""
    caplog.set_level(logging.DEBUG)
    phone = "138" + "0000" + "1111"
    world.upstream.dials = [error]
    world.trigger(call_person_id="person-0001")
    world.upstream.dials = [
        [record(JOB, person="person-0001"), record(None, code=5, person="person-0002", message=phone)]
    ]
    result = world.trigger(case_id="C-9", task_id="task-9", call_person_id="person-0001")
    world.run(30)
    seen = caplog.text + repr(result) + str(world.store.history("C-9")) + str(world.store.history("C-1"))
    assert "person-000" not in seen
    assert phone not in repr(result) + str(world.store.history("C-9"))


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
    assert locked(world) is bool(requests)
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

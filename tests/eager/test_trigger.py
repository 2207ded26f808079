"""Test that a trigger calls once: its queries, the result of each answer, its messages, and the pair's release."""

import logging
from typing import Any

import pytest

from api_client import ApiError, NotSent, OutcomeUnknown, Rejected
from tests.eager.scenes import locked
from tests.fakes import PHONE, START, job_id, record
from tests.world import World

JOB = job_id(1)


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


@pytest.mark.parametrize("error", [NotSent("x"), Rejected("x"), OutcomeUnknown("x")])
def test_persons_and_numbers_stay_out_of_logs_reprs_and_events(
    world: World, caplog: pytest.LogCaptureFixture, error: ApiError
) -> None:
    """S37: for any outcome of the dial."""
    caplog.set_level(logging.DEBUG)
    world.upstream.dials = [error]
    world.trigger(call_person_id="person-0001")
    world.upstream.dials = [
        [record(JOB, person="person-0001"), record(None, code=5, person="person-0002", message=PHONE)]
    ]
    result = world.trigger(case_id="C-9", task_id="task-9", call_person_id="person-0001")
    world.run(30)
    seen = caplog.text + repr(result) + str(world.store.history("C-9")) + str(world.store.history("C-1"))
    assert "person-000" not in seen
    assert PHONE not in repr(result) + str(world.store.history("C-9"))

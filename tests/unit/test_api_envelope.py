"""The envelope: every invalid answer raises one exception, which quotes nothing."""

import json
import threading
import tracemalloc
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_client import envelope as module
from api_client.envelope import (
    LARGE,
    MAX_LOGS,
    MAX_OTHERS,
    UnexpectedAnswerError,
    call_records,
    call_status,
    conversation_logs,
    retry_after,
)
from worker.core.decision import judge_record

SECRET = "张三"
STATUS = {"jobId": "J1", "callStatus": "Executing"}


def envelope(data: Any, code: Any = 200) -> bytes:
    return json.dumps({"code": code, "message": SECRET, "data": data}).encode()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>502</html>", id="HTML"),
        pytest.param(envelope([])[:-1], id="cut off"),
        pytest.param(envelope([]) + b"x", id="something behind it"),
        pytest.param(b"\xef\xbb\xbf" + envelope([]), id="byte order mark"),
        pytest.param(envelope([]).decode().encode("utf-16"), id="UTF-16"),
        pytest.param('{"code": 200, "data": [], "message": "成功"}'.encode("gbk"), id="GBK"),
        pytest.param(b'{"code": 200, "data": [], "message": "\\ud800"}', id="lone surrogate"),
        pytest.param(b'{"code": 200, "data": [NaN]}', id="NaN"),
        pytest.param(b'{"code": 200, "data": ' + b"[" * 200_000, id="nested without end"),
        pytest.param(b'{"code": 200, "data": ' + b"9" * 5000 + b"}", id="an endless number"),
        pytest.param(b"[]", id="no envelope"),
        pytest.param(b'"200"', id="a string"),
        pytest.param(b'{"data": []}', id="no code"),
        pytest.param(envelope([], code=500), id="inner code 500"),
        pytest.param(envelope([], code=True), id="inner code true"),
        pytest.param(envelope(None), id="data null"),
        pytest.param(b'{"code": 200}', id="data missing"),
        pytest.param(envelope("x"), id="data a string"),
    ],
)
@pytest.mark.parametrize("read", [call_records, conversation_logs, lambda body: call_status(body, asked=None)])
def test_invalid_answer_is_one_exception(read: Any, body: bytes) -> None:
    """S13, S23."""
    with pytest.raises(UnexpectedAnswerError) as caught:
        read(body)
    assert SECRET not in str(caught.value)


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(lambda data: json.dumps(data).encode()))
def test_arbitrary_bytes_raise_no_other_exception(body: bytes) -> None:
    for read in (call_records, conversation_logs):
        with pytest.raises(UnexpectedAnswerError):
            read(body)


@pytest.mark.parametrize("code", [200, 201, "201"])
def test_codes_200_and_201_are_successes(code: Any) -> None:
    """Section 5: 201, and 200 as well."""
    assert [record.job_id for record in call_records(envelope([{"jobId": "J1"}, None], code))] == ["J1", None]
    assert conversation_logs(envelope([], code)) == []
    assert call_status(envelope(STATUS, code), asked="J1").call_status == "Executing"


@pytest.mark.parametrize("data", [{}, [STATUS], {"callStatus": None}, {"callStatus": " "}, {"callStatus": 3}], ids=repr)
def test_status_without_call_status_is_refused(data: Any) -> None:
    """S23."""
    with pytest.raises(UnexpectedAnswerError, match="no callStatus"):
        call_status(envelope(data), asked="J1")


@pytest.mark.parametrize(
    ("answered", "asked", "accepted"),
    [
        pytest.param("J1", "J1", True, id="the job asked for"),
        pytest.param(None, "J1", True, id="the answer names none"),
        pytest.param("", "J1", True, id="the answer names an empty one"),
        pytest.param(17, "17", True, id="as a number"),
        pytest.param("J2", None, True, id="a look-up asks for no job"),
        pytest.param("J2", "J1", False, id="another job"),
        pytest.param("no id", "J1", False, id="nothing that could be a job id"),
        pytest.param(["J1"], "J1", False, id="a list"),
    ],
)
def test_answer_for_another_job_is_refused(answered: Any, asked: str | None, accepted: bool) -> None:
    """S23: the answer for another job is a failed query."""
    body = envelope({**STATUS, "jobId": answered})
    if accepted:
        assert call_status(body, asked=asked).call_status == "Executing"
    else:
        with pytest.raises(UnexpectedAnswerError, match="another job's answer"):
            call_status(body, asked=asked)


NOW = 1_770_463_000.0


def http_date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(NOW + seconds, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param("7", 7.0, id="seconds"),
        pytest.param(" 0 ", 0.0, id="none"),
        pytest.param("3600", 300.0, id="more than five minutes"),
        pytest.param("9" * 5000, 300.0, id="for ever"),
        pytest.param(http_date(20), 20.0, id="a date"),
        pytest.param(http_date(20).replace("GMT", "-0000"), 20.0, id="a date without a zone"),
        pytest.param(http_date(-20), 0.0, id="a date gone by"),
        pytest.param(http_date(9999), 300.0, id="a late date"),
        pytest.param("-5", None, id="negative"),
        pytest.param("soon", None, id="a word"),
        pytest.param(None, None, id="not asked"),
    ],
)
def test_retry_after_is_parsed(header: str | None, expected: float | None) -> None:
    assert retry_after(header, now=NOW) == expected


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,6} \d\d:\d\d:\d\d ([A-Z]{3}|[+-]\d{2,5})"))
def test_arbitrary_retry_after_raises_no_exception(header: str) -> None:
    asked = retry_after(header, now=NOW)
    assert asked is None or 0 <= asked <= 300


QUARTER = 256 * 1024  # bytes of an answer, the largest answer has four times as many


@pytest.mark.parametrize(
    "value", ["0,", "{},", "[],", '{"errorCode":1002},', '{"errorCode":0,"personId":"P"},'], ids=repr
)
def test_answer_of_smallest_records_needs_bounded_memory(value: str) -> None:
    """S39: as separate records they would take three hundred times as much."""
    number = QUARTER // len(value)
    body = b'{"code": 201, "data": [' + (value * number).encode() + b"0]}"
    tracemalloc.start()
    try:
        records = call_records(body)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(records) == number + 1
    assert kept < 12 * QUARTER
    assert peak < 48 * QUARTER


def test_beyond_a_thousand_records_only_those_with_a_job_are_kept() -> None:
    """S18, S38: later records without a job keep only refused or not, and no person."""
    refusal, fault = {"errorCode": 1002, "personId": "P-1"}, {"errorCode": 0, "personId": "P-1"}
    others = [refusal] * MAX_OTHERS + [refusal, fault, {"personId": "P-1"}]
    calls = [{"errorCode": 0, "jobId": f"J{number}", "personId": f"P-{number}"} for number in range(MAX_OTHERS + 1)]
    records = call_records(envelope(others + calls))
    assert {record.person_id for record in records[:MAX_OTHERS]} == {"P-1"}
    assert [record.person_id for record in records[MAX_OTHERS : len(others)]] == [None] * 3
    kinds = [judge_record(record.error_code, record.job_id) for record in records]
    assert kinds == ["refused"] * (MAX_OTHERS + 1) + ["fault"] * 2 + ["started"] * len(calls)
    assert [record.person_id for record in records[len(others) :]] == [call["personId"] for call in calls]


def test_large_answers_are_parsed_in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """S39: all dials of a worker can be answered at the same time; small answers do not wait."""
    threads: list[str] = []

    def from_json(body: bytes, **_: Any) -> Any:
        threads.append(threading.current_thread().name)
        return json.loads(body)

    monkeypatch.setattr(module, "from_json", from_json)
    for read in (call_records, conversation_logs):
        read(envelope(["x" * LARGE]))
        read(envelope([]))
    assert threads == ["answers_0", threading.current_thread().name] * 2


LARGEST = 16 * 1024 * 1024


def filled(value: str) -> bytes:
    """Return a conversation log of the largest size, filled with one value."""
    return b'{"code": 200, "data": [' + (value * ((LARGEST - 100) // len(value.encode()))).encode() + b"0]}"


@pytest.mark.parametrize("value", ["{},", '{"a":{}},', "[],", "1.5,", '"ab",', '{"jobId":"J1"},'], ids=repr)
def test_conversation_log_with_too_many_tokens_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """S39: 16 MiB of the smallest objects would take half a gigabyte when parsed."""
    monkeypatch.setattr(module, "from_json", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(UnexpectedAnswerError, match="more values"):
        conversation_logs(filled(value))


def test_large_conversation_log_needs_bounded_memory() -> None:
    """S39: a look-up reads job ids and statuses; the transcripts stay strings."""
    line = {"timestamp": 1770463012000, "speaker": "Robot", "script": "您好", "action": "Dialogue"}
    entry = {"jobId": "J1", "callStatus": "Failed", "conversations": json.dumps([line] * 100, ensure_ascii=False)}
    body = filled(json.dumps(entry, ensure_ascii=False) + ",").replace(b",0]}", b"]}")
    tracemalloc.start()
    try:
        logs = conversation_logs(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(logs) > 1000
    assert {(log.job_id, log.call_status) for log in logs} == {("J1", "Failed")}
    assert peak < 4 * LARGEST


def test_a_log_of_more_calls_than_a_case_has_is_refused() -> None:
    """S5: a log that is cut could hide the call that is ringing."""
    assert len(conversation_logs(envelope([{"jobId": "J1"}] * MAX_LOGS))) == MAX_LOGS
    with pytest.raises(UnexpectedAnswerError, match="more calls"):
        conversation_logs(envelope([{"jobId": "J1"}] * (MAX_LOGS + 1)))

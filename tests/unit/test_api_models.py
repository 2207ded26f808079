"""The lenient models: no value of a field raises, or loses the id of a job."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_client import CallRecord, CallRequest, CallStatus, ConversationLog, Utterance
from api_client.models import MAX_TOKENS, is_crowded
from tests.fakes import PHONE

JOB_ID = "1770463000471-447e-96ea-97523c61189b"
FIELDS = [
    "errorCode", "message", "id", "mediationId", "nodeId", "taskName", "result", "personType", "mediationType",
    "personId", "jobId", "instanceId", "jobGroupId", "scriptId", "callStatus", "remark", "deleteStatus", "creator",
    "createTime", "modifier", "modifyTime", "startTime", "callInterval",
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), JSON))
def test_no_field_value_loses_the_id_of_a_started_job(fields: dict[str, Any]) -> None:
    """S7: errorCode 0 and a jobId are read beside any other values."""
    record = CallRecord.model_validate({**fields, "errorCode": 0, "jobId": JOB_ID})
    assert (record.error_code, record.job_id) == (0, JOB_ID)


@given(JSON)
def test_arbitrary_json_is_a_record(value: Any) -> None:
    """S7: one odd record never loses the ids of the others."""
    assert isinstance(CallRecord.model_validate(value), CallRecord)
    for raw in (value, {"conversations": value}, {"conversations": [value]}, {"conversations": json.dumps(value)}):
        log = ConversationLog.model_validate(raw)
        assert all(isinstance(line, Utterance) for line in log.conversations)
        assert isinstance(log.conversations_unreadable, bool)
    assert isinstance(Utterance.model_validate(value), Utterance)


@pytest.mark.parametrize("value", [None, [], "text", 7, True], ids=repr)
def test_non_object_is_an_empty_record(value: Any) -> None:
    assert CallRecord.model_validate(value) == CallRecord()


def test_unused_fields_of_a_record_are_not_read() -> None:
    """S37: some of its fields contain names of people."""
    kept = {"errorCode", "message", "personId", "jobId", "callStatus", "startTime", "callInterval"}
    sent = {name: 7 if name == "errorCode" else name for name in FIELDS}
    record = CallRecord.model_validate(sent)
    assert record.model_dump(by_alias=True) == {name: value for name, value in sent.items() if name in kept}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(0, 0, id="a number"),
        pytest.param("0", 0, id="a number spelt"),
        pytest.param("-12", -12, id="a negative one"),
        pytest.param(1001.0, 1001, id="a whole float"),
        pytest.param(0.5, None, id="a fraction"),
        pytest.param(float("inf"), None, id="infinity"),
        pytest.param(False, None, id="false is not zero, or a refusal would count as a start"),
        pytest.param("", None, id="an empty string"),
        pytest.param("０", None, id="a full-width digit"),
        pytest.param(10**18, None, id="too long"),
        pytest.param("9" * 5000, None, id="too long, spelt"),
        pytest.param([0], None, id="a list"),
    ],
)
def test_error_code_is_parsed(value: Any, expected: int | None) -> None:
    assert CallRecord.model_validate({"errorCode": value}).error_code == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(JOB_ID, JOB_ID, id="as the upstream makes them"),
        pytest.param("x" * 128, "x" * 128, id="128 characters"),
        pytest.param("x" * 129, None, id="129 characters"),
        pytest.param("", None, id="empty"),
        pytest.param("a b", None, id="a blank"),
        pytest.param(f"{JOB_ID}\n", None, id="a line feed at its end"),
        pytest.param("作业", None, id="other letters"),
        pytest.param(17704630, "17704630", id="a number"),
        pytest.param(None, None, id="null"),
        pytest.param({}, None, id="an object"),
    ],
)
def test_job_id_is_parsed(value: Any, expected: str | None) -> None:
    assert CallRecord.model_validate({"jobId": value}).job_id == expected
    assert CallStatus.model_validate({"jobId": value, "callStatus": "Executing"}).job_id == expected


@pytest.mark.parametrize(("value", "expected"), [(3, 3), ("3", "3"), ("2026-02-07", "2026-02-07"), (True, None)])
def test_next_round_is_kept_unchanged(value: Any, expected: int | str | None) -> None:
    """S9."""
    record = CallRecord.model_validate({"startTime": value, "callInterval": value})
    assert (record.start_time, record.call_interval) == (expected, expected)


def test_numbers_are_accepted_as_strings() -> None:
    record = CallRecord.model_validate({"message": 42, "personId": 7})
    assert (record.message, record.person_id) == ("42", "7")


@pytest.mark.parametrize("show", [repr, str])
def test_repr_shows_nothing_personal(show: Any) -> None:
    """S37."""
    record = CallRecord(error_code=1002, message=f"张三 {PHONE}", person_id="P20260001", job_id=JOB_ID)
    request = CallRequest("C1", "M1", call_person_id="P20260001")
    log = ConversationLog.model_validate(
        {"recordUrl": f"http://oss/{PHONE}", "conversations": [{"script": f"我是张三 {PHONE}", "speaker": "Contact"}]}
    )
    shown = show(record) + show(request) + show(log) + show(log.conversations[0])
    for secret in ("P20260001", PHONE, "张三", "oss"):
        assert secret not in shown
    assert JOB_ID in shown
    assert "C1" in shown


def test_request_body() -> None:
    """S2, S3: strings and an int; by default automatic and for all parties."""
    assert CallRequest("C1", "M1").body() == {
        "caseId": "C1",
        "mediationId": "M1",
        "callAuto": 0,
        "callPersonId": "",
    }


def test_a_status_is_an_open_set_and_carries_no_phone_number() -> None:
    """S19, S37."""
    status = CallStatus.model_validate(
        {"caseRef": "C1", "phoneNumber": PHONE, "jobId": JOB_ID, "callStatus": " Ringing ", "instanceId": 5}
    )
    assert status == CallStatus(call_status="Ringing", job_id=JOB_ID)
    assert PHONE not in status.model_dump_json()


@pytest.mark.parametrize(
    ("model", "field", "length"),
    [
        (CallStatus, "callStatus", 64),
        (CallRecord, "callStatus", 64),
        (ConversationLog, "callStatus", 64),
        (CallRecord, "message", 500),
        (CallRecord, "startTime", 64),
        (CallRecord, "callInterval", 64),
        (ConversationLog, "callType", 64),
        (Utterance, "speaker", 64),
        (Utterance, "action", 64),
        (Utterance, "script", 10_000),
    ],
)
def test_text_is_cut_to_its_limit(model: Any, field: str, length: int) -> None:
    """S19, S38: a text can be anything, even a page of a proxy; it must not fill records, results or logs."""
    for sent, kept in (("长" * length, "长" * length), ("长" * (length + 1), "长" * length)):
        read = model.model_validate({"callStatus": "Executing", field: sent})
        assert read.model_dump(by_alias=True)[field] == kept


@pytest.mark.parametrize(
    ("model", "field", "length"), [(CallRecord, "personId", 200), (ConversationLog, "recordUrl", 4096)]
)
def test_overlong_id_or_link_counts_as_absent(model: Any, field: str, length: int) -> None:
    """S38: a cut person id could be the id of another person."""
    for sent, kept in (("9" * length, "9" * length), ("9" * (length + 1), None)):
        assert model.model_validate({field: sent}).model_dump(by_alias=True)[field] == kept


def test_every_text_has_a_limit() -> None:
    """S38: also a field that is added later."""
    huge: dict[str, Any] = {"callStatus": "Executing"}
    for model in (CallRecord, CallStatus, Utterance, ConversationLog):
        names = {field.alias or "" for field in model.model_fields.values()} - {"conversations"}
        read = model.model_validate(huge | dict.fromkeys(names - {"callStatus"}, "长" * 100_000))
        texts = [value for value in read.model_dump().values() if isinstance(value, str)]
        assert all(len(value) <= 10_000 for value in texts)


LINE = {"timestamp": 1770463012000, "speaker": "Robot", "script": "您好", "action": "BeginDialogue", "more": 1}


@pytest.mark.parametrize(
    ("value", "lines", "unreadable"),
    [
        pytest.param(json.dumps([LINE, {}]), 2, False, id="JSON inside a string"),
        pytest.param([LINE], 1, False, id="a list"),
        pytest.param("[]", 0, False, id="nothing said"),
        pytest.param(None, 0, False, id="null"),
        pytest.param("", 0, False, id="empty"),
        pytest.param("[{", 0, True, id="cut off"),
        pytest.param("[" * 5000, 0, True, id="nested without end"),
        pytest.param('{"a": 1}', 0, True, id="no list inside"),
        pytest.param(7, 0, True, id="a number"),
    ],
)
def test_transcript_is_parsed(value: Any, lines: int, unreadable: bool) -> None:
    """S36."""
    log = ConversationLog.model_validate({"conversations": value})
    assert (len(log.conversations), log.conversations_unreadable) == (lines, unreadable)
    if lines:
        assert log.conversations[0] == Utterance(
            timestamp=1770463012000, speaker="Robot", script="您好", action="BeginDialogue"
        )


@pytest.mark.parametrize("value", ["{},", '{"a":1},', "[],", "1.5,", '"ab",'], ids=repr)
def test_transcript_with_too_many_tokens_is_not_parsed(value: str) -> None:
    """S36, S39: a transcript that would take many times its size in memory is refused."""
    crowded = "[" + value * (MAX_TOKENS + 1) + "1]"
    log = ConversationLog.model_validate({"conversations": crowded})
    assert (log.conversations, log.conversations_unreadable) == ([], True)


@pytest.mark.parametrize(
    ("document", "crowded"),
    [
        pytest.param("[" + "0," * (MAX_TOKENS - 1) + "0]", False, id="just not"),
        pytest.param("[" + "0," * MAX_TOKENS + "0]", True, id="just so"),
        pytest.param("[" + '"",' * (MAX_TOKENS // 2) + "0]", True, id="strings count"),
        pytest.param(json.dumps(["{[,:" * MAX_TOKENS]), False, id="within a string"),
        pytest.param(json.dumps(['{"x": [1, 2]},' * MAX_TOKENS]), False, id="within a string with quotes"),
        pytest.param(json.dumps(["\\", "\\,{[" * MAX_TOKENS]), False, id="within a string after a backslash"),
        pytest.param(json.dumps(["\\"] * MAX_TOKENS), True, id="beside strings that end with a backslash"),
    ],
)
def test_tokens_inside_strings_do_not_count(document: str, crowded: bool) -> None:
    json.loads(document)
    assert is_crowded(document.encode()) is crowded


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("http://oss/a.mp3?Expires=1770549400&Signature=x", 1770549400.0, id="first"),
        pytest.param("http://oss/a.mp3?a=b&Expires=1770549400#top", 1770549400.0, id="last"),
        pytest.param("http://oss/a.mp3?NotExpires=1770549400", None, id="another name"),
        pytest.param("http://oss/a.mp3?Expires=soon", None, id="no number"),
        pytest.param("http://oss/a.mp3", None, id="unsigned"),
        pytest.param("http://[", None, id="no link at all"),
        pytest.param(None, None, id="none"),
    ],
)
def test_expiry_of_a_recording_link_is_read(url: str | None, expected: float | None) -> None:
    """S36."""
    assert ConversationLog(record_url=url).record_expires == expected

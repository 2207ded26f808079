"""The answers of the simulated upstream compared with the outbound-bot API, field by field."""

import json
import re
import uuid
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import ValidationError

from simulator import answers
from simulator.book import Book, Call, make_job_id
from simulator.life import LIVES, LifeClock
from simulator.script import Party, Script, problem

NOW = 1_770_463_000.471  # 2026-02-07 11:16:40 UTC, which is 19:16:40 in China
RECORD_TYPES: dict[str, type | None] = {
    "errorCode": int,
    "message": str,
    "id": int,
    "mediationId": int,
    "nodeId": int,
    "taskName": str,
    "result": None,
    "personType": int,
    "mediationType": int,
    "personId": str,
    "jobId": str,
    "instanceId": str,
    "jobGroupId": str,
    "scriptId": str,
    "callStatus": str,
    "remark": None,
    "deleteStatus": int,
    "creator": str,
    "createTime": str,
    "modifier": None,
    "modifyTime": None,
    "startTime": None,
    "callInterval": None,
}


@pytest.fixture
def book() -> Book:
    clock = LifeClock()
    clock.set_speed(1, NOW)
    return Book(clock)


def opened(book: Book, life: str = "normal", *, case_id: str = "C1", now: float = NOW) -> Call:
    return book.open(
        LIVES[life], case_id=case_id, mediation_id="17", person_id="P-C1-1", person_type=1, request=1, now=now
    )


def test_a_started_record_has_every_field_in_its_type(book: Book) -> None:
    record = answers.record(Party(person_id="P-C1-1"), "17", opened(book), NOW)
    assert {name: None if value is None else type(value) for name, value in record.items()} == RECORD_TYPES
    assert record["mediationId"] == 17
    assert record["createTime"] == "2026-02-07"
    assert record["callStatus"] == "Scheduling"


@pytest.mark.parametrize(
    ("given", "expected"),
    [("17", 17), ("007", 7), ("M-17", "M-17"), ("١٧", "١٧")],
    ids=["int", "zeros", "str", "arabic"],
)
def test_numeric_mediation_id_is_returned_as_an_integer(given: str, expected: int | str) -> None:
    assert answers.upstream_id(given) == expected


@pytest.mark.parametrize(
    ("party", "expected"),
    [
        pytest.param({"error_code": 1001}, {"errorCode": 1001, "startTime": None, "jobId": None}, id="S9: must wait"),
        pytest.param(
            {"error_code": 1001, "start_time": "2026-03-01", "call_interval": 3},
            {"startTime": "2026-03-01", "callInterval": 3},
            id="S9: the next round is named",
        ),
        pytest.param({"error_code": 1002, "message": "上限"}, {"errorCode": 1002, "message": "上限"}, id="S9: limit"),
        pytest.param({"error_code": 42, "message": None}, {"message": None}, id="S8: without a message"),
        pytest.param({"rings": False}, {"errorCode": 0, "jobId": None}, id="S7: errorCode 0 without a jobId"),
        pytest.param({"record": {"personId": None}}, {"personId": None}, id="any field may be null"),
    ],
)
def test_a_scripted_record(party: dict[str, Any], expected: dict[str, Any]) -> None:
    record = answers.record(Party(person_id="P", **party), "17", None, NOW)
    assert record.items() >= expected.items()


def test_fields_can_be_absent(book: Book) -> None:
    record = answers.record(Party(person_id="P", drop=["jobId", "callStatus"]), "17", opened(book), NOW)
    assert not record.keys() & {"jobId", "callStatus"}


def test_a_status_has_every_field_and_china_time(book: Book) -> None:
    call = opened(book)
    data = answers.status(book, call, NOW + 12)
    assert data == {
        "caseRef": "C1",
        "phoneNumber": call.phone_number,
        "jobId": call.job_id,
        "callStatus": "Executing",
        "fetchTime": "2026-02-07 19:16:52",
        "jobGroupId": call.job_group_id,
        "instanceId": call.instance_id,
    }


def test_a_job_id_is_its_creation_in_milliseconds_and_the_rest_of_a_uuid4() -> None:
    job_id = make_job_id(NOW)
    assert re.fullmatch(r"1770463000471-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", job_id)
    assert uuid.UUID("00000000-0000" + job_id[13:]).version == 4


@pytest.mark.parametrize(
    ("age", "actions"),
    [
        pytest.param(5, [], id="not yet talking"),
        pytest.param(12, ["BeginDialogue"], id="the first moment"),
        pytest.param(20, ["BeginDialogue", "Broadcast", "Dialogue"], id="amid the talk"),
        pytest.param(
            40,
            ["BeginDialogue", "Broadcast", "Dialogue", "Dialogue", "Dialogue", "Broadcast", "EndDialogue"],
            id="S36: the whole transcript",
        ),
    ],
)
def test_conversations_are_json_inside_a_string(book: Book, age: float, actions: list[str]) -> None:
    entry = answers.conversation(book, opened(book), NOW + age)
    assert set(entry) == {"callType", "jobId", "conversations", "callStatus", "recordUrl"}
    said = json.loads(entry["conversations"])
    assert [line["action"] for line in said] == actions
    times = [line["timestamp"] for line in said]
    assert times == sorted(times)
    assert all(NOW * 1000 <= time <= (NOW + age) * 1000 and isinstance(time, int) for time in times)
    assert {line["speaker"] for line in said} <= {"Robot", "Contact"}


def test_recording_link_expires_a_day_after_the_call_s36(book: Book) -> None:
    link = answers.conversation(book, opened(book), NOW + 1_000)["recordUrl"]
    parts = urlsplit(link)
    assert parts.scheme == "http"
    query = parse_qs(parts.query)
    assert abs(int(query["Expires"][0]) - (NOW + 32 + 86_400)) <= 1
    assert query["Signature"][0]


@pytest.mark.parametrize(
    ("life", "age"), [("normal", 20), ("failed", 60), ("endless", 60)], ids=["still talking", "never talked", "waiting"]
)
def test_there_is_no_recording_without_a_finished_talk(book: Book, life: str, age: float) -> None:
    assert answers.conversation(book, opened(book, life), NOW + age)["recordUrl"] is None


def test_look_ups_return_the_newest_first_s14(book: Book) -> None:
    first, other, second = opened(book), opened(book, case_id="C2"), opened(book, now=NOW + 1)
    assert book.find(case_ref="C1", job_id="", phone_number="") is second
    assert book.find(case_ref="C1", job_id=first.job_id, phone_number="") is first
    assert book.find(case_ref="C2", job_id=first.job_id, phone_number="") is None
    assert book.find(case_ref="", job_id="", phone_number=other.phone_number) is other
    assert book.find(case_ref="", job_id="", phone_number="") is None
    assert book.select(case_id="C1", person_id="", job_id="") == [second, first]
    assert book.select(case_id="", person_id="", job_id=other.job_id) == [other]
    assert book.select(case_id="C1", person_id="P-unknown", job_id="") == []


@pytest.mark.parametrize(
    ("script", "line"),
    [
        pytest.param({}, "case_id: Field required", id="missing"),
        pytest.param({"case_id": "C", "lifes": "normal"}, "lifes: Extra inputs are not permitted", id="unknown"),
        pytest.param({"case_id": "C", "life": "unheard"}, "life: no life is called 'unheard'", id="life"),
        pytest.param(
            {"case_id": "C", "parties": [{"person_id": "P", "drop": ["jobid"]}]},
            "parties.0.drop: a record has no field 'jobid'",
            id="nested",
        ),
    ],
)
def test_invalid_script_names_its_field(script: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Script.model_validate(script)
    assert problem(caught.value).startswith(line)
    assert "\n" not in problem(caught.value)


def test_default_case_has_two_parties_and_one_can_be_selected_s3() -> None:
    script = Script(case_id="C1")
    assert [(party.person_id, party.person_type) for party in script.people("C1", "")] == [("P-C1-1", 1), ("P-C1-2", 2)]
    assert [party.person_id for party in script.people("C1", "P-C1-2")] == ["P-C1-2"]

"""Faults of the simulated upstream: the requests that they match, their counts and effects; and the request log."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from simulator.answers import success
from simulator.faults import HUGE, Fault, FaultTable, body_of, spoil
from simulator.request_log import RequestLog, merge
from simulator.script import problem

TUTORIAL = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text("utf-8")
STATUS_DATA = {"jobId": "ours", "callStatus": "Executing"}


def fault(kind: str, **fields: Any) -> Fault:
    return Fault.model_validate({"kind": kind, **fields})


def test_fault_of_the_tutorial_is_valid() -> None:
    (body,) = re.findall(r"-d '(\{.*\})'", TUTORIAL)
    assert Fault.model_validate_json(body) == fault("reset", endpoint="call-v2", count=1)


def test_counted_fault_applies_to_its_count_then_the_next_fault_applies() -> None:
    table = FaultTable()
    table.add(fault("garbage", count=2))
    table.add(fault("hang"))
    met = [table.take("status", None, None) for _ in range(4)]
    assert [one.kind for one in met if one] == ["garbage", "garbage", "hang", "hang"]


@pytest.mark.parametrize(
    ("fields", "request_", "meets"),
    [
        pytest.param({}, ("status", "C1", "J1"), True, id="everything"),
        pytest.param({"endpoint": "status"}, ("status", None, None), True, id="this endpoint"),
        pytest.param({"endpoint": "call-v2"}, ("status", None, None), False, id="another endpoint"),
        pytest.param({"case_id": "C1"}, ("status", "C1", "J1"), True, id="this case"),
        pytest.param({"case_id": "C2"}, ("status", "C1", "J1"), False, id="another case"),
        pytest.param({"job_id": "J1"}, ("status", "C1", "J1"), True, id="this job"),
        pytest.param({"job_id": "J1"}, ("status", "C1", None), False, id="no job"),
    ],
)
def test_fault_matches_by_endpoint_case_and_job(
    fields: dict[str, Any], request_: tuple[str, str | None, str | None], meets: bool
) -> None:
    assert fault("hang", **fields).matches(*request_) is meets


def test_faults_are_cleared_one_or_all() -> None:
    table = FaultTable()
    first, second = table.add(fault("hang", count=3)), table.add(fault("reset"))
    table.take("status", None, None)
    assert [(one["id"], one["left"], one["kind"]) for one in table.listed()] == [
        (first, 2, "hang"),
        (second, None, "reset"),
    ]
    assert table.remove(first)
    assert not table.remove(first)
    assert [one["id"] for one in table.listed()] == [second]
    table.clear()
    assert table.take("status", None, None) is None


@pytest.mark.parametrize(
    ("kind", "processed", "takes_effect"),
    [
        pytest.param("hang", None, False, id="nothing rang"),
        pytest.param("hang", True, True, id="S14: the phone rings, the answer is lost"),
        pytest.param("reset", None, False, id="reset before"),
        pytest.param("garbage", None, True, id="S13: it rang and the answer is unreadable"),
        pytest.param("garbage", False, False, id="garbage from a proxy"),
    ],
)
def test_fault_decides_whether_the_request_takes_effect(kind: str, processed: bool | None, takes_effect: bool) -> None:
    assert fault(kind, processed=processed).takes_effect is takes_effect


@pytest.mark.parametrize(
    ("kind", "fields", "http", "code", "data"),
    [
        pytest.param("status", {"status": 503}, 503, 503, None, id="S13: 5xx"),
        pytest.param("wrong_envelope", {}, 200, 500, None, id="S23: the inner code"),
        pytest.param("null_data", {}, 200, 200, None, id="S23: null data"),
        pytest.param("wrong_data", {}, 200, 200, [], id="S23: a list for an object"),
        pytest.param("huge", {}, 200, 200, STATUS_DATA, id="the data itself is good"),
    ],
)
def test_fault_changes_envelope_or_data(kind: str, fields: dict[str, Any], http: int, code: int, data: object) -> None:
    answer = spoil(fault(kind, **fields), success(STATUS_DATA))
    assert (answer.http, answer.code, answer.data) == (http, code, data)


def test_wrong_data_fault_replaces_a_list_by_an_object_s13() -> None:
    assert spoil(fault("wrong_data"), success([STATUS_DATA], 201)).data == {}


@pytest.mark.parametrize("data", [STATUS_DATA, [STATUS_DATA]], ids=["status", "list"])
def test_other_job_fault_answers_for_another_job_s23(data: Any) -> None:
    spoiled = spoil(fault("other_job"), success(data)).data
    answer = spoiled[0] if isinstance(spoiled, list) else spoiled
    assert answer["jobId"] != "ours"
    assert answer["callStatus"] == ("Executing" if isinstance(data, list) else "Succeeded")


def test_garbage_is_no_json_and_huge_is_valid_s39() -> None:
    with pytest.raises(ValueError, match=r"decode|Expecting"):
        json.loads(body_of(fault("garbage"), success(None)))
    body = body_of(fault("huge"), success(STATUS_DATA))
    assert len(body) > HUGE
    assert json.loads(body)["data"] == STATUS_DATA


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        pytest.param({"kind": "nap"}, "kind: Input should be 'status'", id="kind"),
        pytest.param({"kind": "status"}, "status: is required", id="status"),
        pytest.param({"kind": "delay"}, "seconds: is required", id="seconds"),
        pytest.param({"kind": "hang", "count": 0}, "count: ", id="count"),
        pytest.param({"kind": "hang", "endpoint": "call"}, "endpoint: ", id="endpoint"),
        pytest.param({"kind": "status", "status": 302, "headers": {"Location": "a\r\nb"}}, "headers: ", id="two lines"),
    ],
)
def test_invalid_fault_names_its_field(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Fault.model_validate(fields)
    assert problem(caught.value).startswith(line)


def test_log_is_bounded_in_memory_and_complete_in_its_file(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    log = RequestLog(path, kept=2)
    numbers = [log.arrived(at=1.0, mono=1.0, case_id=f"C{number}") for number in range(3)]
    log.dialled(numbers[0], at=1.5, job_id="J0", person_id="P")
    log.dialled(numbers[2], at=1.5, job_id="J2", person_id="P")
    log.done(numbers[2], at=2.0, mono=2.0, status=201, size=7, ended="answered")
    assert [entry["case_id"] for entry in log.entries()] == ["C1", "C2"]
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]  # flushed line by line
    log.close()
    entries = merge(lines)
    assert [(entry["case_id"], entry["job_ids"], entry["ended"]) for entry in entries] == [
        ("C0", ["J0"], None),
        ("C1", [], None),
        ("C2", ["J2"], "answered"),
    ]

"""Test the masking of arguments, results and records, and the parsing of triggers (S37, S38)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils import json

from tests.fakes import PHONE
from worker.core.messages import (
    SHOWN_LENGTH,
    BadTrigger,
    PollMessage,
    TriggerResult,
    masked_kwargs,
    plain_id,
    read_trigger,
)
from worker.core.model import Call
from worker.core.trigger_model import NewJob

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=300),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=9), children, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    "kwargs",
    [
        pytest.param({"case_id": {"phone": PHONE}, "mediation_id": 1}, id="an object for an id"),
        pytest.param({"case_id": "C-1", "call_person_id": 12345678}, id="a number for a person"),
        pytest.param({"case_id": "C-1", "call_person_id": {"person": "12345678"}}, id="an object for a person"),
        pytest.param({"case_id": "C-1", "mediation_id": 2, "tel": PHONE}, id="an unknown argument"),
    ],
)
def test_s37_masked_arguments_contain_no_person(kwargs: dict[str, Any]) -> None:
    """S37: neither phone numbers nor person ids, of any type or in unknown arguments."""
    shown = masked_kwargs(kwargs)
    assert PHONE not in shown
    assert "12345678" not in shown


def test_s37_case_id_that_looks_like_a_phone_number_is_not_masked() -> None:
    """S37: redaction never touches case ids."""
    assert PHONE in masked_kwargs({"case_id": PHONE, "mediation_id": 1})


@given(st.dictionaries(st.sampled_from(["case_id", "mediation_id", "call_person_id", "call_auto", "x"]), anything))
def test_s38_masking_and_parsing_handle_any_arguments(kwargs: dict[str, Any]) -> None:
    """S38: parsing returns a valid request or raises a one-line error."""
    assert len(masked_kwargs(kwargs)) <= SHOWN_LENGTH
    try:
        request = read_trigger(kwargs)
    except BadTrigger as bad:
        assert len(str(bad).splitlines()) == 1  # noqa: PT017 - most draws are bad, some are not
    else:
        assert request.case_id == request.case_id.strip() != ""


@pytest.mark.parametrize(
    ("value", "text"), [("C-1", "C-1"), (20, "20"), (True, ""), (None, ""), ({}, ""), ("x" * 201, "")]
)
def test_plain_id_accepts_short_texts_and_numbers_only(value: object, text: str) -> None:
    assert plain_id(value) == text


CALL = Call("job-1", "C-1", "20", "person-0001", "Executing", None, 0, 1, 1.0, 1.0, 7_201.0, 11.0)
RESULT = TriggerResult.of(
    "started",
    "C-1",
    "20",
    jobs=[{"job_id": "job-1", "person_id": "person-0001", "call_status": "Executing"}],
    refused=[{"person_id": "person-0002", "error_code": 1002, "message": "已达上限"}],
    message="部分联系人外呼失败:person-0002(已达上限)",
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (
            read_trigger({"case_id": "C-1", "mediation_id": 20, "call_person_id": "person-0001"}),
            "{'case_id': 'C-1', 'mediation_id': '20', 'call_auto': 0, 'call_person_id': '***0001'}",
        ),
        (
            PollMessage(job_id="job-1", case_id="C-1", mediation_id="20", person_id="person-0001", poll_no=7),
            (
                "{'job_id': 'job-1', 'case_id': 'C-1', 'mediation_id': '20', 'person_id': '***0001', 'countdown': 0,"
                " 'due': 0, 'deadline': 0, 'retry_count': 0, 'poll_no': 7}"
            ),
        ),
        (RESULT, "started C-1/20, jobs job-1(***0001), refused ***0002(1002)"),
        (TriggerResult.of("skipped", "C-1", "20"), "skipped C-1/20"),
        (NewJob("job-1", "person-0001", "Executing", 5.0), "NewJob(job-1, ***0001, Executing)"),
        (CALL, "Call(job-1, ***0001, Executing, None)"),
    ],
    ids=["trigger", "poll", "result", "empty result", "new job", "call"],
)
def test_s37_repr_masks_persons_and_names_the_call(value: object, shown: str) -> None:
    """Celery's logs and all tracebacks show the repr of arguments and results."""
    assert repr(value) == shown


def test_result_is_stored_unmasked_as_plain_json() -> None:
    """The back end reads it, including persons."""
    stored = json.loads(json.dumps(RESULT))
    assert stored == RESULT.data
    assert stored["jobs"][0]["person_id"] == "person-0001"

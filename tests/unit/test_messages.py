"""What of a task's arguments may be shown, whatever a producer sends (S37, S38)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.messages import SHOWN_LENGTH, BadTrigger, masked_kwargs, plain_id, read_trigger

PHONE = "138" + "0000" + "1111"

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
def test_what_is_shown_holds_nobody(kwargs: dict[str, Any]) -> None:
    """S37."""
    shown = masked_kwargs(kwargs)
    assert PHONE not in shown
    assert "12345678" not in shown


def test_a_case_id_that_looks_like_a_telephone_number_is_shown() -> None:
    """S37: redaction never touches case ids."""
    assert PHONE in masked_kwargs({"case_id": PHONE, "mediation_id": 1})


@given(st.dictionaries(st.sampled_from(["case_id", "mediation_id", "call_person_id", "call_auto", "x"]), anything))
def test_showing_and_reading_never_fail(kwargs: dict[str, Any]) -> None:
    """S38: a valid request, or one line that says what is wrong."""
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
def test_plain_id(value: object, text: str) -> None:
    assert plain_id(value) == text

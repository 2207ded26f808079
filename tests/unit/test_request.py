"""Test Celery requests in the worker: arguments masked in events and inspections, times parsed (S37)."""

import json
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import InvalidTaskError

from worker.app import app
from worker.runtime.request import MaskedRequest, PollRequest

PERSON = "person-0001"
KWARGS = {"case_id": "C-1", "mediation_id": 20, "call_person_id": PERSON}
MASKED = "{'case_id': 'C-1', 'mediation_id': 20, 'call_person_id': '***0001'}"


def request(kind: type[MaskedRequest] = MaskedRequest, args: Any = (), kwargs: Any = None, **headers: Any) -> Any:
    """Return a request as the worker creates it from a message."""
    payload: Any = (args, KWARGS if kwargs is None else kwargs, {})
    message = SimpleNamespace(
        headers={"id": "task-1", "task": "outbound.trigger"} | headers,
        body=json.dumps(payload),
        payload=payload,
        content_type="application/json",
        content_encoding="utf-8",
        delivery_info={},
        properties={},
    )
    return kind(message, app=app, task=SimpleNamespace(ignore_result=True, acks_late=True, name="outbound.trigger"))


@pytest.mark.parametrize(
    ("args", "kwargs", "shown"),
    [
        pytest.param((), KWARGS, ("()", MASKED), id="by name"),
        pytest.param(("C-1", PERSON), {}, ("(2 by position)", "{}"), id="by position"),
        pytest.param((), [PERSON], ("()", "not by name"), id="no mapping"),
    ],
)
def test_s37_arguments_are_masked_regardless_of_the_producers_repr(
    args: Any, kwargs: Any, shown: tuple[str, str]
) -> None:
    """Both in the event that Flower receives and in the response to an inspection."""
    one = request(args=args, kwargs=kwargs, argsrepr=f"({PERSON!r},)", kwargsrepr=repr(KWARGS))
    assert (one.argsrepr, one.kwargsrepr) == shown
    for safe in (True, False):
        info = one.info(safe=safe)
        assert (info["args"], info["kwargs"]) == shown
        assert (info["id"], info["name"]) == ("task-1", "outbound.trigger")
        assert PERSON not in str(info)


@pytest.mark.parametrize("several", [False, True])
def test_s37_poll_message_shows_its_calls_with_masked_persons(several: bool) -> None:
    """Regardless of the publisher's `kwargsrepr`."""
    polls = [{"job_id": f"job-{number}", "case_id": "C-1", "person_id": PERSON} for number in range(2)]
    one = request(PollRequest, kwargs={"polls": polls} if several else polls[1], kwargsrepr=repr(polls))
    assert one.kwargsrepr == one.info()["kwargs"]
    assert ("job-0" in one.kwargsrepr, "job-1" in one.kwargsrepr) == (several, True)
    assert PERSON not in one.kwargsrepr


@pytest.mark.parametrize("kwargs", [{"person_id": PERSON}, [PERSON]], ids=["no poll", "no mapping"])
def test_s37_invalid_poll_message_is_masked_too(kwargs: Any) -> None:
    assert PERSON not in request(PollRequest, kwargs=kwargs).kwargsrepr


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-02-07T11:00:00+00:00", datetime(2026, 2, 7, 11, tzinfo=UTC)),
        ("2026-02-07T11:00:00.5Z", datetime(2026, 2, 7, 11, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-02-07T19:00:00+08:00", datetime(2026, 2, 7, 19, tzinfo=timezone(timedelta(hours=8)))),
        ("2026-02-07T11:00:00", datetime(2026, 2, 7, 11, tzinfo=UTC)),
    ],
    ids=["UTC", "JavaScript format", "China", "without a zone: UTC"],
)
def test_s1_eta_and_expires_are_parsed(text: str, moment: datetime) -> None:
    """S1: `expires` keeps a weekend's backlog from ringing on Monday."""
    one = request(eta=text, expires=text)
    assert one.eta == one.expires == moment
    assert request().expires is None


@pytest.mark.parametrize("field", ["eta", "expires"])
@pytest.mark.parametrize("value", ["soon", ""], ids=["a word", "empty"])
def test_s38_invalid_time_is_rejected(field: str, value: str) -> None:
    """S38: Celery drops such a message and continues with the next."""
    with pytest.raises(InvalidTaskError, match=f"invalid {'ETA' if field == 'eta' else field} value"):
        request(MaskedRequest, (), None, **{field: value})

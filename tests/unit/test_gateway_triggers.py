"""Test the strict parsing of keys and bodies, and the key that each trigger state allows for a retry (S42)."""

import json
from typing import Any

import pytest

from gateway.body import read_object
from gateway.triggers import describe, fingerprint_of, read_key, read_order, task_id_of
from tests.problems import NOW, PERSON, problem_of
from worker.core.decision import Outcome
from worker.core.messages import TriggerResult, read_trigger
from worker.store.requests import Request, TriggerState

# -- idempotency keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "key"),
    [('"a b"', "a b"), ("8e03978e-40d5", "8e03978e-40d5"), (r'"a\"b\\c"', 'a"b\\c'), (f'"{"k" * 255}"', "k" * 255)],
)
def test_idempotency_key_is_a_structured_string_or_a_bare_value(header: str, key: str) -> None:
    assert read_key([header]) == key


@pytest.mark.parametrize(
    ("headers", "name", "kind"),
    [
        ([], "idempotency-key-missing", None),
        (["a", "a"], "malformed", "given more than once"),
        (['""'], "malformed", "an empty text"),
        (["k" * 256], "malformed", "a text of 256 characters"),
        (["schlüssel"], "malformed", "a text that is not printable ASCII, or has an unclosed quote"),
        (['"open'], "malformed", "a text that is not printable ASCII, or has an unclosed quote"),
    ],
)
def test_malformed_idempotency_key_is_refused_and_not_quoted(headers: list[str], name: str, kind: str | None) -> None:
    """S42: a key is required because the lock alone allows a second dial once the calls have ended."""
    problem = problem_of(read_key, headers)
    assert (problem.name, problem.status) == (name, 400)
    if kind:
        assert problem.members["errors"][0]["kind"] == kind
    assert not any(header in str(problem.members) for header in headers if len(header) > 3)


def test_idempotency_key_identifies_one_request_of_one_client() -> None:
    """S42."""
    assert task_id_of("a", "1") != task_id_of("b", "1")
    assert task_id_of("a", "1").startswith("h-")
    assert len(task_id_of("a", "1")) == 42
    one, same = (read_trigger({"case_id": "C-1", "mediation_id": given}) for given in (20, "20"))
    other = read_trigger({"case_id": "C-1", "mediation_id": 20, "call_auto": 1})
    assert fingerprint_of("a", one) == fingerprint_of("a", same) != fingerprint_of("a", other)


# -- bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "invalid JSON"),
        (b"{", "invalid JSON"),
        (b"[" * 50_000, "invalid JSON"),
        (b'{"a": NaN}', "NaN or Infinity"),
        (b'{"a": -Infinity}', "NaN or Infinity"),
        (b'{"a": 1, "a": 2}', "a duplicate name"),
        (b'{"b": {"a": 1, "a": 2}}', "a duplicate name"),
        (b'{"a": "\\ud800"}', "not UTF-8"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "invalid JSON"),
        (b"[1]", "JSON of type list"),
    ],
)
def test_ambiguous_json_body_is_refused(body: bytes, kind: str) -> None:
    problem = problem_of(read_object, "application/json; charset=utf-8", body)
    assert (problem.status, problem.members["errors"][0]["kind"]) == (400, kind)


def test_body_of_another_media_type_is_refused() -> None:
    assert read_object("Application/JSON", b'{"a": 1}') == {"a": 1}
    assert problem_of(read_object, "text/plain", b"{}").status == 415


@pytest.mark.parametrize(
    ("document", "field", "kind"),
    [
        ({"mediation_id": 20}, "case_id", "missing"),
        ({"case_id": " ", "mediation_id": 20}, "case_id", "an empty text"),
        ({"case_id": "1" * 201, "mediation_id": 20}, "case_id", "a text of 201 characters"),
        ({"case_id": "C-1", "mediation_id": 2.5}, "mediation_id", "of type float"),
        ({"case_id": "C-1", "mediation_id": 20, "call_auto": 7}, "call_auto", "a number out of range"),
        ({"case_id": "C-1", "mediation_id": 20, "call_auto": True}, "call_auto", "of type bool"),
        ({"case_id": "C-1", "mediation_id": 20, "expires_in": 0}, "expires_in", "a number out of range"),
        ({"case_id": "C-1", "mediation_id": 20, "expires_in": True}, "expires_in", "of type bool"),
        ({"case_id": "C-1", "mediation_id": 20, "call_person": PERSON}, "call_person", "unknown"),
        ({"case_id": "C-1", "mediation_id": 20, "13800001111": 1}, "***", "unknown"),
    ],
)
def test_s2_invalid_arguments_are_refused_with_field_and_kind(document: dict[str, Any], field: str, kind: str) -> None:
    problem = problem_of(read_order, document)
    assert problem.status == 422
    assert [(one["field"], one["kind"]) for one in problem.members["errors"]] == [(field, kind)]
    assert PERSON not in str(problem.members)
    assert problem.detail in ("缺少必要参数,跳过外呼触发", "外呼参数无效,跳过外呼触发")


# -- trigger states ----------------------------------------------------------------------------------------------------

ASKED = Request("backend", "f", "C-1", "20", NOW, NOW + 3_600)


def stored(phase: Any = None, outcome: Outcome | None = None, *, now: float = NOW, **result: Any) -> TriggerState:
    stored = {**TriggerResult.of(outcome, "C-1", "20").data, **result} if outcome else None
    return TriggerState(now, phase, None, stored)


@pytest.mark.parametrize(
    ("stored_state", "state", "key"),
    [
        (stored(), "queued", "same"),
        (stored("claimed"), "claimed", "same"),
        (stored("sending", "unknown"), "sending", "same"),
        (stored("waiting", "deferred", deferred_until=NOW + 60), "waiting", "none"),
        (stored(None, "deferred", deferred_until=NOW + 60), "waiting", "none"),
        (stored("watching", "started"), "finished", "none"),
        (stored("done", "skipped"), "finished", "none"),
        (stored("done", "refused"), "finished", "new"),
        (stored("done", "failed"), "finished", "new"),
        (stored(None, "disabled"), "finished", "new"),
        (stored("unknown", "unknown"), "finished", "none"),
        (stored(now=NOW + 3_600), "expired", "new"),
    ],
)
def test_each_trigger_state_names_the_key_for_a_retry(stored_state: TriggerState, state: str, key: str) -> None:
    """S42: a new key only after a definite outcome, the same key before one, and no dial after `unknown`."""
    shown = describe(ASKED, stored_state, None)
    assert (shown["state"], shown["retry"]["key"]) == (state, key)


@pytest.mark.parametrize(
    ("meta", "state", "key"),
    [
        ({"status": "SUCCESS", "result": TriggerResult.of("invalid", "C-1", "20").data}, "finished", "new"),
        ({"status": "REVOKED", "result": {"exc_type": "TaskRevokedError"}}, "expired", "new"),
        ({"status": "FAILURE", "result": {"exc_type": "KeyError"}}, "finished", "none"),
        ({"status": "STARTED", "result": None}, "queued", "same"),
    ],
)
def test_state_of_a_trigger_known_only_to_celery(meta: dict[str, Any], state: str, key: str) -> None:
    """An exception inside callwatch is an unknown outcome."""
    shown = describe(ASKED, stored(), meta)
    assert (shown["state"], shown["retry"]["key"]) == (state, key)


def test_s38_trigger_without_a_result_of_its_own_names_the_reason() -> None:
    for state, meta in ((stored(now=NOW + 3_600), None), (stored(), {"status": "REVOKED"})):
        assert describe(ASKED, state, meta)["reason"] == "expired"
    failed = describe(ASKED, stored(), {"status": "FAILURE"})
    assert (failed["result"]["outcome"], failed["result"]["reason"]) == ("unknown", "internal")


def test_s9_s37_refusal_names_the_next_round_and_masks_persons() -> None:
    refused = [
        {"person_id": PERSON, "error_code": 1001, "message": "call 13800001111", "start_time": "2026-11-23 09:00"}
    ]
    shown = describe(ASKED, stored("done", "refused", refused=refused, message=f"外呼失败:{PERSON}(…)"), None)
    assert shown["retry"] == {"key": "new", "after": "2026-11-23 09:00"}
    assert shown["result"]["refused"][0]["person_id"] == "***1131"
    assert shown["result"]["message"] == "外呼失败:***1131(…)"
    assert PERSON not in json.dumps(shown)
    assert "13800001111" not in json.dumps(shown)

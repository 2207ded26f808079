"""The pure parts of the gateway: keys and bodies are read strictly, a trigger's state says which key may come again."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import jwt
import pytest

from config.api_keys import append_key, new_key
from gateway.body import read_object
from gateway.identity import LONGEST_TOKEN, RELOAD_AFTER, KeyRing, Tokens, identify
from gateway.limits import REMEMBERED, Limit
from gateway.problems import KINDS, QUOTA, Problem, page
from gateway.showing import CaseView, call_shown, etag, notices, position
from gateway.triggers import describe, fingerprint_of, read_key, read_order, task_id_of
from worker.core.decision import Outcome
from worker.core.messages import TriggerResult, read_trigger
from worker.core.model import Call
from worker.store.requests import Request, Standing

SECRET = "s" * 32
NOW = 1_795_312_064.0
PERSON = "2303191513081131"


def problem_of(call: Any, *args: Any, **named: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        call(*args, **named)
    return caught.value


# -- keys of idempotency -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "key"),
    [('"a b"', "a b"), ("8e03978e-40d5", "8e03978e-40d5"), (r'"a\"b\\c"', 'a"b\\c'), (f'"{"k" * 255}"', "k" * 255)],
)
def test_a_key_is_a_structured_string_or_a_bare_value(header: str, key: str) -> None:
    assert read_key([header]) == key


@pytest.mark.parametrize(
    ("headers", "name", "kind"),
    [
        ([], "idempotency-key-missing", None),
        (["a", "a"], "malformed", "given more than once"),
        (['""'], "malformed", "an empty text"),
        (["k" * 256], "malformed", "a text of 256 characters"),
        (["schlüssel"], "malformed", "a text that is not printable ASCII, or ends in the middle"),
        (['"open'], "malformed", "a text that is not printable ASCII, or ends in the middle"),
    ],
)
def test_any_other_key_is_refused_and_not_quoted(headers: list[str], name: str, kind: str | None) -> None:
    """S42: required, because the lock alone lets a lost answer dial again after the calls have ended."""
    problem = problem_of(read_key, headers)
    assert (problem.name, problem.status) == (name, 400)
    if kind:
        assert problem.members["errors"][0]["kind"] == kind
    assert not any(header in str(problem.members) for header in headers if len(header) > 3)


def test_a_key_stands_for_one_request_of_one_client() -> None:
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
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[" * 50_000, "no JSON"),
        (b'{"a": NaN}', "a number that is not finite"),
        (b'{"a": -Infinity}', "a number that is not finite"),
        (b'{"a": 1, "a": 2}', "a name that stands twice"),
        (b'{"b": {"a": 1, "a": 2}}', "a name that stands twice"),
        (b'{"a": "\\ud800"}', "no UTF-8 text"),
        (b'{"a": "\xff"}', "no UTF-8 text"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "no JSON"),
        (b"[1]", "JSON of type list"),
    ],
)
def test_a_body_that_two_readers_could_take_differently_is_refused(body: bytes, kind: str) -> None:
    problem = problem_of(read_object, "application/json; charset=utf-8", body)
    assert (problem.status, problem.members["errors"][0]["kind"]) == (400, kind)


def test_only_json_is_read() -> None:
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
        ({"case_id": "C-1", "mediation_id": 20, "expires_in": 0}, "expires_in", "a number out of range"),
        ({"case_id": "C-1", "mediation_id": 20, "expires_in": True}, "expires_in", "of type bool"),
        ({"case_id": "C-1", "mediation_id": 20, "call_person": PERSON}, "call_person", "unknown"),
        ({"case_id": "C-1", "mediation_id": 20, "13800001111": 1}, "***", "unknown"),
    ],
)
def test_s2_wrong_arguments_are_refused_at_the_door_by_field_and_kind(
    document: dict[str, Any], field: str, kind: str
) -> None:
    problem = problem_of(read_order, document)
    assert problem.status == 422
    assert [(one["field"], one["kind"]) for one in problem.members["errors"]] == [(field, kind)]
    assert PERSON not in str(problem.members)
    assert problem.detail in ("缺少必要参数,跳过外呼触发", "外呼参数无效,跳过外呼触发")


# -- how a trigger stands ----------------------------------------------------------------------------------------------

ASKED = Request("backend", "f", "C-1", "20", NOW, NOW + 3_600)


def standing(phase: Any = None, outcome: Outcome | None = None, *, now: float = NOW, **result: Any) -> Standing:
    told = {**TriggerResult.of(outcome, "C-1", "20").data, **result} if outcome else None
    return Standing(now, phase, None, told)


@pytest.mark.parametrize(
    ("stands", "state", "key"),
    [
        (standing(), "queued", "same"),
        (standing("claimed"), "claimed", "same"),
        (standing("sending", "unknown"), "sending", "same"),
        (standing("waiting", "deferred", deferred_until=NOW + 60), "waiting", "none"),
        (standing(None, "deferred", deferred_until=NOW + 60), "waiting", "none"),
        (standing("watching", "started"), "finished", "none"),
        (standing("done", "skipped"), "finished", "none"),
        (standing("done", "refused"), "finished", "new"),
        (standing("done", "failed"), "finished", "new"),
        (standing(None, "disabled"), "finished", "new"),
        (standing("unknown", "unknown"), "finished", "none"),
        (standing(now=NOW + 3_600), "expired", "new"),
    ],
)
def test_each_state_says_which_key_a_retry_may_carry(stands: Standing, state: str, key: str) -> None:
    """S42: rotate after a definite outcome only, reuse while it is not known, and never dial again after `unknown`."""
    shown = describe(ASKED, stands, None)
    assert (shown["state"], shown["retry"]["key"]) == (state, key)


@pytest.mark.parametrize(
    ("meta", "state", "key"),
    [
        ({"status": "SUCCESS", "result": TriggerResult.of("invalid", "C-1", "20").data}, "finished", "new"),
        ({"status": "REVOKED", "result": None}, "expired", "new"),
        ({"status": "FAILURE", "result": {"exc_type": "KeyError"}}, "finished", "none"),
        ({"status": "STARTED", "result": None}, "queued", "same"),
    ],
)
def test_what_celery_alone_knows_of_a_trigger(meta: dict[str, Any], state: str, key: str) -> None:
    """A fault in callwatch itself is an unknown outcome."""
    shown = describe(ASKED, standing(), meta)
    assert (shown["state"], shown["retry"]["key"]) == (state, key)


def test_s9_s37_a_refusal_names_the_next_round_and_no_whole_person() -> None:
    refused = [
        {"person_id": PERSON, "error_code": 1001, "message": "call 13800001111", "start_time": "2026-11-23 09:00"}
    ]
    shown = describe(ASKED, standing("done", "refused", refused=refused, message=f"外呼失败:{PERSON}(…)"), None)
    assert shown["retry"] == {"key": "new", "after": "2026-11-23 09:00"}
    assert shown["result"]["refused"][0]["person_id"] == "***1131"
    assert shown["result"]["message"] == "外呼失败:***1131(…)"
    assert PERSON not in json.dumps(shown)
    assert "13800001111" not in json.dumps(shown)


# -- who asks ----------------------------------------------------------------------------------------------------------


def token(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    usual = {"aud": "callwatch", "scope": "watch", "cases": ["C-1"], "iat": int(NOW), "exp": int(NOW) + 600}
    return jwt.encode({**usual, **claims}, secret, algorithm=algorithm)


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jwt.api_jwt.datetime", FixedTime)


class FixedTime:
    """PyJWT's clock."""

    @staticmethod
    def now(tz: Any = None) -> Any:  # noqa: ARG004
        return type("Moment", (), {"timestamp": lambda _self: NOW})()


def test_a_token_looks_at_its_cases_and_does_nothing_else() -> None:
    """S42."""
    minted, expires = Tokens(SECRET).mint("backend", ["C-1", "C-2"], "somebody", now=NOW, lives=900)
    caller = Tokens(SECRET).read(minted, now=NOW)
    assert (caller.name, caller.cases, caller.expires) == ("backend", frozenset({"C-1", "C-2"}), NOW + 900)
    assert expires == NOW + 900
    caller.require_case("C-1")
    assert problem_of(caller.require_case, "C-3").name == "other-case"
    assert problem_of(caller.require, "trigger").name == "insufficient-scope"
    assert jwt.get_unverified_header(minted) == {"alg": "HS256", "typ": "at+jwt"}


def unsigned() -> str:
    def part(document: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()

    claims = {"aud": "callwatch", "scope": "watch", "cases": ["C-1"], "exp": NOW + 600}
    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims)}."


@pytest.mark.parametrize(
    ("given", "name"),
    [
        pytest.param(token(exp=int(NOW) - 1), "token-expired", id="expired"),
        pytest.param(unsigned(), "unauthenticated", id="alg none"),
        pytest.param(token(secret="t" * 32), "unauthenticated", id="another secret"),
        pytest.param(token(algorithm="HS512", secret="s" * 64), "unauthenticated", id="another algorithm"),
        pytest.param(token(aud="another"), "unauthenticated", id="for another service"),
        pytest.param(token(scope="trigger"), "unauthenticated", id="another scope"),
        pytest.param(token(cases=[]), "unauthenticated", id="no case"),
        pytest.param(token(cases=["C"] * 21), "unauthenticated", id="21 cases"),
        pytest.param(token(cases="C-1"), "unauthenticated", id="no list"),
        pytest.param(token(exp=int(NOW) + 3_600), "unauthenticated", id="lives for an hour"),
        pytest.param(token(iat=int(NOW) - 400), "unauthenticated", id="made to live too long"),
        pytest.param(token(iat=int(NOW) + 120, exp=int(NOW) + 700), "unauthenticated", id="from the future"),
        pytest.param("a.b.c", "unauthenticated", id="no token"),
        pytest.param("x" * 10_000, "unauthenticated", id="too long"),
    ],
)
def test_any_other_token_is_refused(given: str, name: str) -> None:
    problem = problem_of(Tokens(SECRET).read, given, now=NOW)
    assert (problem.name, problem.status) == (name, 401)
    assert problem.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


def test_without_a_secret_there_are_no_tokens() -> None:
    assert problem_of(Tokens(None).read, token(), now=NOW).status == 401
    assert problem_of(Tokens(None).mint, "a", ["C-1"], "", now=NOW, lives=LONGEST_TOKEN).status == 501


def test_a_token_of_a_back_end_may_say_no_more_than_it_must() -> None:
    claims = {"aud": "callwatch", "scope": "watch", "cases": ["C-1"], "exp": int(NOW) + 60}
    caller = Tokens(SECRET).read(jwt.encode(claims, SECRET), now=NOW)
    assert (caller.name, caller.subject) == ("token", "token\0C-1")


@pytest.mark.parametrize("headers", [[], ["Basic eA=="], ["Bearer"], ["Bearer cw_a_x"], ["Bearer a", "Bearer b"]])
def test_who_shows_no_known_credential_is_nobody(headers: list[str]) -> None:
    problem = problem_of(identify, headers, KeyRing(None), Tokens(SECRET), now=NOW)
    assert problem.status == 401
    assert "WWW-Authenticate" in problem.headers


def test_keys_are_read_again_when_their_file_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A key is made and taken away while the gateway runs; a file that cannot be read changes nothing."""
    place, clock = tmp_path / "keys", [0.0]
    first, kept = new_key("a", ["read"])
    append_key(place, kept)
    ring = KeyRing(place, monotonic=lambda: clock[0])
    second, other = new_key("b", ["trigger"])
    append_key(place, other)
    assert ring.find(second) is None, "not looked at again yet"
    clock[0] += RELOAD_AFTER
    assert ring.find(second) == other
    place.write_text("nonsense\n")
    clock[0] += RELOAD_AFTER
    assert ring.find(first) == kept
    assert "the ones known before stay" in caplog.text
    place.unlink()
    clock[0] += RELOAD_AFTER
    assert len(ring) == 2
    place.write_text(other.line)
    os.utime(place, (1, 1))
    clock[0] += RELOAD_AFTER
    assert ring.find(first) is None


# -- limits ------------------------------------------------------------------------------------------------------------


def test_a_caller_is_limited_on_the_average_of_a_minute() -> None:
    limit = Limit("triggers", 2)
    for _ in range(120):
        limit.take("a", 0.0)
    problem = problem_of(limit.take, "a", 0.0)
    assert (problem.status, problem.headers["Retry-After"]) == (429, "1")
    assert problem.headers["RateLimit-Policy"] == '"triggers";q=120;w=60'
    assert json.loads(problem.body(prefix="", instance="r"))["type"] == QUOTA
    limit.take("b", 0.0)
    limit.take("a", 0.5)
    assert problem_of(limit.take, "a", 0.5).members == {"violated-policies": ["triggers"]}
    Limit("none", 0).take("a", 0.0)


def test_callers_that_have_been_quiet_are_forgotten() -> None:
    limit = Limit("looks", 1)
    for number in range(REMEMBERED):
        limit.take(str(number), 0.0)
    limit.take("one more", 0.5)
    assert len(limit._buckets) == REMEMBERED // 2 + 1, "nobody has been quiet: the first ones are forgotten"
    limit.take("another", 10_000.0)
    for number in range(REMEMBERED):
        limit.take(str(number), 10_000.0)
    assert len(limit._buckets) <= REMEMBERED + 2


# -- what is shown -----------------------------------------------------------------------------------------------------


def event(kind: str, number: int = 1, **fields: Any) -> dict[str, Any]:
    return {"id": f"{number}-0", "at": float(number), "kind": kind, "case_id": "C-1", "mediation_id": "20", **fields}


def test_s8_refusals_of_one_answer_are_one_notice_with_masked_persons() -> None:
    told = notices(
        [
            event("started", 1, job_id="job-1"),
            {**event("refused", 2, person="***0004", message="wait", error_code=1001, start_time="9:00"), "at": 1.0},
            {**event("refused", 3, person="***0005", message="<img onerror=x>", error_code=1002), "at": 1.0},
            event("refused", 4, person="***0006", message="", error_code=7),
        ],
        CaseView("C-1"),
    )
    assert [(one["id"], one["kind"], one["some_started"], one["text"]) for one in told] == [
        ("3-0", "refused", True, "部分联系人外呼失败:***0004(wait)、***0005(<img onerror=x>)"),
        ("4-0", "refused", False, "外呼失败:***0006(未知错误)"),
    ]
    assert told[0]["refused"][0] == {"person": "***0004", "message": "wait", "error_code": 1001, "start_time": "9:00"}


@pytest.mark.parametrize(
    ("kind", "fields", "level", "text"),
    [
        ("dial_failed", {"message": "发起外呼失败,请稍后重试"}, "error", "发起外呼失败,请稍后重试"),
        ("unknown", {}, "warning", "外呼结果未知,电话可能已拨出,请勿重复发起"),
        ("lost", {"job_id": "job-1"}, "error", "获取通话状态失败,请检查网络连接"),
        ("ended", {"job_id": "job-1", "call_status": "Failed"}, "error", "与 ***1131 的通话失败"),
        ("ended", {"job_id": "job-9", "call_status": "Failed"}, "error", "与 未知联系人 的通话失败"),
        ("disabled", {}, "warning", "外呼已暂停,未发起新外呼"),
        ("adopted", {"job_id": "job-1"}, "info", "已查到通话,继续监控"),
    ],
)
def test_s35_what_a_person_is_told(kind: str, fields: dict[str, Any], level: str, text: str) -> None:
    view = CaseView("C-1", calls={"job-1": call_shown(call())})
    (told,) = notices([event(kind, **fields)], view)
    assert (told["level"], told["text"]) == (level, text)


@pytest.mark.parametrize("kind", ["expired", "started", "status_changed", "outage_began"])
def test_s25_of_other_events_nothing_is_said(kind: str) -> None:
    assert notices([event(kind), event("ended", call_status="Succeeded")], CaseView("C-1")) == []


def test_an_event_of_an_earlier_release_has_no_id_and_is_never_told() -> None:
    assert notices([{"at": 1.0, "kind": "unknown"}], CaseView("C-1")) == []


def call() -> Call:
    return Call("job-1", "C-1", "20", PERSON, "Executing", None, 3, 7, 5.0, 6.0, 9.0, 8.0, executing_since=7.0)


def test_s30_s31_s37_a_call_as_a_page_shows_it() -> None:
    assert call_shown(call()) == {
        "job_id": "job-1", "mediation_id": "20", "person": "***1131", "call_status": "Executing", "label": "通话中",
        "since": 7.0, "failures": 3, "checked_at": None, "verdict": None, "finished_at": None,
    }  # fmt: skip


def test_a_validator_tells_what_is_shown_and_not_when() -> None:
    assert etag({"now": 1.0, "cases": []}) == etag({"now": 2.0, "cases": []}) != etag({"now": 1.0, "cases": [1]})


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "a-b", "1-2-3", "١-٢", "1" * 50 + "-1"])
def test_what_is_no_id_of_an_event(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        position(text)


@pytest.mark.parametrize("name", KINDS)
def test_every_problem_has_its_page_and_names_it(name: str) -> None:
    """RFC 9457: the type leads to what it means, and nothing on that page comes from elsewhere."""
    document = json.loads(Problem(name).body(prefix="/calls", instance="r-1"))
    assert document["type"] in (QUOTA, f"/calls/problems/{name}")
    assert (document["status"], document["instance"]) == (KINDS[name].status, "r-1")
    assert KINDS[name].title.replace("'", "&#x27;") in page(name)
    assert "http" not in page(name).replace("HTTP", "")

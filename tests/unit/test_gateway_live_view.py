"""Test the live view of a case and the pages about problems; no personal data (S30, S35, S37)."""

import json
from typing import Any

import pytest

from gateway.live_view import CaseView, call_shown, etag, notices, position
from gateway.problems import KINDS, QUOTA, Problem, page
from tests.problems import PERSON
from worker.core.model import Call


def event(kind: str, number: int = 1, **fields: Any) -> dict[str, Any]:
    return {"id": f"{number}-0", "at": float(number), "kind": kind, "case_id": "C-1", "mediation_id": "20", **fields}


def test_s8_refusals_of_one_response_are_one_notice_with_masked_persons() -> None:
    shown = notices(
        [
            event("started", 1, job_id="job-1"),
            {**event("refused", 2, person="***0004", message="wait", error_code=1001, start_time="9:00"), "at": 1.0},
            {**event("refused", 3, person="***0005", message="<img onerror=x>", error_code=1002), "at": 1.0},
            event("refused", 4, person="***0006", message="", error_code=7),
        ],
        CaseView("C-1"),
    )
    assert [(one["id"], one["kind"], one["some_started"], one["text"]) for one in shown] == [
        ("3-0", "refused", True, "部分联系人外呼失败:***0004(wait)、***0005(<img onerror=x>)"),
        ("4-0", "refused", False, "外呼失败:***0006(未知错误)"),
    ]
    assert shown[0]["refused"][0] == {"person": "***0004", "message": "wait", "error_code": 1001, "start_time": "9:00"}


def test_s38_notice_carries_the_reason() -> None:
    """Refusals of one answer share a notice: it has their common reason, else `refused`, and each refusal its own."""

    def refused(number: int, at: float, reason: str) -> dict[str, Any]:
        return {**event("refused", number, person="***1", reason=reason, refused_index=number), "at": at}

    events = [
        event("lost", 1, reason="http_401"),
        *(refused(number, 2.0, "must_wait") for number in (2, 3)),
        *(refused(number, 3.0, reason) for number, reason in ((4, "refused"), (5, "must_wait"))),
    ]
    shown = notices(events, CaseView("C-1"))
    assert [notice["reason"] for notice in shown] == ["http_401", "must_wait", "refused"]
    assert [(one["refused_index"], one["reason"]) for one in shown[2]["refused"]] == [(4, "refused"), (5, "must_wait")]


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
def test_s35_notice_has_the_level_and_text_of_its_event(
    kind: str, fields: dict[str, Any], level: str, text: str
) -> None:
    view = CaseView("C-1", calls={"job-1": call_shown(call())})
    (shown,) = notices([event(kind, **fields)], view)
    assert (shown["level"], shown["text"]) == (level, text)


@pytest.mark.parametrize("kind", ["expired", "started", "status_changed", "outage_began"])
def test_s25_other_events_make_no_notice(kind: str) -> None:
    assert notices([event(kind), event("ended", call_status="Succeeded")], CaseView("C-1")) == []


def test_event_of_an_earlier_release_without_an_id_makes_no_notice() -> None:
    assert notices([{"at": 1.0, "kind": "unknown"}], CaseView("C-1")) == []


def call() -> Call:
    return Call("job-1", "C-1", "20", PERSON, "Executing", None, 3, 7, 5.0, 6.0, 9.0, 8.0, executing_since=7.0)


def test_s30_s31_s37_call_in_a_page_has_masked_person_label_and_times() -> None:
    assert call_shown(call()) == {
        "job_id": "job-1", "mediation_id": "20", "person": "***1131", "call_status": "Executing", "label": "通话中",
        "started_at": 5.0, "since": 7.0, "failures": 3, "checked_at": None, "verdict": None, "finished_at": None,
    }  # fmt: skip


def test_etag_depends_on_the_content_and_not_on_the_time() -> None:
    assert etag({"now": 1.0, "cases": []}) == etag({"now": 2.0, "cases": []}) != etag({"now": 1.0, "cases": [1]})


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "a-b", "1-2-3", "١-٢", "1" * 50 + "-1"])
def test_malformed_event_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        position(text)


@pytest.mark.parametrize("name", KINDS)
def test_every_problem_type_links_to_its_page(name: str) -> None:
    """RFC 9457: the type links to its explanation; that page loads nothing from other places."""
    document = json.loads(Problem(name).body(prefix="/calls", instance="r-1"))
    assert document["type"] in (QUOTA, f"/calls/problems/{name}")
    assert (document["status"], document["instance"]) == (KINDS[name].status, "r-1")
    assert KINDS[name].title.replace("'", "&#x27;") in page(name)
    assert "http" not in page(name).replace("HTTP", "")


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.status == 503])
def test_s42_every_503_has_retry_after(name: str) -> None:
    assert int(Problem(name).headers["Retry-After"]) >= 1
    assert Problem(name, headers={"Retry-After": "30"}).headers["Retry-After"] == "30"

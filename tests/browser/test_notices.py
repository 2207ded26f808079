"""Test that pages show each notice once (S35)."""

import json
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.records import Records
from tests.browser.stage import Stage
from tests.deployment import wait_until
from worker.core import texts

pytestmark = pytest.mark.usefixtures("pages")

HOSTILE = '<img src=x onerror="alert(1)">"><script>alert(2)</script>'


def emit(case: Records, *events: dict[str, Any]) -> None:
    """Write events with contents that callwatch itself never writes."""
    script = case.store.script("emit(PREFIX .. ':events', KEYS[1], 60000, now(), ARGV[1])")
    for event in events:
        written = {**event, "case_id": case.case_id, "mediation_id": "20"}
        case.store.run(script, [case.store.keys.history(case.case_id)], [json.dumps(written, ensure_ascii=False)])


def test_s12_page_shows_a_dial_failure_from_before_its_opening_once(stage: Stage) -> None:
    """S12, S35: the back end triggers while the page loads; neither a reload nor another page shows it again."""
    case = stage.records()
    case.fail()
    context = stage.context()
    view = stage.open(case.case_id, context=context)
    expect(view.notices).to_have_text(["发起外呼失败,请稍后重试"])
    expect(view.page.get_by_role("alert")).to_contain_text("发起外呼失败,请稍后重试")
    expect(view.bubbles).to_have_count(0)
    view.page.reload()
    (job,) = case.start("P-1")
    expect(view.bubbles).to_have_count(1)
    other = stage.open(case.case_id, context=context)
    expect(other.bubbles).to_have_count(1)
    case.end(job, "Failed")
    expect(view.bubbles).to_have_count(0)
    for one in (view, other):
        assert "发起外呼失败" not in "".join(one.notices.all_text_contents())


def test_s35_page_shows_a_notice_once_across_tabs(stage: Stage) -> None:
    case = stage.records()
    (job,) = case.start("P-10010001")
    context = stage.context()
    views = [stage.open(case.case_id, context=context, clock=True) for _ in range(3)]
    for view in views:
        expect(view.bubbles).to_have_count(1)
    case.end(job, "Failed")
    for view in views:
        expect(view.bubbles).to_have_count(0)
    for _ in range(50):  # together: the tabs agree within 50 ms, which a jump of one tab's clock would skip
        for view in views:
            view.page.clock.run_for(10)
    assert sum(view.notices.count() for view in views) == 1


def test_s8_refusals_of_one_response_are_one_notice_with_the_hosts_names(stage: Stage) -> None:
    case = stage.records()
    element = stage.element(case.case_id)
    stage.host.script = """addEventListener("DOMContentLoaded", () => {
        document.querySelector("callwatch-calls").parties = [{person_id: "P-10010002", name: "李四", role: "被申请人"}];
    });"""
    view = stage.open(element=element)
    case.start("P-10010001", "!P-10010002", "!P-10010003")
    refusal = texts.refusal(1001)
    expect(view.notices).to_have_text([f"部分联系人外呼失败:被申请人(李四)({refusal})、***0003({refusal})"])
    expect(view.bubbles).to_have_count(1)
    other = stage.records()
    view = stage.open(other.case_id)
    other.start("!P-10010004")
    expect(view.notices).to_have_text([f"外呼失败:***0004({refusal})"])
    assert view.notices.get_attribute("class") == "notice warning"


def test_markup_in_upstream_messages_stays_text(stage: Stage) -> None:
    case = stage.records()
    view = stage.open(case.case_id)
    expect(view.page.locator("callwatch-calls")).to_be_attached()
    emit(case, {"kind": "refused", "person": HOSTILE, "message": HOSTILE}, {"kind": "dial_failed", "message": HOSTILE})
    expect(view.notices).to_have_count(2)
    assert sorted(view.notices.all_text_contents()) == sorted([f"外呼失败:{HOSTILE}({HOSTILE})", HOSTILE])
    assert view.page.locator("img, callwatch-calls script").count() == 0
    case.start(HOSTILE)
    expect(view.bubbles).to_have_count(1)


def test_s13_notice_of_an_unknown_outcome_stays_until_resolved(stage: Stage) -> None:
    """S13, S14, S35: resolved in all tabs by an adopted call, by an operator's release, or by dismissing the notice."""
    case = stage.records()
    context = stage.context()
    view = stage.open(case.case_id, context=context, clock=True)
    case.lose()
    unknown = "外呼结果未知,电话可能已拨出,请勿重复发起"
    expect(view.notices).to_have_text([unknown])
    view.page.clock.run_for(120_000)
    expect(view.notices).to_have_text([unknown])
    view.page.reload()
    expect(view.notices).to_have_text([unknown])
    case.adopt("1795000000000-447e-96ea-97523c61189b")
    expect(view.bubbles).to_have_count(1)
    expect(view.notices).to_have_count(0)

    held = stage.records()
    view = stage.open(held.case_id, context=context)
    held.lose()
    expect(view.notices).to_have_count(1)
    held.release()
    expect(view.notices).to_have_count(0)

    dismissed = stage.records()
    tabs = [stage.open(dismissed.case_id, context=context) for _ in range(2)]
    dismissed.lose()
    for tab in tabs:
        expect(tab.notices).to_have_count(1)
    tabs[0].page.get_by_role("button", name="关闭").click()
    for tab in tabs:
        expect(tab.notices).to_have_count(0)
    dismissed.start("P-1", mediation="21")
    tabs[1].page.reload()
    expect(tabs[1].bubbles).to_have_count(1)
    assert tabs[1].notices.count() == 0
    dismissed.release()
    late = stage.records()
    late.lose()
    late.release()
    view = stage.open(late.case_id, dismissed.case_id)
    late.start("P-1")
    expect(view.bubbles).to_have_count(2)
    assert view.notices.count() == 0, "a resolved outcome makes no notice"


def test_s25_only_lost_and_failed_calls_show_a_notice(stage: Stage) -> None:
    """S24, S25, S35."""
    case = stage.records()
    view = stage.open(case.case_id)
    lost, expired, failed, well = case.start("P-10010001", "P-10010002", "P-10010003", "P-10010004")
    expect(view.bubbles).to_have_count(4)
    case.end(expired, verdict="expired")
    case.end(well)
    case.end(lost, verdict="lost")
    case.end(failed, "Failed")
    expect(view.bubbles).to_have_count(0)
    expect(view.notices).to_have_count(2)
    assert sorted(view.notices.all_text_contents()) == ["与 ***0003 的通话失败", "获取通话状态失败,请检查网络连接"]
    assert "失败" not in "".join(view.page.get_by_role("status").all_text_contents()).replace("状态:失败", "")


def test_s35_notice_stays_ten_seconds_and_while_hovered_or_focused(stage: Stage) -> None:
    case = stage.records()
    view = stage.open(case.case_id, clock=True)
    case.fail()
    expect(view.notices).to_have_count(1)
    view.page.clock.run_for(9_000)
    expect(view.notices).to_have_count(1)
    view.notices.hover()
    view.page.clock.run_for(30_000)
    expect(view.notices).to_have_count(1)
    view.page.mouse.move(5, 400)
    view.notices.get_by_role("button").focus()
    view.page.clock.run_for(30_000)
    expect(view.notices).to_have_count(1)
    view.page.get_by_role("button", name="保存").focus()
    view.page.clock.run_for(4_000)
    expect(view.notices).to_have_count(0)


def test_s35_host_page_can_show_a_notice_itself(stage: Stage) -> None:
    case = stage.records()
    stage.host.script = """
        globalThis.received = [];
        addEventListener("callwatch-notice", (event) => { received.push(event.detail); event.preventDefault(); });
    """
    context = stage.context()
    view = stage.open(case.case_id, context=context)
    case.fail()
    wait_until(lambda: view.page.evaluate("received.length") == 1)
    detail = view.page.evaluate("received[0]")
    assert (detail["kind"], detail["level"], detail["text"]) == ("dial_failed", "error", texts.DIAL_FAILED)
    assert detail["case_id"] == case.case_id
    case.start("P-1")
    view.page.reload()
    expect(view.bubbles).to_have_count(1)
    assert view.page.evaluate("received.length") == 0
    assert view.notices.count() == 0


def test_s35_notices_of_a_hidden_page_appear_when_it_is_shown(stage: Stage) -> None:
    case = stage.records()
    view = stage.open(case.case_id, clock=True)
    (job,) = case.start("P-10010001")
    expect(view.bubbles).to_have_count(1)
    view.hide()
    view.page.clock.run_for(6_000)
    case.end(job, "Failed")
    assert view.notices.count() == 0
    view.show()
    expect(view.notices).to_have_text(["与 ***0001 的通话失败"])
    expect(view.bubbles).to_have_count(0)


def test_erasing_a_case_removes_its_notices(stage: Stage) -> None:
    """S37: at once, from an open page as well."""
    case = stage.records()
    view = stage.open(case.case_id)
    (job,) = case.start("P-10010001")
    expect(view.bubbles).to_have_count(1)
    case.end(job, "Failed")
    expect(view.notices).to_have_text(["与 ***0001 的通话失败"])
    view.notices.hover()  # a hovered notice does not time out
    case.erase()
    expect(view.notices).to_have_count(0)

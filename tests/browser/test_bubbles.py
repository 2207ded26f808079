"""Test the bubbles in a browser: number, order, texts, appearance and removal (S30-S34)."""

import pytest
from playwright.sync_api import expect

from tests.browser.stage import Stage
from tests.deployment import wait_until

PARTIES = """document.querySelector("callwatch-calls").parties = [
    {person_id: "P-10010001", name: "张三", role: "申请人"}, {person_id: "P-10010002", name: "李四", role: "被申请人"},
    {person_id: "P-10010003", name: "王五"}, {person_id: "Q-77770003", name: "赵六"}];"""


pytestmark = pytest.mark.usefixtures("pages")


def test_s32_s33_bubbles_are_stacked_with_the_first_call_at_the_bottom(stage: Stage) -> None:
    """S30-S33: three lines each, no name where none was supplied, and the duration ticks each second."""
    case = stage.records()
    view = stage.open(case.case_id, clock=True)
    first, second = case.start("P-10010001", "P-10010002")
    expect(view.bubbles).to_have_count(2)
    below, above = view.read()
    assert (below["job"], above["job"]) == (first, second)
    assert below["top"] > above["top"]
    lasted = below["lines"].pop()
    assert below["lines"] == ["智能体工作中", "正在与 ***0001 电话沟通中...", "状态:拨号中"]
    assert lasted.startswith("已持续: 00:0")
    case.change(first, "Executing")
    expect(view.bubbles.first).to_contain_text("状态:通话中")
    view.page.clock.run_for(1_500)
    before = view.durations()
    view.page.clock.run_for(3_000)
    assert all(later - earlier in (3, 4) for later, earlier in zip(view.durations(), before, strict=True))


def test_s32_bubble_shows_the_hosts_name_only_for_an_unambiguous_mask(stage: Stage) -> None:
    """S32, S37: role and name; two parties with the same mask get no name; names never leave the page."""
    case = stage.records()
    case.start("P-10010001", "P-10010003", "P-99990009", "")
    view = stage.open(case.case_id)
    expect(view.bubbles).to_have_count(4)
    sent: list[str] = []
    view.page.on("request", lambda request: sent.append(request.url + str(request.post_data)))
    view.page.evaluate(PARTIES)
    who = [
        "正在与 申请人(张三) 电话沟通中...", "正在与 ***0003 电话沟通中...", "正在与 ***0009 电话沟通中...",
        "正在与 未知联系人 电话沟通中...",
    ]  # fmt: skip
    expect(view.bubbles.locator("p:nth-of-type(1)")).to_have_text(who)
    assert "张三" not in "".join(sent)


def test_s33_ended_call_removes_its_bubble_and_the_last_one_hides_the_dock(stage: Stage) -> None:
    """S33: other bubbles keep elements and focus; after the last, dock and icon are gone, for screen readers too."""
    case = stage.records()
    first, second = case.start("P-1", "P-2")
    view = stage.open(case.case_id)
    expect(view.bubbles).to_have_count(2)
    other = view.page.locator(f'[data-job-id="{second}"]')
    other.evaluate("one => { one.wasHere = true; one.querySelector('button').focus(); }")
    case.end(first)
    expect(view.bubbles).to_have_count(1)
    assert other.evaluate("one => one.wasHere && one.matches(':focus-within')")
    case.end(second, "Cancelled")
    expect(view.bubbles).to_have_count(0)
    expect(view.dock).to_have_count(0)
    expect(view.icon).to_be_hidden()
    assert "智能外呼" not in view.page.locator("body").aria_snapshot()
    assert view.notices.count() == 0


def test_s33_minimised_dock_is_an_icon_with_the_number_of_calls(stage: Stage) -> None:
    """S33: a third call only raises the number; Enter opens; the focus moves along; a reload keeps the state."""
    case = stage.records()
    case.start("P-1", "P-2")
    view = stage.open(case.case_id)
    view.page.get_by_role("button", name="最小化").first.click()
    expect(view.bubbles.first).to_be_hidden()
    expect(view.icon).to_be_focused()
    expect(view.icon).to_have_accessible_name("展开智能外呼,2 个通话")
    expect(view.icon).to_have_text("2")
    (third,) = case.start("P-3", mediation="21")
    expect(view.icon).to_have_text("3")
    assert view.read() == []
    view.page.reload()
    expect(view.icon).to_have_accessible_name("展开智能外呼,3 个通话")
    view.icon.focus()
    view.page.keyboard.press("Enter")
    expect(view.bubbles).to_have_count(3)
    expect(view.bubbles.first.get_by_role("button")).to_be_focused()
    assert view.read()[-1]["job"] == third
    view.page.keyboard.press("Escape")
    expect(view.icon).to_be_focused()
    view.icon.click()
    for job in list(case.polls):
        case.end(job)
    expect(view.icon).to_be_hidden()


def test_s35_bubbles_beyond_five_are_behind_a_button(stage: Stage) -> None:
    case = stage.records()
    jobs = case.start(*(f"P-{number}" for number in range(12)))
    view = stage.open(case.case_id)
    expect(view.more).to_have_text("还有 7 个通话")
    assert [one["job"] for one in view.read()] == jobs[:5]
    view.more.click()
    expect(view.more).to_be_hidden()
    assert [one["job"] for one in view.read()] == jobs
    expect(view.bubbles.nth(5).get_by_role("button")).to_be_focused()
    box = view.dock.bounding_box()
    assert box is not None
    assert box["y"] >= 0
    for job in jobs[:7]:
        case.end(job)
    expect(view.bubbles).to_have_count(5)
    expect(view.more).to_be_hidden()


def test_s34_reload_and_second_browser_show_the_same_calls(stage: Stage) -> None:
    """S31, S34: durations differ from the store's by less than a second."""
    case = stage.records()
    first, _ = case.start("P-1", "P-2")
    case.change(first, "Executing")
    view = stage.open(case.case_id)
    expect(view.bubbles).to_have_count(2)
    view.page.reload()
    other = stage.open(case.case_id)
    for one in (view, other):
        wait_until(lambda one=one: one.labels() == case.shown())  # type: ignore[misc]
        calls = stage.store.calls(case_id=case.case_id)
        before = stage.store.now()
        shown = one.durations()
        after = stage.store.now()
        assert all(
            before - call.since - 1.5 <= seconds <= after - call.since
            for seconds, call in zip(shown, calls, strict=True)
        )


def test_s34_elements_of_one_page_share_one_dock_and_one_stream(stage: Stage) -> None:
    """All cases of a page use one token source; removing the first element keeps the calls of the others."""
    one, two = stage.records(), stage.records()
    one.start("P-1")
    (job,) = two.start("P-2")
    query = f"case={one.case_id}&amp;case={two.case_id}"
    element = "".join(
        f'<callwatch-calls case-id="{case.case_id}" token-url="/token?{query}"></callwatch-calls>'
        for case in (one, two)
    )
    view = stage.open(element=element)
    expect(view.bubbles).to_have_count(2)
    assert view.dock.count() == 1
    assert stage.gateway.metric("callwatch_gateway_streams") == 1
    view.page.evaluate("document.querySelector('callwatch-calls').remove()")
    expect(view.bubbles).to_have_count(1)
    assert view.read()[0]["job"] == job
    view.page.evaluate("document.querySelector('callwatch-calls').remove()")
    wait_until(lambda: stage.gateway.metric("callwatch_gateway_streams") == 0)


def test_element_follows_a_changed_case_id(stage: Stage) -> None:
    one, two = stage.records(), stage.records()
    one.start("P-1")
    view = stage.open(one.case_id)
    expect(view.bubbles).to_have_count(1)
    (job,) = two.start("P-2")
    view.page.evaluate(
        """id => {
            const calls = document.querySelector("callwatch-calls");
            calls.setAttribute("token-url", `/token?case=${id}`);
            calls.setAttribute("case-id", id);
        }""",
        two.case_id,
    )
    wait_until(lambda: [bubble["job"] for bubble in view.read()] == [job])

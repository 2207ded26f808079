"""Test the widget in unusual host pages: removed, moved, wrapped, with wrong clocks, plain HTTP, no storage."""

import json

import pytest
from playwright.sync_api import Browser, CDPSession, expect

from cli.up.embedded_redis import EmbeddedServer
from tests.browser.stage import Stage
from tests.deployment import wait_until

pytestmark = pytest.mark.usefixtures("pages")

TIMERS = """
const active = globalThis.activeTimers = new Set();
const {setTimeout: begin, clearTimeout: end} = globalThis;
globalThis.setTimeout = (act, wait, ...rest) => {
    const id = begin(() => { active.delete(id); act(...rest); }, wait);
    active.add(id);
    return id;
};
globalThis.clearTimeout = (id) => { active.delete(id); end(id); };
"""
CHURN = """async (times) => {
    const element = document.querySelector("callwatch-calls") ?? globalThis.kept;
    globalThis.kept = element;
    for (let time = 0; time < times; time += 1) {
        document.body.append(element);
        await new Promise((resolve) => setTimeout(resolve, time % 5));
        element.remove();
        await Promise.resolve();
    }
}"""


SPARE = {"JSEventListeners": 0, "Nodes": 5, "JSHeapUsedSize": 200_000}


def counted(session: CDPSession) -> dict[str, float]:
    session.send("HeapProfiler.collectGarbage")
    metrics = session.send("Performance.getMetrics")["metrics"]
    return {one["name"]: one["value"] for one in metrics if one["name"] in SPARE}


def test_removed_element_leaves_no_connection_timer_or_listener(stage: Stage) -> None:
    """Even after 200 removals; an element inserted again shows the calls."""
    case = stage.records()
    (job,) = case.start("P-1")
    context = stage.context()
    context.add_init_script(TIMERS)
    view = stage.open(case.case_id, context=context)
    expect(view.bubbles).to_have_count(1)
    session = context.new_cdp_session(view.page)
    session.send("Performance.enable")
    view.page.evaluate(CHURN, 20)
    wait_until(lambda: stage.gateway.metric("callwatch_gateway_streams") == 0)
    wait_until(lambda: view.page.evaluate("activeTimers.size") == 0)
    before = counted(session)
    view.page.evaluate(CHURN, 200)
    wait_until(lambda: stage.gateway.metric("callwatch_gateway_streams") == 0)
    wait_until(lambda: view.page.evaluate("activeTimers.size") == 0)

    def is_as_before() -> bool:
        after = counted(session)
        return all(after[name] <= before[name] + spare for name, spare in SPARE.items())

    wait_until(is_as_before)
    view.page.evaluate("document.body.append(kept)")
    wait_until(lambda: [one["job"] for one in view.read()] == [job])


def test_moved_element_keeps_its_stream(stage: Stage) -> None:
    case = stage.records()
    case.start("P-1")
    view = stage.open(case.case_id)
    expect(view.bubbles).to_have_count(1)
    opened = stage.proxy.opened
    view.page.evaluate(
        """() => {
            const element = document.querySelector("callwatch-calls");
            document.querySelector("main").prepend(element);
            document.body.moveBefore?.(element, null);
            element.remove();
            document.body.append(element);
        }"""
    )
    case.start("P-2", mediation="21")
    expect(view.bubbles).to_have_count(2)
    expect(view.dock).to_be_visible()
    assert (stage.proxy.opened, stage.host.tokens.count([case.case_id])) == (opened, 1)


def test_dock_ignores_an_ancestor_that_transforms_and_clips(stage: Stage) -> None:
    case = stage.records()
    case.start("P-1")
    stage.host.style = (
        ".odd { transform: translate(40px, 40px); overflow: hidden; width: 9px; height: 9px; position: relative }"
    )
    view = stage.open(
        element=f'<div class="odd">{stage.element(case.case_id)}</div>', viewport={"width": 1000, "height": 700}
    )
    expect(view.bubbles).to_have_count(1)
    box = view.bubbles.bounding_box()
    assert box is not None
    assert (round(box["x"] + box["width"]), round(box["y"] + box["height"])) == (980, 620)
    view.page.get_by_role("button", name="保存").click()
    view.page.get_by_role("button", name="最小化").click()
    expect(view.icon).to_be_visible()


def test_durations_follow_the_server_clock_on_a_page_with_a_wrong_clock(
    browser: Browser, redis_server: EmbeddedServer
) -> None:
    """S31: with a clock three days off, and from the next heartbeat on after a pause that stopped the page's clock."""
    pace = json.dumps({"beat": 1.0})
    with Stage(browser, redis_server.url, module="tests.faults.oddgateway", PACE=pace) as stage:
        case = stage.records()
        case.start("P-1")
        (call,) = stage.store.calls(case_id=case.case_id)
        view = stage.open(case.case_id, clock=True)
        view.page.clock.set_system_time(stage.store.now() - 3 * 86_400)
        view.page.reload()
        expect(view.bubbles).to_have_count(1)

        def is_right() -> bool:
            before = stage.store.now()
            (shown,) = view.durations()
            return before - call.since - 1.5 <= shown <= stage.store.now() - call.since

        assert is_right()
        view.page.clock.pause_at(view.page.evaluate("Date.now()") / 1_000 + 0.05)
        wait_until(lambda: stage.store.now() - call.since > 6)
        wait_until(is_right)


def test_widget_works_over_plain_http_with_properties_set_before_its_definition(stage: Stage) -> None:
    """React sets properties this way; on an intranet name the browser lacks the APIs that require HTTPS."""
    case = stage.records()
    case.start("P-10010001")
    stage.host.gateway = f"http://gateway.test:{stage.proxy.port}"
    stage.host.script = f"""
        const element = document.createElement("callwatch-calls");
        element.parties = [{{person_id: "P-10010001", name: "张三"}}];
        element.tokenProvider = async () => (await fetch("/token?case={case.case_id}")).text();
        element.setAttribute("case-id", "{case.case_id}");
        document.addEventListener("readystatechange", () => document.body.append(element));
    """
    try:
        view = stage.open(element="<p></p>", origin=f"http://intranet.test:{stage.host.port}")
        expect(view.bubbles).to_contain_text("正在与 张三 电话沟通中...")
        assert view.page.evaluate("[isSecureContext, 'locks' in navigator]") == [False, False]
    finally:
        stage.host.gateway = stage.proxy.url


def test_new_token_provider_function_at_each_render_opens_no_new_stream(stage: Stage) -> None:
    case = stage.records()
    case.start("P-1")
    view = stage.open(case.case_id)
    expect(view.bubbles).to_have_count(1)
    opened = stage.proxy.opened
    view.page.evaluate(
        """async () => {
            const element = document.querySelector("callwatch-calls");
            for (let render = 0; render < 20; render += 1) {
                element.tokenProvider = async () => "";
                element.parties = [];
                await new Promise((resolve) => setTimeout(resolve));
            }
        }"""
    )
    assert stage.proxy.opened == opened


def test_widget_works_on_a_page_without_storage(stage: Stage) -> None:
    case = stage.records()
    case.fail()
    case.start("P-1")
    context = stage.context()
    context.add_init_script(
        """for (const name of ["localStorage", "sessionStorage"])
            Object.defineProperty(globalThis, name, {get() { throw new DOMException("no", "SecurityError"); }});"""
    )
    view = stage.open(case.case_id, context=context)
    expect(view.notices).to_have_count(1)
    view.page.get_by_role("button", name="最小化").click()
    expect(view.icon).to_be_visible()


def test_hidden_element_shows_no_dock(stage: Stage) -> None:
    case = stage.records()
    case.start("P-1")
    view = stage.open(case.case_id)
    expect(view.bubbles).to_have_count(1)
    view.page.evaluate("document.querySelector('callwatch-calls').hidden = true")
    expect(view.bubbles).to_be_hidden()
    view.page.evaluate("document.querySelector('callwatch-calls').hidden = false")
    expect(view.bubbles).to_be_visible()

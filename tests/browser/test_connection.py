"""Test that a page recovers from failures of gateway, network and Redis, and marks its data as stale until then."""

import re
import signal
import time

import pytest
from playwright.sync_api import Browser, expect

from cli.up.embedded_redis import EmbeddedServer
from gateway.identity import Tokens
from tests.browser.stage import Stage, View
from tests.deployment import wait_until

pytestmark = pytest.mark.usefixtures("pages")
LINE = re.compile(r"^更新中断,最后更新 \d\d:\d\d:\d\d$")


def streams(stage: Stage) -> float:
    return stage.gateway.metric("callwatch_gateway_streams")


def is_fresh(view: View) -> bool:
    return not view.stale.is_visible() and not any(one["isStale"] for one in view.read())


def test_page_catches_up_after_the_gateway_was_killed(stage: Stage) -> None:
    """S34: missed statuses, ends and notices appear; no notice appears twice."""
    case = stage.records()
    stage.host.script = (
        "globalThis.received = []; addEventListener('callwatch-notice', ({detail}) => received.push(detail.kind));"
    )
    view = stage.open(case.case_id, clock=True)
    first, second, third = case.start("P-10010001", "P-10010002", "!P-10010009", "P-10010003")
    expect(view.bubbles).to_have_count(3)
    expect(view.notices).to_have_count(1)
    stage.gateway.kill()
    case.change(first, "Executing")
    case.end(second, "Failed")
    view.page.clock.run_for(10_000)
    assert is_fresh(view), "a short interruption does not mark the calls as stale"
    stage.gateway.start()
    wait_until(lambda: view.labels() == case.shown())
    assert [job for job, _ in view.labels()] == [first, third]
    wait_until(lambda: view.page.evaluate("received") == ["refused", "failed"])
    assert "与 ***0002 的通话失败" in view.notices.all_text_contents()


def test_s35_page_marks_calls_as_stale_while_the_stream_is_silent(stage: Stage) -> None:
    """No byte for 40 s: the bubbles dim, the durations stop, a line gives the time; the next byte undoes all of it."""
    case = stage.records()
    view = stage.open(case.case_id, clock=True)
    (job,) = case.start("P-1")
    expect(view.bubbles).to_have_count(1)
    stage.gateway.process.send_signal(signal.SIGSTOP)
    try:
        view.page.clock.run_for(35_000)
        assert is_fresh(view)
        view.page.clock.run_for(6_000)
        expect(view.stale).to_have_text(LINE)
        assert all(one["isStale"] for one in view.read())
        before = view.durations()
        view.page.clock.run_for(20_000)
        assert view.durations() == before
        view.page.get_by_role("button", name="最小化").click()
        expect(view.stale).to_be_visible()
        view.icon.click()
    finally:
        stage.gateway.process.send_signal(signal.SIGCONT)
    case.change(job, "Executing")
    view.page.clock.run_for(40_000)
    wait_until(lambda: is_fresh(view) and view.labels() == [(job, "通话中")])


def test_watchdog_replaces_a_stalled_connection(stage: Stage) -> None:
    """The proxy withholds all data; the connection opened after the watchdog's time-out succeeds."""
    case = stage.records()
    view = stage.open(case.case_id, clock=True)
    (job,) = case.start("P-1")
    expect(view.bubbles).to_have_count(1)
    stage.proxy.stall()
    view.page.clock.run_for(41_000)
    expect(view.stale).to_be_visible()
    stage.proxy.cut()
    stage.proxy.resume()
    case.change(job, "Paused")
    view.page.evaluate("dispatchEvent(new Event('online'))")
    wait_until(lambda: is_fresh(view) and view.labels() == [(job, "已暂停")])


@pytest.mark.parametrize("middle", ["通话中", "data: "], ids=["of a character", "of a field's name"])
def test_connection_cut_inside_an_event_loses_no_event(stage: Stage, middle: str) -> None:
    case = stage.records()
    view = stage.open(case.case_id)
    (job,) = case.start("P-1")
    expect(view.bubbles).to_have_count(1)
    text = middle.encode()
    stage.proxy.cut_within = text[: len(text) - len(text) % 2 + 1] if middle == "data: " else text
    case.change(job, "Executing")
    wait_until(lambda: view.labels() == [(job, "通话中")])
    assert stage.proxy.cut_within == b"", "the connection was cut"
    assert is_fresh(view)


def test_parser_accepts_a_stream_of_single_bytes(stage: Stage) -> None:
    case = stage.records()
    stage.proxy.dribbles = True
    try:
        view = stage.open(case.case_id)
        first, second = case.start("P-1", "P-2")
        case.change(first, "Executing")
        wait_until(lambda: view.labels() == [(first, "通话中"), (second, "拨号中")])
    finally:
        stage.proxy.dribbles = False


def test_page_shows_the_records_after_a_redis_restart_and_missed_events(browser: Browser) -> None:
    """S35: the page is stale while Redis is away; it shows the records afterwards, and after 10,001 missed events."""
    with EmbeddedServer() as server, Stage(browser, server.url) as stage:
        case = stage.records()
        view = stage.open(case.case_id)
        (job,) = case.start("P-1")
        expect(view.bubbles).to_have_count(1)
        server.kill()
        expect(view.stale).to_have_text(LINE)
        server.start()
        wait_until(lambda: stage.gateway.get("/readyz").status == 200)
        wait_until(lambda: is_fresh(view) and view.labels() == [(job, "拨号中")])
        stage.gateway.process.send_signal(signal.SIGSTOP)
        with stage.store.client.pipeline(transaction=False) as pipeline:
            for _ in range(10_001):
                pipeline.xadd(stage.store.keys.events, {"e": '{"kind":"started","case_id":"C-other"}'}, maxlen=10_000)
            pipeline.execute()
        case.change(job, "Executing")
        stage.gateway.process.send_signal(signal.SIGCONT)
        wait_until(lambda: view.labels() == [(job, "通话中")])
        assert view.said == []


def test_page_shows_an_upstream_outage(stage: Stage) -> None:
    """S29, S35."""
    case = stage.records()
    view = stage.open(case.case_id)
    case.start("P-1")
    expect(view.bubbles).to_have_count(1)
    stage.store.client.hset(stage.store.keys.outage, "since", stage.store.now())
    try:
        case.start("P-2", mediation="21")
        expect(view.stale).to_have_text(LINE)
    finally:
        stage.store.client.delete(stage.store.keys.outage)
    case.start("P-3", mediation="22")
    wait_until(lambda: is_fresh(view))
    expect(view.bubbles).to_have_count(3)


def test_expiring_token_is_replaced_without_a_visible_change(stage: Stage) -> None:
    case = stage.records()
    stage.host.token_lives = 4
    view = stage.open(case.case_id)
    (job,) = case.start("P-1")
    expect(view.bubbles).to_have_count(1)
    view.bubbles.evaluate("one => { one.wasHere = true }")
    wait_until(lambda: len(stage.host.tokens) >= 3)
    case.change(job, "Executing")
    expect(view.bubbles).to_contain_text("通话中")
    assert view.bubbles.evaluate("one => one.wasHere")
    assert is_fresh(view)


def test_page_requests_another_token_after_a_refusal_and_after_a_back_end_failure(stage: Stage) -> None:
    """401: one new token at once. Back end away: retry. Token of another case: the line appears, a click retries."""
    case = stage.records()
    (job,) = case.start("P-1")
    stage.host.token_lives = 60  # so close to expiry that each attempt requests another token
    stage.host.script = """
        globalThis.asked = []; globalThis.answers = ["not-a-token"];
        globalThis.provide = async (cases) => {
            asked.push(cases);
            const answer = answers.shift();
            if (answer === "away") throw new Error("away");
            return answer ?? (await fetch("/token?case=" + cases[0])).text();
        };
        addEventListener("DOMContentLoaded", () => {
            document.querySelector("callwatch-calls").tokenProvider = provide;
        });
    """
    view = stage.open(element=f'<callwatch-calls case-id="{case.case_id}"></callwatch-calls>', clock=True)
    expect(view.bubbles).to_have_count(1)
    assert view.page.evaluate("asked") == [[case.case_id]] * 2
    other = stage.host.mint(["C-other"])
    foreign, _ = Tokens("f" * 32).mint("tests", [case.case_id], "someone", now=time.time(), lives=900)
    view.page.evaluate("tokens => { answers.push('away', ...tokens); }", [foreign, other])
    stage.proxy.cut()
    expect(view.stale).to_have_text(LINE)
    assert view.page.evaluate("answers.length") == 0
    count = view.page.evaluate("asked.length")
    view.page.clock.run_for(120_000)
    assert view.page.evaluate("asked.length") == count, "no automatic retry"
    view.stale.click()
    wait_until(lambda: is_fresh(view) and view.labels() == [(job, "拨号中")])


def test_hidden_page_closes_its_stream_and_resumes_when_shown(stage: Stage) -> None:
    case = stage.records()
    (job,) = case.start("P-1")
    view = stage.open(case.case_id, clock=True)
    expect(view.bubbles).to_have_count(1)
    view.hide()
    view.page.clock.run_for(4_000)
    assert streams(stage) == 1
    view.page.clock.run_for(2_000)
    wait_until(lambda: streams(stage) == 0)
    last = stage.store.history(case.case_id)[-1]["id"]
    case.change(job, "Executing")
    view.page.clock.run_for(600_000)
    asked: list[dict[str, str]] = []
    view.page.on("request", lambda request: asked.append(request.headers))
    view.show()
    wait_until(lambda: view.labels() == [(job, "通话中")])
    assert [headers["last-event-id"] for headers in asked if "authorization" in headers] == [last]
    assert is_fresh(view)


def test_stream_closes_on_pagehide_and_reopens_on_pageshow(stage: Stage) -> None:
    """Browsers keep left pages in the back/forward cache only if these have no open connection."""
    case = stage.records()
    case.start("P-1")
    view = stage.open(case.case_id)
    expect(view.bubbles).to_have_count(1)
    view.page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}))")
    wait_until(lambda: streams(stage) == 0)
    view.page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    wait_until(lambda: streams(stage) == 1)


def test_eighth_tab_loads_at_once(stage: Stage) -> None:
    """Browsers open at most six connections to a server: background tabs must keep none."""
    case = stage.records()
    case.start("P-1")
    context = stage.context()
    for _ in range(7):
        view = stage.open(case.case_id, context=context, clock=True)
        expect(view.bubbles).to_have_count(1)
        view.hide()
        view.page.clock.run_for(6_000)
    wait_until(lambda: streams(stage) == 0)
    view = stage.open(case.case_id, context=context)
    expect(view.bubbles).to_have_count(1)

"""Test how long a page waits before it connects again."""

import itertools
from collections.abc import Callable

import pytest
from playwright.sync_api import Route

from tests.browser.stage import Stage, View
from tests.deployment import wait_until

pytestmark = pytest.mark.usefixtures("pages")


def attempts(stage: Stage, answer: Callable[[Route], None]) -> tuple[View, list[str]]:
    """Open a page with a paused clock whose stream requests all get `answer`; return the methods of the requests.

    The page's variable `tries` has begin and end of each request in milliseconds of its clock.
    """
    case = stage.records()
    view, made = stage.open(case.case_id, element="<p></p>", clock=True), list[str]()

    def end(route: Route) -> None:
        made.append(route.request.method)
        answer(route)

    view.page.route("**/v1/stream*", end)
    view.page.clock.pause_at(view.page.evaluate("Date.now()") / 1_000 + 1)
    view.page.evaluate(
        """id => {
            window.tries = [];
            const { fetch } = window;
            window.fetch = async (...request) => {
                const one = { begin: performance.now() };
                tries.push(one);
                try {
                    return await fetch(...request);
                } finally {
                    one.end = performance.now();
                }
            };
            const element = document.createElement("callwatch-calls");
            element.tokenProvider = () => "a.e30.b";
            element.setAttribute("case-id", id);
            document.body.append(element);
        }""",
        case.case_id,
    )
    wait_until(lambda: view.page.evaluate("true") and made)  # Playwright runs the route handlers during calls
    return view, made


def test_reconnects_back_off_to_at_most_half_a_minute(stage: Stage) -> None:
    view, made = attempts(stage, lambda route: route.abort())
    while len(made) < 25:
        # Meanwhile the page's clock stands still.
        wait_until(lambda: view.page.evaluate("tries.every(({ end }) => end)"))
        view.page.clock.run_for(1_000)
    tries = view.page.evaluate("tries")
    waits = [later["begin"] - earlier["end"] for earlier, later in itertools.pairwise(tries)]
    assert waits[0] <= 1_000
    assert waits[1] <= 2_000
    assert 10_000 <= max(waits) <= 30_000


def test_reconnect_honours_retry_after(stage: Stage) -> None:
    """503 with Retry-After: the page waits between 1 and 1.5 times as long."""
    headers = {
        "Access-Control-Allow-Origin": stage.host.origin,
        "Access-Control-Expose-Headers": "Retry-After",
        "Retry-After": "8",
    }
    view, _ = attempts(stage, lambda route: route.fulfill(status=503, headers=headers))
    wait_until(lambda: view.page.evaluate("tries[0].end"))
    view.page.clock.run_for(12_000)
    wait_until(lambda: view.page.evaluate("tries.length") == 2)
    assert 8_000 <= view.page.evaluate("tries[1].begin - tries[0].end") <= 12_000

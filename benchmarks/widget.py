"""Measure the widget in a browser: `python -m benchmarks.widget`.

Figures: time from a change in the store to the changed bubble, size of the modules, time to the first bubble of a page,
and objects left by 200 insertions and removals.
"""

import argparse
import statistics
import time

from playwright.sync_api import expect, sync_playwright

from cli.up.embedded_redis import EmbeddedServer
from gateway.assets import FOLDER, modules
from tests.browser.conftest import OPTIONS, PROGRAM
from tests.browser.stage import Stage
from tests.browser.test_embedding import CHURN, counted
from tests.deployment import wait_until

# The page records the time of each change of a status line, on the clock of this process.
WATCH = """() => {
    const list = document.querySelector("callwatch-calls").shadowRoot.querySelector("ul");
    globalThis.changes = [];
    new MutationObserver((records) => {  // of status lines, not of durations
        const at = performance.timeOrigin + performance.now();
        if (records.some(({target}) => target.textContent.startsWith("状态:"))) changes.push(at);
    }).observe(list, {subtree: true, childList: true});
}"""
STATUSES = ("Executing", "Paused")


def percentile(sorted_values: list[float], share: float) -> float:
    """Return a percentile of sorted values."""
    return sorted_values[min(len(sorted_values) - 1, round(share * len(sorted_values)))]


def measure_changes(stage: Stage, number: int) -> list[float]:
    """Return the milliseconds from the start of each write to the change of the bubble."""
    case = stage.records()
    view = stage.open(case.case_id)
    (job,) = case.start("P-1")
    expect(view.bubbles).to_have_count(1)
    view.page.evaluate(WATCH)
    taken = []
    for turn in range(number):
        label = "通话中" if turn % 2 == 0 else "已暂停"
        begin = time.time() * 1_000
        case.change(job, STATUSES[turn % 2])
        wait_until(lambda label=label: view.labels() == [(job, label)])  # type: ignore[misc]
        seen = [at for at in view.page.evaluate("changes.splice(0)") if at >= begin]
        taken.append(min(seen) - begin)
    return sorted(taken)


def measure_opening(stage: Stage, number: int) -> list[float]:
    """Return the milliseconds from the start of each load to its first bubble."""
    case = stage.records()
    case.start("P-1")
    taken = []
    for _ in range(number):
        begin = time.monotonic()
        view = stage.open(case.case_id)
        view.bubbles.first.wait_for()
        taken.append((time.monotonic() - begin) * 1_000)
        stage.close_pages()
    return sorted(taken)


def measure_leaks(stage: Stage) -> tuple[dict[str, float], dict[str, float]]:
    """Return the page's object counts before and after 200 insertions and removals."""
    case = stage.records()
    case.start("P-1")
    context = stage.context()
    view = stage.open(case.case_id, context=context)
    expect(view.bubbles).to_have_count(1)
    session = context.new_cdp_session(view.page)
    session.send("Performance.enable")
    view.page.evaluate(CHURN, 20)
    view.page.wait_for_timeout(6_000)
    before = counted(session)
    view.page.evaluate(CHURN, 200)
    view.page.wait_for_timeout(6_000)
    return before, counted(session)


def main() -> None:
    """Run all measurements and print them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--changes", type=int, default=200)
    given = parser.parse_args()
    written = sum(path.stat().st_size for path in FOLDER.glob("*.js"))
    sent = modules().values()
    print(f"bytes: {written} written, {sum(len(one.plain) for one in sent)} sent, "
          f"{sum(len(one.zipped) for one in sent)} sent compressed, {len(sent)} modules")  # fmt: skip
    with sync_playwright() as playwright, EmbeddedServer(appendfsync="no") as server:
        chromium = playwright.chromium.launch(executable_path=PROGRAM, args=list(OPTIONS))
        with Stage(chromium, server.url) as stage:
            for name, taken in (
                ("change to bubble", measure_changes(stage, given.changes)),
                ("load to first bubble", measure_opening(stage, 10)),
            ):
                print(f"{name}: n {len(taken)}, p50 {statistics.median(taken):.0f} ms, "
                      f"p99 {percentile(taken, 0.99):.0f} ms, max {taken[-1]:.0f} ms")  # fmt: skip
            before, after = measure_leaks(stage)
            for name in before:
                print(f"{name}: {before[name]:.0f} before, {after[name]:.0f} after 200 insertions and removals")
        chromium.close()


if __name__ == "__main__":
    main()

"""Take screenshots of the widget for review by eye: `python -m tests.browser.pictures FOLDER`."""

import sys
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from cli.up.embedded_redis import EmbeddedServer
from gateway.assets import FOLDER
from tests.browser.conftest import OPTIONS, PROGRAM
from tests.browser.records import Records
from tests.browser.stage import Stage, View

SIZE = {"width": 960, "height": 640}
PEOPLE = """document.querySelector("callwatch-calls").parties = [
    {person_id: "P-10010001", name: "张三", role: "申请人"}, {person_id: "P-10010002", name: "李四", role: "被申请人"},
    {person_id: "P-10010003", name: "王五", role: "被申请人"}];"""
CASE = """<main><section><h2>案件 C-1001</h2><table><thead><tr><th>身份</th><th>姓名</th></tr></thead><tbody>
<tr><td>申请人</td><td>张三</td></tr><tr><td>被申请人</td><td>李四</td></tr><tr><td>被申请人</td><td>王五</td></tr>
</tbody></table></section></main>"""
DARK = "html { background: #141414 } body, section { background: #1f1f1f !important; color: #ddd !important }"


def two_calls(stage: Stage, *persons: str, **options: object) -> tuple[View, Records]:
    """Open a page with calls, the first of which is connected."""
    case = stage.records()
    view = stage.open(element=CASE + stage.element(case.case_id), **{"viewport": SIZE, **options})  # type: ignore[arg-type]
    view.page.evaluate("document.querySelector('main').remove()")
    view.page.evaluate(PEOPLE)
    jobs = case.start(*persons or ("P-10010001", "P-10010002"))
    case.change(jobs[0], "Executing")
    expect(view.bubbles).to_have_count(len([one for one in persons if one[0] != "!"]) or 2)
    expect(view.bubbles.first).to_contain_text("通话中")
    return view, case


def take(stage: Stage, folder: Path) -> None:
    """Save all screenshots in a folder."""
    stage.host.style = (FOLDER / "demo" / "demo.css").read_text("utf-8")
    view, case = two_calls(stage, clock=True)
    view.page.clock.run_for(34_000)
    case.start("!P-10010003", mediation="21")
    expect(view.notices).to_have_count(1)
    view.page.screenshot(path=folder / "widget.png")
    view.page.get_by_role("button", name="最小化").first.click()
    view.page.screenshot(path=folder / "minimised.png")
    view.icon.click()
    stage.store.client.hset(stage.store.keys.outage, "since", stage.store.now())
    expect(view.stale).to_be_visible()
    view.page.screenshot(path=folder / "stale.png")
    stage.store.client.delete(stage.store.keys.outage)
    many = [f"P-100100{number:02}" for number in range(1, 13)]
    view, _ = two_calls(stage, *many)
    view.page.screenshot(path=folder / "twelve.png")
    view.more.click()
    view.page.screenshot(path=folder / "twelve-shown.png")
    view, _ = two_calls(stage, *many[:6], "!P-10010098", viewport={"width": 320, "height": 568})
    expect(view.notices).to_have_count(1)
    view.page.screenshot(path=folder / "narrow.png")
    view, _ = two_calls(stage, forced_colors="active")
    view.page.screenshot(path=folder / "forced-colours.png")
    stage.host.style += DARK
    view, _ = two_calls(stage, "P-10010001", "P-10010002", "!P-10010003")
    expect(view.notices).to_have_count(1)
    view.page.get_by_role("button", name="最小化").first.focus()
    view.page.keyboard.press("Shift+Tab")
    view.page.keyboard.press("Tab")
    view.page.screenshot(path=folder / "dark.png")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    with sync_playwright() as playwright, EmbeddedServer(appendfsync="no") as server:
        chromium = playwright.chromium.launch(executable_path=PROGRAM, args=list(OPTIONS))
        with Stage(chromium, server.url) as stage:
            take(stage, place)
        chromium.close()

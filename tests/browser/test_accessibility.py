"""Test WCAG 2.2 AA with axe, and beyond axe: contrast on gradients, keyboard, sizes, motion, small windows."""

import itertools
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.stage import Stage, View

pytestmark = pytest.mark.usefixtures("pages")

# Each visible text with its colour and the colours of the first background beneath it.
COLOURS = """() => {
    const found = [];
    const visit = (root) => {
        for (const one of root.querySelectorAll("*")) {
            if (one.shadowRoot) visit(one.shadowRoot);
            const isText = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
            if (!isText || !one.checkVisibility({opacityProperty: true}) || root === document) continue;
            if (one.closest("[role=status]")) continue;  // to be heard, not seen
            let under = one;
            const paint = (element) => {
                const {backgroundImage: image, backgroundColor: colour} = getComputedStyle(element);
                if (image !== "none") return image.match(/rgba?\\([^)]*\\)/g);
                return /, 0\\)$/.test(colour) ? null : [colour];
            };
            while (under && !paint(under)) under = under.parentElement;
            found.push([one.textContent, getComputedStyle(one).color, under ? paint(under) : ["rgb(255, 255, 255)"]]);
        }
    };
    visit(document);
    return found;
}"""


def luminance(colour: str) -> float:
    numbers = [float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in numbers)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def faults(page: Page) -> tuple[list[str], list[str]]:
    """Return the violations that axe reports and its undecided rules, except contrast, which this file tests itself."""
    result = Axe().run(page).response
    unsure = [rule["id"] for rule in result["incomplete"] if rule["id"] != "color-contrast"]
    return [f"{rule['id']}: {rule['nodes'][0]['html'][:200]}" for rule in result["violations"]], unsure


def with_notices(stage: Stage, persons: int = 2) -> View:
    """Open a page with bubbles, an error and a warning."""
    case = stage.records()
    view = stage.open(case.case_id)
    case.start(*(f"P-100100{number:02}" for number in range(persons)), "!P-10010099")
    (failed,) = case.start("P-10010098", mediation="21")
    expect(view.bubbles).to_have_count(persons + 1)
    case.end(failed, "Failed")
    expect(view.bubbles).to_have_count(persons)
    expect(view.notices).to_have_count(2)
    return view


def make_stale(stage: Stage, view: View) -> None:
    stage.store.client.hset(stage.store.keys.outage, "since", stage.store.now())
    expect(view.stale).to_be_visible()


@pytest.fixture
def _upstream(stage: Stage) -> object:
    yield
    stage.store.client.delete(stage.store.keys.outage)


@pytest.mark.usefixtures("_upstream")
def test_axe_finds_no_violation_and_every_text_has_enough_contrast(stage: Stage) -> None:
    """Open with notices, with many bubbles, minimised, stale: no violation, no undecided rule, contrast 4.5 to 1."""
    view = with_notices(stage, 7)
    page = view.page

    def check(state: str) -> None:
        assert faults(page) == ([], []), state
        texts = page.evaluate(COLOURS)
        assert len(texts) >= 1, state
        pale = {
            (text, round(contrast(colour, ground), 2))
            for text, colour, grounds in texts
            for ground in grounds
            if contrast(colour, ground) < 4.5
        }
        assert pale == set(), state

    check("open, with notices")
    view.more.click()
    check("all of them")
    make_stale(stage, view)
    check("stale")
    page.get_by_role("button", name="最小化").first.click()
    check("minimised and stale")
    stage.store.client.delete(stage.store.keys.outage)
    expect(view.stale).to_be_hidden()
    check("minimised")


def test_contrast_calculation_rejects_the_colours_of_the_first_design() -> None:
    assert round(contrast("rgb(255, 255, 255)", "rgb(255, 77, 79)"), 2) == 3.27
    assert round(contrast("rgb(255, 255, 255)", "rgb(0, 0, 0)")) == 21


def test_widget_parts_have_roles_and_accessible_names(stage: Stage) -> None:
    """A region with a list; only status and alert are live, and the ticking duration is neither."""
    view = with_notices(stage)
    view.dock.get_by_role("list").wait_for()
    expect(view.dock.get_by_role("listitem")).to_have_count(2)
    expect(view.dock.get_by_role("timer")).to_have_count(2)
    live = view.page.locator("callwatch-calls").evaluate(
        """one => [...one.shadowRoot.querySelectorAll("[role=status], [role=alert], [aria-live]")]
            .map((live) => live.getAttribute("role"))"""
    )
    assert sorted(live) == ["alert", "status"]
    assert view.page.locator('[role="status"] time, [role="alert"] time').count() == 0
    said = view.page.get_by_role("status").text_content() or ""
    assert "正在与 ***0000 电话沟通中... 状态:拨号中" in said
    assert "已持续" not in said
    assert re.fullmatch(r"PT\d+S", view.bubbles.first.locator("time").get_attribute("datetime") or "")


def test_widget_is_operable_by_keyboard_alone(stage: Stage) -> None:
    view = with_notices(stage, 6)
    press, page = view.page.keyboard.press, view.page
    page.get_by_role("button", name="保存").focus()
    names = []
    for _ in range(9):
        press("Tab")
        names.append(page.evaluate("document.activeElement.shadowRoot?.activeElement?.getAttribute('part')"))
    assert names == ["more", *["minimise"] * 5, "dismiss", "dismiss", None]
    press("Shift+Tab")
    press("Enter")
    expect(view.notices).to_have_count(1)
    press("Enter")
    expect(view.notices).to_have_count(0)
    page.get_by_role("button", name="保存").focus()
    press("Tab")
    press("Space")
    expect(view.bubbles.nth(5)).to_be_visible()
    press("Escape")
    expect(view.icon).to_be_focused()
    press("Space")
    expect(view.bubbles.first.get_by_role("button")).to_be_focused()


@pytest.mark.parametrize(
    ("width", "height", "scale"), [(1280, 720, 1), (960, 640, 1), (640, 360, 2), (320, 568, 1), (320, 256, 4)],
    ids=["usual", "small", "at 200 %", "320 px", "at 400 %"],
)  # fmt: skip
def test_targets_are_24_px_and_stay_inside_the_window(stage: Stage, width: int, height: int, scale: int) -> None:
    """In windows of every size: targets of 24 px, no part beyond the edges, no part over another."""
    view = with_notices(stage, 6)
    view.page.set_viewport_size({"width": width, "height": height})
    boxes = view.page.locator('[part="dock"] button, [part="notice"] button').evaluate_all(
        """all => all.filter(one => one.checkVisibility()).map(one => one.getBoundingClientRect())
            .map(({width, height}) => [width, height])"""
    )
    assert len(boxes) == 8
    assert all(side >= 24 for side in itertools.chain.from_iterable(boxes))
    dock, notices = view.dock.bounding_box(), view.page.locator('[part="notices"]').bounding_box()
    assert dock is not None
    assert notices is not None
    for box in (dock, notices):
        assert box["x"] >= 0
        assert box["y"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= height
    beside = notices["x"] + notices["width"] <= dock["x"]
    assert beside or notices["y"] + notices["height"] <= dock["y"]
    assert view.page.evaluate("document.documentElement.scrollWidth") <= width
    assert scale >= 1


def test_reduced_motion_and_forced_colours_are_respected(stage: Stage) -> None:
    case = stage.records()
    first, _ = case.start("P-1", "P-2")
    view = stage.open(case.case_id, reduced_motion="reduce", forced_colors="active")
    expect(view.bubbles).to_have_count(2)
    shadow = view.page.locator("callwatch-calls")
    assert shadow.evaluate("one => one.shadowRoot.getAnimations().length") == 0
    assert view.bubbles.first.evaluate("one => getComputedStyle(one).borderTopWidth") == "1px"
    case.end(first)
    expect(view.bubbles).to_have_count(1)
    expect(view.page.locator("callwatch-calls li")).to_have_count(1)
    other = stage.open(case.case_id)
    expect(other.bubbles).to_have_count(1)
    assert other.page.locator("callwatch-calls").evaluate("one => one.shadowRoot.getAnimations().length") == 1

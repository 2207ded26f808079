"""Provide a browser for the widget tests: Debian's Chromium, driven by Playwright. Without it the tier is skipped."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from cli.up.embedded_redis import EmbeddedServer
from tests.browser.stage import Stage
from tests.deployment import LIMIT

HERE = Path(__file__).parent
NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = os.environ.get("CALLWATCH_TEST_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
MISSING = "the browser tier needs Chromium: apt-get install chromium, or name one in CALLWATCH_TEST_BROWSER"
expect.set_options(timeout=LIMIT * 1_000)
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--host-resolver-rules=MAP *.test 127.0.0.1",
    "--js-flags=--expose-gc",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tier with a single reason if no browser is installed; in CI each test fails instead."""
    ours = [item for item in items if item.path.parent == HERE]
    if PROGRAM is None and ours and not os.environ.get("CI"):
        ours[0].add_marker(pytest.mark.skip(reason=MISSING))
        items[:] = [item for item in items if item not in ours[1:]]
        config.hook.pytest_deselected(items=ours[1:])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start a browser for the tests of one file: its event loop must end before later tests run loops of their own."""
    if PROGRAM is None:
        pytest.fail(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=list(OPTIONS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def stage(browser: Browser, redis_server: EmbeddedServer) -> Iterator[Stage]:
    """Start a gateway with an empty store, and a server of another origin whose pages embed the widget."""
    with Stage(browser, redis_server.url) as stage:
        yield stage


@pytest.fixture
def pages(stage: Stage) -> Iterator[None]:
    """Close the pages of a test and require that none violated its policy or wrote to the console."""
    stage.host.forget()
    yield
    said = [text for view in stage.views for text in view.said]
    stage.close_pages()
    assert (stage.host.reports, said) == ([], [])

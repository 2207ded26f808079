"""Run a gateway behind a proxy, open pages with the widget, and read the widget as a person reads it."""

import contextlib
import re
from typing import Any, Self

import redis
from playwright.sync_api import Browser, BrowserContext, Locator, Page

from config.settings import Settings
from tests.browser.hostpages import HostPages
from tests.browser.records import Records
from tests.deployment import LIMIT
from tests.gatewayprocess import Gateway, environment
from tests.proxy import Proxy
from worker.container import build_store

# Playwright's pages are always visible: this script lets a test hide them.
VISIBILITY = """
Object.defineProperty(Document.prototype, "hidden", {get: () => globalThis.isHidden === true});
Object.defineProperty(Document.prototype, "visibilityState", {get: () => (globalThis.isHidden ? "hidden" : "visible")});
"""
NETWORK = re.compile(r"net::ERR_|Failed to load resource")


class View:
    """A page with the widget."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.said: list[str] = []
        page.on("console", lambda message: self._note(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        self.bubbles: Locator = page.locator('[part="bubble"]')
        self.icon: Locator = page.locator('[part="icon"]')
        self.notices: Locator = page.locator('[part="notice"]')
        self.stale: Locator = page.locator('[part="stale"]')
        self.more: Locator = page.locator('[part="more"]')
        self.dock: Locator = page.get_by_role("region", name="智能外呼")

    def _note(self, text: str) -> None:
        if not NETWORK.search(text):  # the browser reports each broken connection by itself
            self.said.append(text)

    def read(self) -> list[dict[str, Any]]:
        """Return the visible bubbles in document order."""
        found: list[dict[str, Any]] = self.bubbles.evaluate_all(
            """all => all.filter(one => one.checkVisibility()).map(one => ({
                job: one.dataset.jobId, lines: [...one.querySelectorAll("b, p")].map(line => line.textContent),
                top: one.getBoundingClientRect().top, isStale: one.classList.contains("stale"),
            }))"""
        )
        return found

    def labels(self) -> list[tuple[str, str]]:
        """Return job and label of each bubble."""
        return [(one["job"], one["lines"][2].removeprefix("状态:")) for one in self.read()]

    def durations(self) -> list[float]:
        """Return the duration that each bubble shows, in seconds."""
        texts = [one["lines"][3].removeprefix("已持续: ").split(":") for one in self.read()]
        return [sum(int(part) * 60**place for place, part in enumerate(reversed(parts))) for parts in texts]

    def hide(self) -> None:
        self._set_hidden("true")

    def show(self) -> None:
        self._set_hidden("false")

    def _set_hidden(self, hidden: str) -> None:
        self.page.evaluate(f"isHidden = {hidden}; document.dispatchEvent(new Event('visibilitychange'))")


class Stage:
    """Shared gateway, proxy, store and host pages for the tests of one file."""

    def __init__(self, browser: Browser, redis_url: str, **settings: Any) -> None:
        self.browser = browser
        self._redis_url = redis_url
        self._settings = settings
        self._stack = contextlib.ExitStack()
        self._contexts: list[BrowserContext] = []
        self.views: list[View] = []

    def __enter__(self) -> Self:
        enter = self._stack.enter_context
        with redis.Redis.from_url(self._redis_url) as client:
            client.flushdb()
        self.store = build_store(Settings(redis_url=self._redis_url))
        self._stack.callback(self.store.client.close)
        self.host = enter(HostPages())
        origins = f"{self.host.origin},http://intranet.test:{self.host.port}"
        given: dict[str, Any] = {"gateway_origins": origins, "gateway_hosts": "gateway.test", "poll_interval": "1"}
        variables = environment(self._redis_url) | {
            name: value for name, value in self._settings.items() if name.isupper()
        }
        given |= {name: value for name, value in self._settings.items() if name.islower()}
        self.gateway = enter(Gateway(variables, **given))
        self.proxy = enter(Proxy(self.gateway.port))
        self.host.gateway = self.proxy.url
        return self

    def __exit__(self, *_: object) -> None:
        self.close_pages()
        self._stack.close()

    def records(self) -> Records:
        """Return an empty case."""
        return Records(self.store)

    def close_pages(self) -> None:
        for context in self._contexts:
            context.close()
        self._contexts.clear()
        self.views.clear()

    def context(self, **options: Any) -> BrowserContext:
        """Open a separate browser context, like a browser on another machine."""
        context = self.browser.new_context(**options)
        context.set_default_timeout(LIMIT * 1_000)
        context.add_init_script(VISIBILITY)
        self._contexts.append(context)
        return context

    def element(self, *cases: str) -> str:
        """Return the markup of the element for the cases."""
        query = "&amp;".join(f"case={case}" for case in cases)
        return f'<callwatch-calls case-id="{" ".join(cases)}" token-url="/token?{query}"></callwatch-calls>'

    def open(
        self,
        *cases: str,
        context: BrowserContext | None = None,
        element: str = "",
        clock: bool = False,
        origin: str = "",
        **options: Any,
    ) -> View:
        """Open a page with the widget for the cases; with `clock` the test controls its timers."""
        page = (context or self.context(**options)).new_page()
        view = View(page)
        self.views.append(view)
        if clock:
            page.clock.install()
        page.goto((origin or self.host.origin) + self.host.show(element or self.element(*cases)))
        return view

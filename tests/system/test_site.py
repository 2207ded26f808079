"""Test the documentation site: a strict build, rendered diagrams, no resources from other hosts."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.deployment import ROOT
from tests.pages import PAGES, blocks

LOADS = dict.fromkeys(("script", "img", "iframe", "source", "video", "audio"), "src") | {"link": "href"}
LOADED_LINKS = {"stylesheet", "icon", "preload", "preconnect", "prefetch", "modulepreload", "manifest"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make check` does and return its folder."""
    folder = tmp_path_factory.mktemp("site")
    command = (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder)
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stderr
    return folder


class Loads(HTMLParser):
    """Collect the addresses that a browser loads with a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record the address that an element loads."""
        given = dict(attrs)
        address = given.get(LOADS.get(tag, ""))
        if address and (tag != "link" or LOADED_LINKS & set(str(given.get("rel")).split())):
            self.addresses.append(address)


def loaded(page: str) -> list[str]:
    """Return the addresses that a page loads, including those in its styles."""
    parser = Loads()
    parser.feed(page)
    styles = re.finditer(r"""url\(['"]?([^)'"]+)|@import\s+['"]([^'"]+)""", page)
    return [*parser.addresses, *(one[1] or one[2] for one in styles)]


@pytest.mark.parametrize(
    ("page", "address"),
    [
        ('<script src="https://example.org/a.js"></script>', "https://example.org/a.js"),
        ('<link rel="stylesheet" href="//example.org/a.css">', "//example.org/a.css"),
        ('<link rel="canonical" href="https://example.org/">', None),
        ('<a href="https://example.org/">there</a>', None),
    ],
)
def test_loaded_addresses_are_found_and_mere_links_are_not(page: str, address: str | None) -> None:
    assert loaded(page) == ([address] if address else [])


def test_no_page_loads_from_another_host(site: Path) -> None:
    pages = {path: path.read_text(encoding="utf-8") for path in [*site.rglob("*.html"), *site.rglob("*.css")]}
    assert len(pages) > len(PAGES)
    found = [one for page in pages.values() for one in loaded(page)]
    assert found
    assert [address for address in found if re.match(r"(?:[a-z]+:)?//", address)] == []


def test_every_diagram_is_rendered(site: Path) -> None:
    for name in PAGES:
        diagrams = len(blocks(PAGES[name], "mermaid"))
        if diagrams:
            place = {"README.md": "index.md"}.get(name, name.removeprefix("docs/"))
            page = (site / place).with_suffix(".html").read_text(encoding="utf-8")
            assert page.count("aria-roledescription=") == diagrams, name
            assert 'class="mermaid"' not in page

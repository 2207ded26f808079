"""Test that the generated pages of docs/reference are current."""

from pathlib import Path

import pytest

from docs.generate import pages

PAGES = pages()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: Path(path).name)
def test_generated_page_is_current(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == PAGES[path], "run: python -m docs.generate"

"""Hooks of the documentation site (mkdocs.yml): the pages of the project's root, their links, and the diagrams."""

import hashlib
import posixpath
import re
from pathlib import Path
from typing import Any

import mermaidx
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.superfences import SuperFencesException

ROOT = Path(__file__).parents[1]
ROOT_FILES = ("README.md", "README.zh-CN.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE")
CHINESE = re.compile(r"[\u2e80-\uffef]")
DINGBATS = 0x2701  # the renderer's font has these, nearly as wide as Chinese characters, of which it has none
WIDE = 1_000  # pixels
LINK = re.compile(r"\]\((?![a-z]+:)([^)\s#]+)")  # the path of a relative link


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Render Mermaid fences while the site is built, so that no page needs a script for them."""
    fence = {"name": "mermaid", "class": "mermaid", "format": diagram}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the project's root; README.md is the first page of the site."""
    for name in ROOT_FILES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Adapt relative links: the site has the files of the root and those of docs/ in one folder."""
    source = page.file.src_uri
    place = posixpath.dirname(source if source in ROOT_FILES else f"docs/{source}")
    here = posixpath.dirname(source) or "."

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(place, link[1])).removeprefix("docs/")
        return f"]({posixpath.relpath(target, here)}"

    return LINK.sub(moved, markdown)


def diagram(source: str, *_: Any, **__: Any) -> str:
    """Return a Mermaid diagram as an SVG element; a syntax error fails the build."""
    chinese = sorted(set(CHINESE.findall(source)))
    stand_ins = [chr(DINGBATS + number) for number in range(len(chinese))]
    try:
        svg = mermaidx.render(source.translate(str.maketrans(dict(zip(chinese, stand_ins, strict=True))))).svg()
    except Exception as error:
        raise SuperFencesException(f"diagram {source.splitlines()[0]!r}: {error}") from error
    svg = svg.translate(str.maketrans(dict(zip(stand_ins, chinese, strict=True))))
    own = f"d{hashlib.sha256(source.encode()).hexdigest()[:8]}"  # ids of several diagrams on one page must differ
    svg = re.sub(r'\bid="(?!my-svg)', f'id="{own}-', svg).replace("my-svg", own)
    svg = re.sub(r'width="100%"(.*?max-width: ([\d.]+)px)', _width, svg, count=1)
    return f'<div class="diagram">{svg}</div>'


def _width(match: re.Match[str]) -> str:
    """Replace the width of a diagram: natural, or two thirds of it where that is too wide for a page."""
    natural = float(match[2])
    return f'width="{natural if natural < WIDE else natural * 2 / 3:.0f}"{match[1]}'

"""Write the diagrams of docs/architecture.md anew from the code: `python -m docs.diagrams`."""

import re
import tomllib
from pathlib import Path

from worker.core.transitions import pair_diagram, watch_diagram

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"


def layers() -> str:
    """Return the layers that `make check` verifies, the highest first, each with the subjects of its packages."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    rows = [row for one in contracts for row in (one["layers"] if one["name"].startswith("layers") else [])]
    parts = [[name.strip() for name in row.split("|")] for row in rows]
    return "\n".join("   ".join(f"{name} ({subject(name)})" for name in row) for row in parts)


def subject(package: str) -> str:
    """Return the subject that the first line of a module or package names."""
    path = ROOT / package.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    first = source.read_text("utf-8").removeprefix('"""').partition("\n")[0].removesuffix('"""')
    return first.partition(":")[0].removesuffix(".")


def current(page: str) -> str:
    """Return the page with every generated block as the code has it."""
    for name, language, text in (
        ("layers", "text", layers()),
        ("pair", "mermaid", pair_diagram()),
        ("watch", "mermaid", watch_diagram()),
    ):
        block = re.compile(rf"(?<=<!-- generated: {name} -->\n)```.*?```", re.DOTALL)
        if len(block.findall(page)) != 1:
            raise ValueError(f"{PAGE.name}: there should be one place for the diagram {name}")
        page = block.sub(f"```{language}\n{text}\n```".replace("\\", r"\\"), page)
    return page


if __name__ == "__main__":
    PAGE.write_text(current(PAGE.read_text("utf-8")), "utf-8")

"""Read the documents: their prose, code blocks and tables, and the names of commands and options."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from cli.main import app
from tests.deployment import ROOT

PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted(ROOT.rglob("*.md"))
    if not any(part.startswith(".") or part == "node_modules" for part in path.relative_to(ROOT).parts)
}
README = PAGES["README.md"]
TRANSLATED = "README.zh-CN.md"  # its prose and its comments are Chinese; only text between backticks is the product's
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
every_page = pytest.mark.parametrize("name", PAGES)


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [body for kind, body in FENCE.findall(text) if kind == language]


def spans(text: str) -> list[str]:
    """Return the texts between backticks in the prose."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def code(text: str) -> str:
    """All that is set as code."""
    return "\n".join([*spans(text), *(body for _, body in FENCE.findall(text))])


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading or a header row, without its head."""
    lines = text[text.index(f"\n{heading}") + 1 :].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("| ---")) + 1
    table: list[list[str]] = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return table


def bare(cell: str) -> str:
    return cell.strip("` ")


def options_of(name: str) -> set[str]:
    """The options of a command, and those of the commands below it."""
    commands = (COMMANDS[name], *getattr(COMMANDS[name], "commands", {}).values())
    return {option for command in commands for parameter in command.params for option in parameter.opts}


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name

"""The documentation tells the truth: links, names, tables, texts, diagrams. test_readme.py runs its examples."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main
from packaging.requirements import Requirement

from cli.main import app
from config.settings import PREFIX, Settings
from worker.core import texts
from worker.core.decision import ACTIVE, TERMINAL, Outcome, Phase, Verdict
from worker.runtime.celery_config import celery_config

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted(ROOT.rglob("*.md"))
    if not any(part.startswith(".") or part == "node_modules" for part in path.relative_to(ROOT).parts)
}
README = PAGES["README.md"]
TRANSLATED = "README.zh-CN.md"  # Chinese itself: what is set as code there is the product's, the rest is prose
ADRS = {name: text for name, text in PAGES.items() if name.startswith("docs/adr/")}
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHINESE = re.compile(r"[\u4e00-\u9fff][\u4e00-\u9fff\u3000-\u303f\uff00-\uffef,:()]*")
every_page = pytest.mark.parametrize("name", PAGES)


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [body for kind, body in FENCE.findall(text) if kind == language]


def spans(text: str) -> list[str]:
    """What stands between backticks within the prose."""
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


# -- links and paths ---------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(name: str, text: str) -> list[str]:
    """The relative links of a page whose file or anchor is not there."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        there = text if not path else target.read_text(encoding="utf-8") if anchor and target.is_file() else ""
        if not target.exists() or (anchor and anchor not in anchors(there)):
            broken.append(link)
    return broken


@every_page
def test_every_link_leads_somewhere(name: str) -> None:
    assert broken_links(name, PAGES[name]) == []


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("# A heading: here\n[a](#a-heading-here) [b](LICENSE) [c](https://example.org/nowhere)", []),
        ("# A heading\n[a](#another)", ["#another"]),
        ("[a](docs/nowhere.md)", ["docs/nowhere.md"]),
        ("[a](docs/adr/0003-embedded-server.md#nowhere)", ["docs/adr/0003-embedded-server.md#nowhere"]),
    ],
    ids=["whole", "no such heading here", "no such file", "no such heading there"],
)
def test_a_broken_link_is_seen(text: str, broken: list[str]) -> None:
    assert broken_links("README.md", text) == broken


@every_page
def test_every_path_named_is_there(name: str) -> None:
    paths = [span for span in spans(PAGES[name]) if re.fullmatch(r"[\w.-]+/(?:[\w.-]+/)*(?:[\w-]+\.\w+)?", span)]
    assert [path for path in paths if "/" in path[:-1] and not (ROOT / path).exists()] == []
    assert [path for path in paths if path.endswith("/") and not (ROOT / path).is_dir()] == []


def test_every_page_that_the_code_names_is_there() -> None:
    sources = [
        *ROOT.glob("*.*"),
        *(
            path
            for top in ("api_client", "cli", "config", "gateway", "simulator", "worker")
            for path in (ROOT / top).rglob("*.py")
        ),
    ]
    named = {
        page
        for path in sources
        if path.suffix in {".py", ".toml", ".yml"}
        for page in re.findall(r"docs/[\w/.-]+\.md", path.read_text(encoding="utf-8"))
    }
    assert named
    assert named - PAGES.keys() == set()


# -- names -------------------------------------------------------------------------------------------------------------


def settings_named(text: str) -> set[str]:
    return set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]", text))


@every_page
def test_every_setting_named_is_one(name: str) -> None:
    assert settings_named(PAGES[name]) - {PREFIX + field.upper() for field in Settings.model_fields} == set()


def test_every_make_target_named_is_one() -> None:
    (targets,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = {target for text in PAGES.values() for target in re.findall(r"\bmake ([a-z]+)", code(text))}
    assert {"run", "test"} <= named <= set(targets.split())


def test_every_command_named_is_one() -> None:
    named = {command for text in PAGES.values() for command in re.findall(r"\bcallwatch ([a-z]+)", code(text))}
    assert "up" in named
    assert named - COMMANDS.keys() == set()


def options_of(name: str) -> set[str]:
    """The options of a command, and those of the commands below it."""
    commands = (COMMANDS[name], *getattr(COMMANDS[name], "commands", {}).values())
    return {option for command in commands for parameter in command.params for option in parameter.opts}


# -- tables ------------------------------------------------------------------------------------------------------------


def shown(default: object) -> str:
    if default is None or default == "":
        return "none" if default is None else "empty"
    return (
        str(default).lower()
        if isinstance(default, bool)
        else f"{default:g}"
        if isinstance(default, float)
        else str(default)
    )


def test_the_settings_are_those_of_the_code() -> None:
    """Variable, default and meaning, in the order of the code; the numbers of rules are not for this reader."""
    wanted = [
        [f"`{PREFIX}{name.upper()}`", shown(field.default), re.sub(r" [(]S[0-9]+[)]", "", field.description or "")]
        for name, field in Settings.model_fields.items()
    ]
    assert rows(README, "## Settings") == wanted


def test_the_commands_and_their_options_are_those_of_the_code() -> None:
    table = {bare(command).split()[1]: f"{command} {what}" for command, what in rows(README, "## Commands")}
    assert table.keys() == COMMANDS.keys()
    for name, row in table.items():
        options = options_of(name)
        assert set(re.findall(r"--[a-z-]+", row)) <= options, name


def test_the_outcomes_are_those_of_the_code() -> None:
    assert [bare(row[0]) for row in rows(README, "## Outcomes")] == list(get_args(Outcome))


def test_the_labels_are_those_of_the_code() -> None:
    """S19 S30."""
    wanted = [[status, label, "is over" if status in TERMINAL else "goes on"] for status, label in texts.LABELS.items()]
    assert [[bare(cell) for cell in row] for row in rows(README, "## What a person sees")] == wanted
    assert texts.LABELS.keys() == ACTIVE | TERMINAL


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_every_field_of_the_raw_message_is_explained() -> None:
    message = json.loads(blocks(README, "json")[0])
    assert [bare(row[0]) for row in rows(README, "## Enqueue from any")] == list(leaves(message))


def test_every_dependency_has_its_reason() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    lines = [*pyproject["build-system"]["requires"], *project["dependencies"]]
    lines += [line for extra in project["optional-dependencies"].values() for line in extra]
    page = PAGES["docs/adr/0005-dependencies.md"]
    heads = ("What a worker runs", "What an operator has", "What tests and checks")
    explained = [bare(row[0]) for head in heads for row in rows(page, head)]
    assert sorted(explained) == sorted({Requirement(line).name for line in lines} - {project["name"]})


def test_the_celery_settings_are_those_of_the_code() -> None:
    config = celery_config(Settings(_env_file=None))
    actual = config | config["broker_transport_options"]
    table = {
        bare(name): json.loads(bare(value))
        for name, value, _ in rows(PAGES["docs/adr/0004-celery-settings.md"], "## Decision")
    }
    assert len(table) > 10
    assert table == {name: actual.get(name) for name in table}
    assert table.keys() <= actual.keys()


# -- texts -------------------------------------------------------------------------------------------------------------


def test_chinese_texts_are_letter_for_letter_those_of_the_product() -> None:
    product = "".join(
        path.read_text(encoding="utf-8") for top in ("worker", "simulator") for path in (ROOT / top).rglob("*.py")
    )
    found = [
        run
        for name, text in PAGES.items()
        for run in CHINESE.findall(code(text) if name == TRANSLATED else text.replace("[中文]", ""))
    ]
    assert len(found) > 20
    assert [run for run in found if run.rstrip(",:") not in product] == []


# -- diagrams ----------------------------------------------------------------------------------------------------------

FLOW, PAIR, WATCH = blocks(README, "mermaid")
NODE = r"(\w+|\[\*\])"


def states(diagram: str) -> set[str]:
    """The states of a state diagram, apart from its start and end."""
    ends = re.findall(rf"^ +{NODE} --> {NODE}: [^:;#]+$", diagram, re.MULTILINE)
    named = re.findall(r'^ +state "[^":]+" as (\w+)$', diagram, re.MULTILINE)
    assert len(ends) + len(named) == len(diagram.splitlines()) - 1, "a line that is neither a step nor a state"
    return {state for pair in ends for state in pair} - {"[*]"} | set(named)


@every_page
def test_every_diagram_is_of_a_known_type(name: str) -> None:
    heads = [block.splitlines()[0] for block in blocks(PAGES[name], "mermaid")]
    assert [
        head for head in heads if not re.fullmatch(r"flowchart (TD|LR)|stateDiagram-v2|sequenceDiagram", head)
    ] == []


def test_the_diagrams_have_every_phase_and_every_verdict() -> None:
    assert states(PAIR) == set(get_args(Phase))
    assert states(WATCH) == {"watched", *get_args(Verdict)}
    assert {verdict for verdict in get_args(Verdict) if verdict in FLOW} == set(get_args(Verdict))


def test_the_flow_uses_only_nodes_that_it_names() -> None:
    named = set(re.findall(r"(\w+)[\[({]", FLOW))
    steps = re.findall(r"^ +(\w+)\S*.*?(?:-->) (\w+)", FLOW, re.MULTILINE)
    assert steps
    assert {node for step in steps for node in step} <= named


# -- decision records --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ADRS)
def test_a_decision_record_is_one(name: str) -> None:
    number = int(Path(name).name[:4])
    text = ADRS[name]
    assert text.startswith(f"# {number}. ")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences", "Alternatives"]


def test_every_decision_record_is_reached_from_the_readme() -> None:
    assert {name for name in ADRS if f"]({name})" not in README.replace("\n", " ")} == set()

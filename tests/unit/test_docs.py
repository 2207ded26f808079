"""The documents agree with the code: links, names, tables, texts, diagrams. The system tier runs their examples."""

import json
import re
import tomllib
from typing import get_args

import pytest
from packaging.requirements import Requirement

from config.settings import PREFIX, Settings
from tests.deployment import ROOT
from tests.pages import (
    COMMANDS,
    FENCE,
    PAGES,
    README,
    TRANSLATED,
    bare,
    blocks,
    code,
    every_page,
    rows,
    spans,
)
from worker.core import texts
from worker.core.decision import ACTIVE, TERMINAL, Outcome, Verdict
from worker.runtime.celery_config import celery_config

CHINESE = re.compile(r"[\u4e00-\u9fff][\u4e00-\u9fff\u3000-\u303f\uff00-\uffef,:()]*")


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


# -- tables ------------------------------------------------------------------------------------------------------------


def test_the_outcomes_are_those_of_the_code() -> None:
    assert [bare(row[0]) for row in rows(README, "## Outcomes")] == list(get_args(Outcome))


def test_the_labels_are_those_of_the_code() -> None:
    """S19 S30."""
    wanted = [
        [status, label, f"is {'over' if status in TERMINAL else 'active'}"] for status, label in texts.LABELS.items()
    ]
    assert [[bare(cell) for cell in row] for row in rows(PAGES["docs/reference/statuses.md"], "## Statuses")] == wanted
    assert texts.LABELS.keys() == ACTIVE | TERMINAL


def test_every_dependency_has_its_reason() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    lines = [*pyproject["build-system"]["requires"], *project["dependencies"]]
    lines += [line for extra in project["optional-dependencies"].values() for line in extra]
    page = PAGES["docs/adr/0005-dependencies.md"]
    heads = ("Packages of a worker", "Packages of the operator", "Packages of tests")
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
    sources = [*(ROOT / "worker").rglob("*.py"), *(ROOT / "simulator").rglob("*.py"), *(ROOT / "gateway").rglob("*.js")]
    product = "".join(path.read_text(encoding="utf-8") for path in sources)
    found = [
        run
        for name, text in PAGES.items()
        for run in CHINESE.findall("\n".join(spans(text)) if name == TRANSLATED else text.replace("[中文]", ""))
    ]
    assert len(found) > 20
    assert [run for run in found if run.rstrip(",:") not in product] == []


# -- diagrams ----------------------------------------------------------------------------------------------------------


def test_the_flowcharts_have_every_verdict() -> None:
    for name in ("README.md", TRANSLATED):
        (flow,) = blocks(PAGES[name], "mermaid")
        assert [verdict for verdict in get_args(Verdict) if verdict not in flow] == []

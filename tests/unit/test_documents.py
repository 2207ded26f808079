"""The pages under docs/ and the Chinese README agree with the code and with the README."""

import ast
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from typing import get_args

import pytest
import yaml

from cli import metrics
from cli.enqueue import GOOD
from cli.up import programs
from tests.leaks import BOUNDED, OPEN
from tests.unit.test_docs import (
    CHINESE,
    COMMANDS,
    FENCE,
    NODE,
    PAGES,
    PAIR,
    README,
    ROOT,
    TRANSLATED,
    WATCH,
    bare,
    blocks,
    code,
    every_page,
    options_of,
    rows,
    states,
)
from worker.core import dial_result
from worker.core.decision import Outcome, Phase, Verdict
from worker.core.model import Pair
from worker.runtime import malformed
from worker.runtime.malformed import MALFORMED_QUEUE
from worker.store import Keys
from worker.store import keys as store_keys

ARCHITECTURE, OPERATIONS = PAGES["docs/architecture.md"], PAGES["docs/operations.md"]
CHANGELOG, CHINESE_README = PAGES["CHANGELOG.md"], PAGES[TRANSLATED]
GUIDES = [name for name in PAGES if re.fullmatch(r"docs/[\w-]+\.md", name)]
KEY_TABLE = rows(ARCHITECTURE, "## Redis keys")
PLACEHOLDERS = {
    "pair": Pair("CASE", "MEDIATION"),
    "job_id": "JOB",
    "task_id": "TASK",
    "case_id": "CASE",
    "channel": "CHANNEL",
    "name": "LIMIT",
}


# -- keys --------------------------------------------------------------------------------------------------------------


def keys() -> Iterator[tuple[str, str, str]]:
    """Each key of the store: its method, its name with placeholders, and its type as its docstring begins."""
    for name, member in vars(Keys).items():
        if name.startswith("_") or not (isinstance(member, property) or inspect.isfunction(member)):
            continue
        built = getattr(Keys("callwatch"), name)
        if callable(built):
            built = built(*(PLACEHOLDERS[one] for one in inspect.signature(built).parameters))
        yield name, built, str(inspect.getdoc(member)).partition(":")[0]


def test_the_keys_are_those_of_the_code() -> None:
    """Names and types."""
    table = [(bare(key), kind) for key, kind, _, _ in KEY_TABLE]
    assert sorted(table) == sorted((built, kind) for _, built, kind in keys())


def test_keys_without_a_time_to_live_are_those_that_the_contract_allows() -> None:
    """The check that runs after every test of the store allows the same keys as the table."""
    for word, allowed in (("bound:", BOUNDED | {"outbox", "outbox_cases"}), ("after ", OPEN)):
        said = {bare(key) for key, _, _, gone in KEY_TABLE if gone.startswith(word)}
        assert said == {built for name, built, _ in keys() if name in allowed}


@every_page
def test_every_key_named_is_one(name: str) -> None:
    named = set(re.findall(r"\bcallwatch:[a-z]+(?::[A-Z]+)*", code(PAGES[name])))
    assert named - {built for _, built, _ in keys()} == set()


# -- diagrams ----------------------------------------------------------------------------------------------------------


def steps(diagram: str) -> set[tuple[str, str]]:
    """The steps of a state diagram, whatever is written beside them."""
    return set(re.findall(rf"^ +{NODE} --> {NODE}:", diagram, re.MULTILINE))


def test_the_diagrams_show_the_steps_of_the_readme() -> None:
    _, pair, watch = blocks(ARCHITECTURE, "mermaid")
    assert states(pair) == set(get_args(Phase))
    assert states(watch) == {"watched", *get_args(Verdict)}
    own = {one for one in steps(PAIR) if one[0] != one[1]}  # a trigger enqueued again changes no phase
    assert own <= steps(pair)
    assert steps(WATCH) == steps(watch)


# -- names -------------------------------------------------------------------------------------------------------------


def test_every_task_and_queue_named_is_one() -> None:
    tree = ast.parse((ROOT / "worker" / "tasks.py").read_text(encoding="utf-8"))
    tasks = {
        keyword.value.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant)
    }
    known = tasks | set(programs.POLL_WORKER[-3].split(",")) | {MALFORMED_QUEUE}
    assert {"outbound.trigger", "outbound.control"} <= known
    named = {one for text in PAGES.values() for one in re.findall(r"\boutbound\.[a-z]+", code(text))}
    assert named - known == set()


@every_page
def test_every_option_of_a_command_named_is_one(name: str) -> None:
    """Of each command as it is written, in code blocks and between backticks."""
    lines = [
        line for line in code(PAGES[name]).splitlines() if re.match(r"(?:[\w./-]+ )*?callwatch [a-z]+(?: |$)", line)
    ]
    for line in lines:
        words = shlex.split(line.partition("callwatch ")[2], comments=True)
        assert {word for word in words[1:] if word.startswith("--")} <= options_of(words[0]) | {"--help"}, line


def test_the_workers_are_started_as_the_code_starts_them() -> None:
    for command in (programs.POLL_WORKER, programs.TRIGGER_WORKER):
        line = " ".join(command)
        assert f"`{line}`" in OPERATIONS
        assert f"\n.venv/bin/{line}\n" in OPERATIONS
    unit = "ExecStart=/opt/callwatch/.venv/bin/" + " ".join(programs.TRIGGER_WORKER).replace("%h", "%%h")
    assert unit in OPERATIONS


def test_every_service_of_compose_named_is_one() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    named = {
        service
        for text in PAGES.values()
        for service in re.findall(
            r"docker compose (?:exec|logs|ps|restart|stop) ([a-z-]+)|--scale ([a-z-]+)=", code(text)
        )
        for service in service
        if service
    }
    assert "poll-worker" in named
    assert named - services.keys() == set()


# -- pages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_is_short_and_reached_from_the_readme(name: str) -> None:
    assert len(PAGES[name].splitlines()) < 200
    assert f"]({name})" in README
    assert f"]({name})" in CHINESE_README


def test_every_rule_that_code_and_tests_name_is_explained() -> None:
    explained: set[int] = set()
    for first, last in re.findall(r"^\| S(\d+)(?:–S(\d+))? \|", PAGES["docs/rules.md"], re.MULTILINE):
        explained |= set(range(int(first), int(last or first) + 1))
    assert explained == set(range(1, 43))
    folders = ("worker", "api_client", "config", "cli", "gateway", "simulator", "benchmarks", "tests")
    sources = [path.read_text(encoding="utf-8") for name in folders for path in (ROOT / name).rglob("*.py")]
    named = {int(number) for text in [*sources, *PAGES.values()] for number in re.findall(r"\bS(\d{1,2})\b", text)}
    assert len(named) > 30
    assert named <= explained


def test_the_changelog_has_this_version_and_every_command() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    versions = re.findall(r"^## \[(.+?)\] - (?:unreleased|\d{4}-\d\d-\d\d)$", CHANGELOG, re.MULTILINE)
    assert versions[0] == pyproject["project"]["version"]
    kinds = set(re.findall(r"^### (.+)$", CHANGELOG, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    named = set(re.findall(r"[a-z]+", re.findall(r"^- `callwatch`: (.+)\.$", CHANGELOG, re.MULTILINE)[0]))
    assert named == COMMANDS.keys()


def test_the_raw_message_is_the_one_of_the_readme() -> None:
    assert blocks(PAGES["docs/integration.md"], "json") == blocks(README, "json")[:1]


# -- the Chinese README ------------------------------------------------------------------------------------------------


def test_waiting_ends_well_where_the_caller_should_do_nothing() -> None:
    to_do = {name.strip("`"): what for name, _, what in rows(README, "## Outcomes")}
    assert {name for name, what in to_do.items() if what.startswith("nothing")} == GOOD


def test_the_chinese_examples_are_the_english_ones() -> None:
    """The English ones are run by tests/system/test_readme.py."""
    english, chinese = FENCE.findall(README), FENCE.findall(CHINESE_README)
    assert [one for one in chinese if one not in english] == []
    assert [kind for kind, _ in chinese] == ["sh", "python", "json"]
    assert chinese[0] == english[0]


def test_the_chinese_tables_say_what_the_english_ones_say() -> None:
    """S30: outcomes with their texts, labels, fields of the message."""

    def texts(table: list[list[str]]) -> list[tuple[str, list[str]]]:
        return [(bare(row[0]), CHINESE.findall(code(row[1]))) for row in table]

    outcomes = rows(CHINESE_README, "## 结果")
    assert [name for name, _ in texts(outcomes)] == list(get_args(Outcome))
    assert texts(outcomes) == texts(rows(README, "## Outcomes"))
    labels = [row[:2] for row in rows(README, "## What a person sees")]
    assert [row[:2] for row in rows(CHINESE_README, "## 状态")] == labels
    fields = [row[0] for row in rows(README, "## Enqueue from any")]
    assert [row[0] for row in rows(CHINESE_README, "## 用其他语言触发")] == fields


def test_the_bounds_are_those_of_the_code() -> None:
    """S38 S39: docs/security.md tells what is bounded, by how much."""
    said = {what: bound for what, bound, _ in rows(PAGES["docs/security.md"], "## What is bounded")}
    numbers = {
        what: [int(one.replace(",", "")) for one in re.findall(r"[0-9][0-9,]*", bound)] for what, bound in said.items()
    }
    assert numbers["refusals of one answer"] == [dial_result.MOST_REFUSALS, dial_result.MOST_NAMED]
    assert numbers["a text of upstream in a result"] == [dial_result.TEXT_LENGTH]
    assert numbers["notices that wait, in each channel"] == [store_keys.OUTBOX_KEPT, store_keys.OF_ONE_CASE]
    assert numbers["dead letters"] == [store_keys.DEAD_KEPT, store_keys.OF_ONE_CASE]
    assert numbers["a case's history"] == [store_keys.HISTORY_KEPT]
    kept = [malformed.KEPT, malformed.KEPT_LENGTH // 1024]
    assert numbers["messages that nobody can read"] == kept
    assert numbers["an entry of the trigger queue"] == [
        malformed.LONGEST["outbound.trigger"] // 1024,
        malformed.DEEPEST,
    ]
    senders = PAGES["docs/security.md"]
    bounds = f"headers within {metrics.HEADERS_WITHIN:.0f} s and {metrics.MOST_HEADERS // 1024} KiB, "
    assert bounds + f"{metrics.MOST_CONNECTIONS} connections, {metrics.WHOLE:.0f} s for everything" in senders

"""The pages under docs/ and the Chinese README agree with the code: keys, names, rules, bounds."""

import ast
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from typing import get_args

import yaml

from api_client import envelope, one_answer, transport
from cli import metrics
from cli.enqueue import GOOD
from cli.up import programs
from tests.deployment import ROOT
from tests.leaks import BOUNDED, OPEN
from tests.pages import (
    PAGES,
    README,
    TRANSLATED,
    bare,
    code,
    every_page,
    options_of,
    rows,
)
from worker.core import dial_result, texts
from worker.core.decision import Outcome
from worker.core.model import Pair
from worker.runtime import malformed, task_message
from worker.runtime.malformed import MALFORMED_QUEUE
from worker.store import Keys
from worker.store import keys as store_keys

OPERATIONS, SECURITY = PAGES["docs/operations.md"], PAGES["docs/security.md"]
KEY_TABLE = rows(PAGES["docs/reference/keys.md"], "| key")
PLACEHOLDERS = {
    "pair": Pair("CASE", "MEDIATION"),
    "job_id": "JOB",
    "task_id": "TASK",
    "case_id": "CASE",
    "channel": "CHANNEL",
    "name": "LIMIT",
    "kind": "KIND",
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


# -- rules -------------------------------------------------------------------------------------------------------------


def test_every_rule_that_code_and_tests_name_is_explained() -> None:
    explained: set[int] = set()
    for first, last in re.findall(r"^\| S(\d+)(?:–S(\d+))? \|", PAGES["docs/rules.md"], re.MULTILINE):
        explained |= set(range(int(first), int(last or first) + 1))
    assert explained == set(range(1, len(explained) + 1))
    folders = ("worker", "api_client", "config", "cli", "gateway", "simulator", "benchmarks", "tests")
    sources = [path.read_text(encoding="utf-8") for name in folders for path in (ROOT / name).rglob("*.py")]
    named = {int(number) for text in [*sources, *PAGES.values()] for number in re.findall(r"\bS(\d{1,2})\b", text)}
    assert len(named) > 30
    assert named <= explained


def test_the_changelog_begins_with_this_version() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    versions = re.findall(r"^## \[(.+?)\]", PAGES["CHANGELOG.md"], re.MULTILINE)
    assert versions[0] == pyproject["project"]["version"]


# -- outcomes ----------------------------------------------------------------------------------------------------------


def test_trigger_wait_exits_with_0_for_outcomes_without_an_action() -> None:
    to_do = {name.strip("`"): what for name, _, what in rows(README, "## Outcomes")}
    assert {name for name, what in to_do.items() if what.startswith("do nothing")} == GOOD


def test_the_chinese_tables_have_every_outcome_and_label() -> None:
    """S30."""
    page = PAGES[TRANSLATED]
    assert [bare(row[0]) for row in rows(page, "## 结果")] == list(get_args(Outcome))
    assert {bare(status): label for status, label, _ in rows(page, "## 状态")} == texts.LABELS


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_the_bounds_are_those_of_the_code() -> None:
    """S38 S39."""
    said = {what: bound for what, bound, _ in rows(SECURITY, "## Bounds")}
    numbers = {
        what: [int(one.replace(",", "")) for one in re.findall(r"[0-9][0-9,]*", bound)] for what, bound in said.items()
    }
    assert numbers["refusals of one answer"] == [dial_result.MOST_REFUSALS, dial_result.MOST_NAMED]
    assert numbers["records of one answer that name no job"] == [envelope.MAX_OTHERS]
    large = [envelope.LARGE // 1024, transport.MAX_ANSWER_BYTES // 1024**2, one_answer.MAX_TOGETHER // 1024**2]
    assert numbers["large answers in a worker's memory"] == large
    assert numbers["a text of upstream in a result"] == [dial_result.TEXT_LENGTH]
    assert numbers["undelivered notices in each channel"] == [store_keys.OUTBOX_KEPT, store_keys.OF_ONE_CASE]
    assert numbers["dead letters"] == [store_keys.DEAD_KEPT, store_keys.OF_ONE_CASE]
    assert numbers["a case's history"] == [store_keys.HISTORY_KEPT]
    kept = [malformed.KEPT, malformed.KEPT_LENGTH // 1024]
    assert numbers["quarantined messages"] == kept
    assert numbers["an entry of the trigger queue"] == [
        task_message.LONGEST["outbound.trigger"] // 1024,
        task_message.DEEPEST,
    ]
    bounds = f"headers within {metrics.HEADER_TIMEOUT:.0f} s and {metrics.MAX_HEADERS // 1024} KiB, "
    assert bounds + f"{metrics.MAX_CONNECTIONS} connections, {metrics.TOTAL_TIMEOUT:.0f} s for everything" in SECURITY

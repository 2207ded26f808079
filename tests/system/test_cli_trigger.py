"""`callwatch trigger` on a real server: it enqueues, and with --wait prints the result or why there is none (S38)."""

import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest
import redis

from cli.main import main
from tests.deployment import LIMIT, ROOT
from tests.pairs import PERSON
from worker.store import RedisStore


@pytest.mark.parametrize("variable", ["CALLWATCH_BROKER_URL", "CALLWATCH_RESULT_URL"])
def test_missing_redis_names_the_variable_to_set(
    variable: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALLWATCH_REDIS_URL", redis_url)
    monkeypatch.setenv(variable, "redis://127.0.0.1:1/0")
    assert main(["trigger", "C-1", "20"]) == 1
    assert capsys.readouterr().err.endswith(f"set {variable}.\n")


IDS = {"case_id": "C-9", "mediation_id": "20"}
UNKNOWN = {"outcome": "unknown", "reason": "no_records", **IDS, "jobs": [], "refused": [], "message": ""}
REVOKED = {"exc_type": "TaskRevokedError", "exc_message": ["expired"], "exc_module": "celery.exceptions"}
EXPIRED = "expired: The trigger's `expires` passed before its request. Nothing was sent."
INTERNAL = "internal: The task ended with a fault of callwatch: see the log of the workers."


def trigger(redis_url: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run `callwatch trigger --wait` with a known task id."""
    return subprocess.run(
        (sys.executable, "-m", "cli.main", "trigger", "C-9", "20", "--wait", "--task-id", "t-1", *options),
        cwd=ROOT,
        env={**os.environ, "CALLWATCH_REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )


def awaited(store: RedisStore, redis_url: str, meta: dict[str, Any], *options: str, code: int = 1) -> tuple[str, str]:
    """Return what `trigger --wait` prints for a stored result of Celery; its exit code is `code`."""
    stored = {"task_id": "t-1", "traceback": None, "children": [], **meta}
    store.client.set("celery-task-meta-t-1", json.dumps(stored))
    done = trigger(redis_url, *options)
    assert done.returncode == code
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    ("status", "kind", "reason", "error"),
    [
        ("REVOKED", REVOKED, "expired", EXPIRED),
        ("FAILURE", {"exc_type": "KeyError", "exc_message": ["x"], "exc_module": "builtins"}, "internal", INTERNAL),
    ],
)
def test_s38_awaited_trigger_without_an_outcome_shows_its_reason(
    store: RedisStore, redis_url: str, status: str, kind: dict[str, Any], reason: str, error: str
) -> None:
    """Celery revokes an expired trigger."""
    out, err = awaited(store, redis_url, {"status": status, "result": kind}, "--json")
    assert json.loads(out) == {"task_id": "t-1", "outcome": None, "reason": reason}
    assert err == f"callwatch: {error} ({kind['exc_type']}, task id t-1)\n"


def test_s38_awaited_trigger_for_an_unknown_person_shows_its_reason(store: RedisStore, redis_url: str) -> None:
    out, err = awaited(store, redis_url, {"status": "SUCCESS", "result": UNKNOWN}, "--person", "P-404")
    assert out.splitlines() == [
        "unknown  C-9/20",
        "no_records: The answer lists no record: upstream may not know the case, the mediation or the person.",
    ]
    assert err == ""


def test_awaited_trigger_of_an_erased_case_is_skipped(store: RedisStore, redis_url: str) -> None:
    """The result of an erased case names no pair."""
    erased = {**UNKNOWN, "outcome": "skipped", "reason": "erased", "case_id": "", "mediation_id": ""}
    out, err = awaited(store, redis_url, {"status": "SUCCESS", "result": erased}, "--json", code=0)
    assert (json.loads(out)["reason"], err) == ("erased", "")


def test_awaited_trigger_with_the_task_id_of_another_pair_does_not_show_its_result(
    store: RedisStore, redis_url: str
) -> None:
    """Celery keeps the first stored result of a task id; it says nothing of this trigger."""
    other = {**UNKNOWN, "outcome": "started", "case_id": "C-8"}
    out, err = awaited(store, redis_url, {"status": "SUCCESS", "result": other}, "--json")
    assert json.loads(out) == {"task_id": "t-1", "outcome": None, "reason": "task_id_reused"}
    assert err == (
        "callwatch: task_id_reused: The task id was used before for another pair. Use a new task id. (task id t-1)\n"
    )


@pytest.mark.usefixtures("store")
def test_trigger_without_a_worker_stays_enqueued(redis_url: str) -> None:
    begin = time.monotonic()
    done = trigger(redis_url, "--timeout", "0.1", "--person", PERSON, "--manual", "--json")
    assert time.monotonic() - begin < LIMIT
    assert done.returncode == 1
    assert done.stderr == (
        "callwatch: warning: no worker consumes outbound.trigger: the trigger waits until one starts\n"
        "callwatch: no result within 0.1 s: the trigger stays enqueued, task id t-1\n"
    )
    assert json.loads(done.stdout) == {"task_id": "t-1", "outcome": None}
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        (message,) = client.lrange("outbound.trigger", 0, -1)
    headers = json.loads(message)["headers"]
    assert (headers["id"], headers["task"]) == ("t-1", "outbound.trigger")
    assert headers["expires"]
    assert PERSON not in f"{headers['kwargsrepr']}{headers['argsrepr']}", "S37"

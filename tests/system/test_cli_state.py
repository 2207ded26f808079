"""The output of status, watch, pause, resume and trigger on a real server: the documented JSON and the table (S16)."""

import getpass
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from cli.main import main
from cli.ui.formatting import moment, time_of_day
from config.redaction import redact
from tests.deployment import LIMIT, wait_until
from tests.pairs import PERSON, adopt, bring_to, finish
from worker.core.model import Pair
from worker.store import RedisStore

ROOT = Path(__file__).parents[2]
CALL_FIELDS = [
    "job_id", "case_id", "mediation_id", "person_id", "call_status", "label", "verdict", "retry_count", "started_at",
    "deadline", "last_polled_at", "next_poll_at", "finished_at",
]  # fmt: skip

Output = Callable[[], tuple[Any, str]]


@pytest.fixture(autouse=True)
def _two_calls(store: RedisStore) -> None:
    """A store with a watched call of C-1 and an ended call of C-2."""
    bring_to(store, "watching", Pair("C-1", "20"), "job-1")
    bring_to(store, "ended", Pair("C-2", "20"), "job-2")


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Output:
    """The output of a command: the JSON document on stdout, and stderr."""

    def read() -> tuple[Any, str]:
        shown = capsys.readouterr()
        return json.loads(shown.out), shown.err

    return read


@pytest.mark.usefixtures("store")
def test_json_has_the_documented_form(output: Output) -> None:
    assert main(["status", "--json"]) == 0
    document, error = output()
    assert error == ""
    assert list(document) == ["calls", "cases"]
    (call,) = document["calls"]
    assert list(call) == CALL_FIELDS
    assert (call["job_id"], call["person_id"], call["label"], call["verdict"]) == ("job-1", PERSON, "拨号中", None)
    assert (call["finished_at"], call["last_polled_at"]) == (None, None)
    assert call["started_at"] <= call["next_poll_at"] < call["deadline"]
    (case,) = document["cases"]
    assert case == {
        "case_id": "C-1", "mediation_id": "20", "phase": "watching", "since": case["since"], "until": None,
    }  # fmt: skip
    assert case["since"] >= call["started_at"]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("options", "jobs", "cases"),
    [
        pytest.param([], ["job-1"], [("C-1", "watching")], id="watched calls"),
        pytest.param(["--all"], ["job-1", "job-2"], [("C-2", "done"), ("C-1", "watching")], id="finished too"),
        pytest.param(["--case", "C-1"], ["job-1"], [("C-1", "watching")], id="a case"),
        pytest.param(["--case", "C-2"], [], [("C-2", "done")], id="a case that is done"),
        pytest.param(["--case", "C-2", "--all"], ["job-2"], [("C-2", "done")], id="with its calls"),
        pytest.param(["--job", "job-2"], ["job-2"], [("C-2", "done")], id="a job and its pair"),
    ],
)
def test_status_shows_only_the_selected_calls(
    options: list[str], jobs: list[str], cases: list[tuple[str, str]], output: Output
) -> None:
    assert main(["status", *options, "--json"]) == 0
    document, _ = output()
    assert [call["job_id"] for call in document["calls"]] == jobs
    assert [(case["case_id"], case["phase"]) for case in document["cases"]] == cases


@pytest.mark.usefixtures("store")
def test_a_finished_call_has_no_next_poll(output: Output) -> None:
    assert main(["status", "--job", "job-2", "--json"]) == 0
    (call,) = output()[0]["calls"]
    assert (call["verdict"], call["label"], call["next_poll_at"]) == ("ended", "失败", None)
    assert call["started_at"] <= call["last_polled_at"] == call["finished_at"]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("option", "name"), [("--job", "call nowhere"), ("--case", "case nowhere")])
def test_no_record_has_exit_code_1(option: str, name: str, output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"callwatch: no record of {name}; finished calls are kept for CALLWATCH_HISTORY_TTL\n"
    assert main(["status", option, "nowhere", "--json"]) == 1
    assert output() == ({"calls": [], "cases": []}, line)
    assert main(["status", option, "nowhere"]) == 1
    assert capsys.readouterr() == ("", line)


@pytest.mark.usefixtures("store")
def test_watch_once_of_an_unknown_case_has_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "--once", "--case", "C-3"]) == 1
    assert capsys.readouterr().err.startswith("callwatch: no record of case C-3;")
    assert main(["watch", "--once", "--case", "C-2"]) == 0, "a finished case"


def test_status_of_a_finished_case_counts_the_calls_that_all_shows(
    store: RedisStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--case", "C-2"]) == 0
    assert "no calls are being watched; --all shows 1 finished\n" in capsys.readouterr().out
    bring_to(store, "watching", Pair("C-2", "20"), "job-3")
    assert main(["status", "--case", "C-2"]) == 0
    out = capsys.readouterr().out
    assert ("job-3" in out, "\n--all shows 1 finished\n" in out) == (True, True)
    assert main(["status", "--case", "C-2", "--all"]) == 0
    assert "finished\n" not in capsys.readouterr().out


def test_s14_status_of_an_unknown_outcome_has_its_times_and_the_condition_for_a_release(
    store: RedisStore, output: Output, capsys: pytest.CaptureFixture[str]
) -> None:
    bring_to(store, "unknown", Pair("C-5", "20"), "job-5")
    adopt(store, Pair("C-5", "20"))
    assert main(["status", "--case", "C-5"]) == 0
    out = capsys.readouterr().out
    (state,) = store.pairs(case_id="C-5")
    assert state.since is not None
    assert state.until is not None
    assert [moment for moment in (time_of_day(state.since), time_of_day(state.until)) if moment not in out] == []
    assert "1 found calls are watched. Until then wait, or `callwatch release C-5 20 --why TEXT` with --now" in out
    assert main(["status", "--case", "C-5", "--json"]) == 0
    (case,) = output()[0]["cases"]
    assert (case["phase"], case["since"], case["until"], case["found"]) == ("unknown", state.since, state.until, 1)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("arguments", [["status", "--all"], ["watch", "--once"]])
def test_table_shows_no_person_ids(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """S37: only the JSON document contains whole person ids."""
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "C-1 / 20" in shown
    assert "***0001" in shown
    assert PERSON not in shown


def test_s16_pause_and_resume(
    store: RedisStore, redis_url: str, output: Output, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pause", "--reason", "maintenance", "--json"]) == 0
    document, error = output()
    address = redact(redis_url)
    assert document == {
        "paused": True, "was_paused": False, "reason": "maintenance", "enabled": True, "redis": address, "workers": 0,
    }  # fmt: skip
    assert error.startswith(f"callwatch: warning: no worker answers over {address}: check that this is the Redis of")
    stop = store.paused()
    assert stop is not None
    assert (stop.by, stop.why) == (getpass.getuser(), "maintenance")
    assert main(["status"]) == 0
    assert stop.at is not None
    assert f"new calls are stopped by {stop.by} at {moment(stop.at)}: maintenance" in capsys.readouterr().out
    assert main(["status", "--json"]) == 0
    assert output()[0]["new_calls"] == {
        "allowed": False, "by": stop.by, "why": "maintenance", "at": stop.at,
    }  # fmt: skip
    assert main(["pause", "--why", "again", "--by", "me"]) == 0
    first = f"{stop.by} at {moment(stop.at)}: maintenance"
    assert capsys.readouterr().out.startswith(f"new calls were stopped before by {first}\nthey stay stopped; calls")
    assert main(["resume"]) == 0
    ended, *rest = capsys.readouterr().out.splitlines()
    assert ended.startswith("new calls were stopped by me at ")
    assert ended.endswith(": again")
    assert rest == ["new calls are allowed again", f"Redis: {address}; no worker answers"]
    assert store.paused() is None
    assert main(["resume", "--json"]) == 0
    assert output()[0] == {
        "paused": False, "was_paused": False, "enabled": True, "redis": address, "workers": 0,
    }  # fmt: skip


@pytest.mark.usefixtures("store")
def test_s16_resume_reports_that_the_settings_stop_new_calls(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALLWATCH_ENABLED", "false")
    assert main(["resume"]) == 0
    assert "workers with CALLWATCH_ENABLED=false still place no calls" in capsys.readouterr().out


@pytest.mark.parametrize("variable", ["CALLWATCH_BROKER_URL", "CALLWATCH_RESULT_URL"])
def test_missing_redis_names_the_variable_to_set(
    variable: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALLWATCH_REDIS_URL", redis_url)
    monkeypatch.setenv(variable, "redis://127.0.0.1:1/0")
    assert main(["trigger", "C-1", "20"]) == 1
    assert capsys.readouterr().err.endswith(f"set {variable}.\n")


def test_wrong_password_is_reported(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = redis_url.rpartition("@")[2]
    for wrong in (f"redis://:wrong-word@{place}", f"redis://{place}"):
        monkeypatch.setenv("CALLWATCH_REDIS_URL", wrong)
        assert main(["status"]) == 1
        error = capsys.readouterr().err
        assert "requires another password. Set CALLWATCH_REDIS_URL" in error
        assert "wrong-word" not in error


def test_watch_without_a_terminal_is_a_line_per_event(store: RedisStore, redis_url: str) -> None:
    with subprocess.Popen(
        (sys.executable, "-m", "cli.main", "watch", "--case", "C-4"),
        cwd=ROOT,
        env={**os.environ, "CALLWATCH_REDIS_URL": redis_url},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout
            wait_until(lambda: any("xread" in str(one["cmd"]) for one in store.client.client_list()))
            bring_to(store, "watching", Pair("C-3", "20"), "job-3")
            bring_to(store, "watching", Pair("C-4", "20"), "job-4")
            finish(store, "ended", Pair("C-4", "20"), "job-4")
            lines = [process.stdout.readline() for _ in range(2)]
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT) == 0
        finally:
            process.kill()
    assert [line.split("  ")[1:] for line in lines] == [
        ["C-4/20", "started", "拨号中", "job-4\n"],
        ["C-4/20", "ended", "失败", "job-4\n"],
    ]


IDS = {"case_id": "C-9", "mediation_id": "20"}
UNKNOWN = {"outcome": "unknown", "reason": "no_records", **IDS, "jobs": [], "refused": [], "message": ""}
REVOKED = {"exc_type": "TaskRevokedError", "exc_message": ["expired"], "exc_module": "celery.exceptions"}
EXPIRED = "expired: The trigger's `expires` passed before its request. Nothing was sent."
INTERNAL = "internal: The task ended with a fault of callwatch: see the log of the workers."


def awaited(store: RedisStore, redis_url: str, meta: dict[str, Any], *options: str, code: int = 1) -> tuple[str, str]:
    """Return what `trigger --wait` prints for a stored result of Celery; its exit code is `code`."""
    stored = {"task_id": "t-1", "traceback": None, "children": [], **meta}
    store.client.set("celery-task-meta-t-1", json.dumps(stored))
    done = subprocess.run(
        (sys.executable, "-m", "cli.main", "trigger", "C-9", "20", "--wait", "--task-id", "t-1", *options),
        cwd=ROOT,
        env={**os.environ, "CALLWATCH_REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
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
    options = ("--wait", "--timeout", "0.1", "--task-id", "t-1", "--person", PERSON, "--manual", "--json")
    done = subprocess.run(
        (sys.executable, "-m", "cli.main", "trigger", "C-9", "20", *options),
        cwd=ROOT,
        env={**os.environ, "CALLWATCH_REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        check=False,
    )
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


def test_s41_stop_without_the_configured_replicas_says_that_a_failover_may_undo_it(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALLWATCH_REPLICAS", "1")
    for limit in ("LIMIT", "RECEIVED_LIMIT", "ASKED_EVERY"):
        monkeypatch.setattr(f"worker.store.durable.{limit}", 20)
    assert main(["pause", "--why", "upgrade"]) == 1
    shown = capsys.readouterr()
    line = "callwatch: done, but not confirmed: Redis: confirmed by 0 of 1 replicas in time; a failover may undo it"
    assert (shown.out, shown.err.startswith(line), shown.err.count("\n")) == ("", True, 1)
    assert store.is_paused()

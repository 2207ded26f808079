"""The output of status, watch, pause and resume on a real server: the documented JSON and the table (S16)."""

import getpass
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from cli.main import main
from cli.ui.formatting import moment, time_of_day
from config.redaction import redact
from tests.deployment import LIMIT, ROOT, wait_until
from tests.pairs import PERSON, adopt, bring_to, finish
from worker.core.model import Pair
from worker.store import RedisStore

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

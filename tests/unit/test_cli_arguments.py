"""Each failure of a command is one line on stderr and an exit code: 1 failed, 2 wrong usage."""

import re
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
import typer.main

from cli.commands.parameters import duration
from cli.connect import no_answer
from cli.main import app, main
from cli.ui.output import Failure, complain
from cli.up import embedded_redis
from cli.up.samples import samples
from cli.up.tcp_ports import PREFERRED, choose_ports
from config.setting_types import LOCAL_REDIS
from tests.deployment import ROOT

GROUP: Any = typer.main.get_command(app)
COMMANDS = (*GROUP.commands, "keys new")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALLWATCH_REDIS_URL", "redis://:s3cret@127.0.0.1:1/0")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # no port stays reserved after a test
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_own_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    long = capsys.readouterr().out
    assert re.search(r"\n  Examples?: callwatch \w", long)
    assert main([*command.split(), "-h"]) == 0
    assert capsys.readouterr().out == long


def test_the_list_of_commands_is_not_cut_off_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["-h"]) == 0
    shown = capsys.readouterr().out
    lines = dict(line.split(maxsplit=1) for line in shown.partition("Commands:\n")[2].splitlines())
    assert list(lines) == list(GROUP.commands)
    assert [line for line in lines.values() if not line.endswith(".") or line.endswith("..")] == []
    assert "Examples: callwatch doctor" in shown


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"callwatch {project['version']}\n"


def test_the_shell_completes_commands_and_options(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setenv("_CALLWATCH_COMPLETE", "complete_bash")
    for words, wanted in (("callwatch sta", ["status"]), ("callwatch status --c", ["--case"])):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        with pytest.raises(SystemExit):
            main([])
        assert capfd.readouterr().out.split() == wanted


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("1.5", 1.5),
        ("15m", 900),
        ("1h", 3600),
        (" 1.5 H", 5400),
        ("2d", 172_800),
        (3600, 3600),
    ],
)
def test_a_duration_has_a_unit_or_is_in_seconds(text: str | float, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0h", "-1", "1w", "1h30m", "one", "1e3", "nan", "١"])
def test_any_other_duration_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="should be a duration above 0"):
        duration(text)


def test_each_line_of_a_failure_has_the_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    complain("CALLWATCH_A: wrong\nCALLWATCH_B: wrong\x1b")
    assert capsys.readouterr().err == "callwatch: CALLWATCH_A: wrong\ncallwatch: CALLWATCH_B: wrong\ufffd\n"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        pytest.param(["stat"], "No such command 'stat'. Did you mean 'status'?", id="no such command"),
        pytest.param(["trigger", "C-1"], "Missing argument 'MEDIATION_ID'. See callwatch trigger", id="no argument"),
        pytest.param(["trigger", "C-1", "2", "--now"], "No such option: --now", id="no such option"),
        pytest.param(["up", "--port-redis", "x"], "'--port-redis'", id="no number"),
        pytest.param(["up", "--port-redis", "70000"], "'--port-redis'", id="no port"),
        pytest.param(["up", "--port-redis", "15000", "--port-flower", "15000"], "given twice", id="a port twice"),
        pytest.param(["up", "--live", "--port-redis", "15000"], "--live starts neither", id="not with --live"),
        pytest.param(["up", "--live"], "CALLWATCH_API_BASE_URL: missing", id="no upstream"),
        pytest.param(
            ["trigger", "", "20"],
            "缺少必要参数,跳过外呼触发: CASE_ID: an empty text, should be a text of 1 to 200 characters",
            id="S2",
        ),
        pytest.param(["trigger", "C-1", " "], "缺少必要参数,跳过外呼触发: MEDIATION_ID: an empty text", id="S2 blank"),
        pytest.param(["trigger", "9" * 201, "20"], "CASE_ID: a text of 201 characters", id="too long"),
        pytest.param(["trigger", "C-1", "2", "--person", "9" * 201], "--person: a text of 201", id="person too long"),
        pytest.param(["trigger", "C-1", "2", "--person", ""], "--person: an empty text", id="S3 empty person"),
        pytest.param(["trigger", "C-1", "2", "--task-id", " "], "--task-id: an empty text", id="S17"),
        pytest.param(["trigger", "C-1", "2", "--task-id", "t" * 201], "--task-id: a text of 201 characters", id="S38"),
        pytest.param(["trigger", "C-1", "2", "--task-id", "a\nb"], "--task-id: a text with a control", id="S38 lines"),
        pytest.param(
            ["trigger", "C-1", "2", "--expires", "0"],
            "'--expires': '0', should be a duration above 0 in s, m, h or d, like 90s or 1h",
            id="expired before it is sent",
        ),
        pytest.param(["trigger", "C-1", "2", "--timeout", "1 week"], "'--timeout': '1 week', should be", id="no unit"),
        pytest.param(["simulate"], "Missing option '--port'", id="no port to simulate on"),
    ],
)
def test_wrong_usage(arguments: list[str], wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert wanted in shown.err
    assert shown.err.startswith("callwatch: ")
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_no_arguments_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().err


NEEDS_REDIS = (["status"], ["status", "--json"], ["watch"], ["watch", "--once"], ["pause"], ["resume"])


@pytest.mark.parametrize("arguments", [*NEEDS_REDIS, ["trigger", "C-1", "20"], ["trigger", "C-1", "20", "--wait"]])
def test_no_redis(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert shown.err == (
        "callwatch: Redis at redis://***@127.0.0.1:1/0 does not answer: connection refused."
        " Start one, or set CALLWATCH_REDIS_URL.\n"
    )
    assert shown.out == ""


def test_no_redis_at_the_default_address_names_the_folder_of_the_settings() -> None:
    line = no_answer(LOCAL_REDIS, "CALLWATCH_REDIS_URL", redis.ConnectionError("closed"))
    assert line == (
        "Redis at redis://127.0.0.1:6379/0 does not answer: closed."
        " This is the default: run the command in the folder of .env, or set CALLWATCH_REDIS_URL."
    )


def test_text_of_an_error_ends_without_its_full_stop() -> None:
    closed = redis.ConnectionError("Connection closed by server.")
    line = no_answer("redis://127.0.0.1:1/0", "CALLWATCH_REDIS_URL", closed)
    assert line.endswith(" does not answer: Connection closed by server. Start one, or set CALLWATCH_REDIS_URL.")


def test_address_from_a_file_names_the_file_to_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Setting the variable beside its file would be refused."""
    (tmp_path / "redis_url").write_text("redis://:from-a-file@127.0.0.1:1/0")
    monkeypatch.delenv("CALLWATCH_REDIS_URL")
    monkeypatch.setenv("CALLWATCH_REDIS_URL_FILE", str(tmp_path / "redis_url"))
    assert main(["status"]) == 1
    assert capsys.readouterr().err.endswith("Start one, or set the file of CALLWATCH_REDIS_URL_FILE.\n")


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("arguments", [["status"], ["trigger", "C-1", "20"]])
def test_silent_redis_fails_after_the_time_out(
    arguments: list[str], silent_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cli.connect.CONNECT_LIMIT", 0.05)
    monkeypatch.setenv("CALLWATCH_REDIS_URL", f"redis://127.0.0.1:{silent_port}/0")
    assert main(arguments) == 1
    assert "does not answer: no answer in time." in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [*NEEDS_REDIS, ["trigger", "C-1", "20"], ["up"], ["up", "--live"]])
def test_wrong_settings_are_wrong_usage(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALLWATCH_POLL_INTERVAL", "soon")
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert "CALLWATCH_POLL_INTERVAL: 'soon' is a text, should be a positive number of seconds" in shown.err
    assert shown.err.count("\n") == 1


def test_help_and_simulate_need_no_valid_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("CALLWATCH_POLL_INTERVAL", "soon")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["simulate", "--port", str(taken.getsockname()[1])]) == 1
    assert "on 127.0.0.1 cannot be used: address already in use" in capsys.readouterr().err
    (tmp_path / "token").write_text("\n")
    for name, fault in (("token", "is empty"), ("none", "No such file")):
        assert main(["simulate", "--port", "0", "--token-file", name]) == 1
        assert fault in capsys.readouterr().err


def test_taken_default_port_is_replaced_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    port = embedded_redis._free_port()  # the next port is not ephemeral either
    with socket.create_server(("127.0.0.1", port)):
        monkeypatch.setitem(PREFERRED, "redis", port)
        chosen = choose_ports({"redis": None, "simulator": port + 1, "flower": None}, said.append)
    assert chosen["redis"] > port + 1 == chosen["simulator"]
    assert said[0] == f"port {port} is taken: redis gets {chosen['redis']}"


def test_port_that_another_up_has_chosen_is_reserved_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its service does not listen yet."""
    port = embedded_redis._free_port()
    monkeypatch.setitem(PREFERRED, "redis", port)
    choose = f"from cli.up import tcp_ports; print(tcp_ports.choose_ports({{'redis': {port}}}, print), flush=True)"
    command = (sys.executable, "-c", f"{choose}; input()")
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout
            assert other.stdout.readline() == f"{{'redis': {port}}}\n"
            assert choose_ports({"redis": None}, lambda _line: None)["redis"] > port
            with pytest.raises(Failure, match=rf"--port-redis: port {port} on 127.0.0.1 .* address already in use"):
                choose_ports({"redis": port}, lambda _line: None)
        finally:
            other.kill()
    assert choose_ports({"redis": None}, lambda _line: None) == {"redis": port}


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - another program's wildcard
def test_a_given_port_that_is_taken_is_refused(address: str) -> None:
    with (
        socket.create_server((address, 0)) as taken,
        pytest.raises(Failure, match=r"--port-flower: port \d+ on 127.0.0.1 cannot be used: address already in use"),
    ):
        choose_ports({"redis": None, "flower": taken.getsockname()[1]}, lambda _line: None)


def test_s2_s9_samples_contain_a_refusal_and_a_failure() -> None:
    cases = samples(datetime(2026, 1, 31, tzinfo=UTC))
    parties = [party for case in cases for party in case.parties]
    assert len({case.case_id for case in cases}) == 3
    assert [party["start_time"] for party in parties if party.get("error_code") == 1001] == ["2026-02-01 09:00:00"]
    lives = [party["life"] for party in parties if "life" in party]
    assert sorted({life[-1][0] for life in lives}) == ["Failed", "Succeeded"]
    assert max(life[-1][1] for life in lives) <= 30

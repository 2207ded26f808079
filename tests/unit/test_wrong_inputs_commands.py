"""Test the wrong commands of a first day: each is refused with one line that names the argument."""

import socket
from pathlib import Path

import pytest

from cli.main import main
from tests.oneline import SECRET, Wrong

pytestmark = pytest.mark.usefixtures("empty_environment")

TEXT = "should be a text of 1 to 200 characters, all printable"
A_NUMBER = "should be"
BELOW = "Input should be less than or equal to 65535"


@pytest.mark.parametrize(
    ("arguments", "field", "right"),
    [
        # commands and options
        pytest.param(["stats"], "'stats'", "Did you mean 'status'?", id="a misspelt command"),
        pytest.param(["worker"], "'worker'", "See callwatch --help", id="no such command"),
        pytest.param(["keys", "old"], "'old'", "See callwatch keys --help", id="no such command of keys"),
        pytest.param(["status", "--caseid", "C-1"], "--caseid", "(Possible options: --case)", id="a misspelt option"),
        pytest.param(["status", "C-1"], "(C-1)", "See callwatch status --help", id="an argument too many"),
        pytest.param(["up", "--simulate"], "--simulate", "--port-simulator", id="no such option of up"),
        # arguments of a trigger
        pytest.param(["trigger", "C-1"], "'MEDIATION_ID'", "Missing argument", id="no mediation"),
        pytest.param(["trigger", "", "20"], "CASE_ID: an empty text", TEXT, id="an empty case"),
        pytest.param(["trigger", "C-1", "9" * 201], "MEDIATION_ID: a text of 201 characters", TEXT, id="a long id"),
        pytest.param(
            ["trigger", "C-1", "2", "--person", ""], "--person: an empty text", "should be an id", id="empty person"
        ),
        pytest.param(["trigger", "C-1", "2", "--task-id", "t" * 201], "--task-id: a text of 201", TEXT, id="a task id"),
        pytest.param(
            ["trigger", "C-1", "2", "--task-id", "a\nb"], "--task-id: a text with a control", TEXT, id="lines"
        ),
        pytest.param(["trigger", "C-1", "2", "--expires", "soon"], "'--expires'", A_NUMBER, id="a word for a time"),
        pytest.param(["trigger", "C-1", "2", "--timeout", "-1"], "'--timeout'", A_NUMBER, id="a negative time-out"),
        # arguments of other commands
        pytest.param(["history", ""], "CASE_ID: empty", "should be an id", id="the history of nothing"),
        pytest.param(["release", "C-1", "2"], "--why: empty", "should say why", id="a release without a reason"),
        pytest.param(["pause", "--by", " "], "--by: empty", "should be the name of the person", id="a nameless pause"),
        pytest.param(["up", "--live"], "CALLWATCH_API_BASE_URL: missing", "like http://", id="up without upstream"),
        # ports and addresses
        pytest.param(["simulate"], "'--port'", "Missing option", id="no port"),
        pytest.param(["serve", "--port", "x"], "'--port'", "should be a valid integer", id="no number"),
        pytest.param(["up", "--port-redis", "70000"], "'--port-redis'", BELOW, id="no port number"),
        pytest.param(["metrics", "--host", "0.0.0.0"], "--host", "CALLWATCH_METRICS_TOKEN", id="public metrics"),  # noqa: S104
        pytest.param(["flower"], "CALLWATCH_FLOWER_AUTH", "should give the required user:password", id="open Flower"),
        # keys of the gateway
        pytest.param(["keys", "new", "crm", "--scope", "read"], "CALLWATCH_GATEWAY_KEYS_FILE", "missing", id="no file"),
        pytest.param(["keys", "new", "crm"], "'--scope'", "Missing option", id="no scope"),
    ],
)
def test_wrong_usage_is_one_line_with_the_argument(
    capsys: pytest.CaptureFixture[str], arguments: list[str], field: str, right: str
) -> None:
    code = main(arguments)
    shown = capsys.readouterr()
    Wrong(2, field, right).judge(code, shown.err)
    assert shown.out == ""


@pytest.mark.parametrize(
    ("arguments", "field", "right"),
    [
        pytest.param(["keys", "new", "CRM!", "--scope", "read"], "NAME", "should be 1 to 32 of a-z", id="a name"),
        pytest.param(["keys", "new", "crm", "--scope", "dial"], "--scope", "of trigger, read, mint", id="a scope"),
    ],
)
def test_wrong_key_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], field: str, right: str
) -> None:
    monkeypatch.setenv("CALLWATCH_GATEWAY_KEYS_FILE", "keys")
    code = main(arguments)
    Wrong(2, field, right).judge(code, capsys.readouterr().err)
    assert not Path("keys").exists()


@pytest.mark.parametrize(
    ("arguments", "field", "right"),
    [
        pytest.param(["healthcheck", "--file", "none"], "none", "the worker has not started yet", id="no health file"),
        pytest.param(["up", "--data", "a-file"], "--data", "Not a directory", id="data in a file"),
        pytest.param(["simulate", "--port", "0", "--log", "none/log"], "--log", "No such file", id="a log nowhere"),
        pytest.param(["simulate", "--port", "0", "--token-file", "none"], "--token-file", "No such file", id="a token"),
    ],
)
def test_unusable_file_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], field: str, right: str
) -> None:
    Path("a-file").write_text(SECRET)
    code = main(arguments)
    Wrong(1, field, right).judge(code, capsys.readouterr().err)


@pytest.mark.parametrize("command", ["up --port-redis", "simulate --port", "metrics --port", "flower --port"])
def test_taken_port_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setenv("CALLWATCH_FLOWER_AUTH", f"user:{SECRET}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code = main([*command.split(), port])
    Wrong(1, f"port {port} on 127.0.0.1", "cannot be used: address already in use").judge(code, capsys.readouterr().err)

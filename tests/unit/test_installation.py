"""An order of an operator names the Redis and the workers that it reached, and warns of a doubtful one (S16)."""

import socket
from pathlib import Path

import pytest

from cli.installation import Installation, ask_installation, warn_of
from config.settings import Settings

DEFAULT = "redis://127.0.0.1:6379/0"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CALLWATCH_REDIS_URL", raising=False)


@pytest.mark.parametrize(
    ("workers", "text"),
    [
        (None, "its workers could not be asked"),
        (0, "no worker answers"),
        (1, "1 worker answers"),
        (3, "3 workers answer"),
    ],
)
def test_the_line_names_the_redis_and_the_number_of_workers(workers: int | None, text: str) -> None:
    assert Installation("redis://10.0.0.5:6379/0", workers).line == f"Redis: redis://10.0.0.5:6379/0; {text}"


def test_no_worker_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(redis_url="redis://:s3cret@10.0.0.5:6379/0")
    warn_of(Installation("redis://***@10.0.0.5:6379/0", 0), settings)
    assert capsys.readouterr().err == (
        "callwatch: warning: no worker answers over redis://***@10.0.0.5:6379/0: check that this is the Redis of the"
        " installation\n"
    )
    for workers in (None, 1):
        warn_of(Installation("redis://***@10.0.0.5:6379/0", workers), settings)
    assert capsys.readouterr().err == ""


def test_the_default_address_is_a_warning_without_a_settings_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    warn_of(Installation(DEFAULT, 1), Settings())
    assert capsys.readouterr().err == (
        f"callwatch: warning: without CALLWATCH_REDIS_URL and without .env in this folder, {DEFAULT} is the default\n"
    )
    (tmp_path / ".env").write_text("CALLWATCH_POLL_INTERVAL=5\n")
    warn_of(Installation(DEFAULT, 1), Settings())
    assert capsys.readouterr().err == "", "the file is that of the installation"


def test_the_default_address_given_on_purpose_is_no_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLWATCH_REDIS_URL", DEFAULT)
    warn_of(Installation(DEFAULT, 1), Settings())
    assert capsys.readouterr().err == ""


def test_a_broker_that_does_not_answer_leaves_the_number_open(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    settings = Settings(redis_url=DEFAULT, broker_url=f"redis://:s3cret@127.0.0.1:{port}/0")
    assert ask_installation(settings) == Installation(DEFAULT, None)
    assert capsys.readouterr().err == (
        f"callwatch: the broker redis://***@127.0.0.1:{port}/0 does not answer: connection refused\n"
    )

"""Test the Celery application: its connections come from the settings alone; errors are one line each (S39)."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery import signals
from celery.apps import worker as celery_worker
from celery.exceptions import SecurityWarning

from api_client import GateBrokenError
from config.settings import Settings
from worker import app as module
from worker.app import CELERY_VARIABLES, create_app

CHATTY = ("celery.worker.strategy", "celery.app.trace")
SETTINGS = Settings(_env_file=None, redis_url="redis://127.0.0.1:1/0")


@pytest.fixture(autouse=True)
def _restore_logging_and_current_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in ("", *CHATTY)}
    monkeypatch.setattr(root, "handlers", [])
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(capture=False)
    module.app.set_current()


@pytest.mark.parametrize("name", sorted(CELERY_VARIABLES))
def test_s4_celery_environment_variables_do_not_change_the_broker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """S4: two brokers could ring a person twice. The variable is logged as ignored, without its value."""
    monkeypatch.setenv(name, "redis://:s3cret@elsewhere:1/5")
    with caplog.at_level(logging.WARNING, logger="worker.app"):
        application = create_app(SETTINGS)
    assert (application.conf.broker_url, application.conf.result_backend) == (SETTINGS.broker_url, SETTINGS.result_url)
    assert name not in os.environ
    (line,) = caplog.messages
    assert line.startswith(f"{name} is ignored")
    assert "s3cret" not in line


def test_each_invalid_setting_is_reported_in_one_line_at_exit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Celery's command line would print a traceback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALLWATCH_POLL_INTERVAL", "soon")
    monkeypatch.setenv("CALLWATCH_KEY_PREFIX", "")
    with pytest.raises(SystemExit) as end:
        module._load()
    assert [line.partition(":")[0] for line in str(end.value).splitlines()] == [
        "CALLWATCH_POLL_INTERVAL",
        "CALLWATCH_KEY_PREFIX",
    ]


def test_s38_every_queue_is_validated_before_celery_reads_it() -> None:
    """S38: see worker/runtime/malformed.py."""
    conf = create_app(SETTINGS).conf
    assert [*conf.broker_transport_options["task_queues"]] == [queue.name for queue in conf.task_queues]


@pytest.mark.parametrize("address", [None, "http://127.0.0.1:9015"], ids=["none", "one"])
def test_s39_worker_without_an_upstream_address_does_not_start(
    monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    """S39: the address comes from the settings alone; a producer makes no requests and needs none."""
    monkeypatch.setattr(module, "_settings", SETTINGS.model_copy(update={"api_base_url": address}))
    if address is None:
        with pytest.raises(SystemExit, match=r"^CALLWATCH_API_BASE_URL: missing, should be"):
            signals.celeryd_init.send(sender="w@host", instance=SimpleNamespace(), conf=None)
    else:
        signals.celeryd_init.send(sender="w@host", instance=SimpleNamespace(), conf=None)


@pytest.mark.parametrize(
    ("user", "lines"), [(0, ["the worker runs as root, should run as a user of its own"]), (1, [])]
)
def test_celery_prints_no_banner_and_no_warning_of_several_lines(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    user: int,
    lines: list[str],
) -> None:
    monkeypatch.setattr(celery_worker, "safe_say", celery_worker.safe_say)
    monkeypatch.setattr(module, "_settings", SETTINGS.model_copy(update={"api_base_url": "http://127.0.0.1:9015"}))
    monkeypatch.setattr("os.geteuid", lambda: user)
    worker = SimpleNamespace(quiet=False)
    with warnings.catch_warnings():
        signals.celeryd_init.send(sender="w@host", instance=worker, conf=None)
        warnings.warn("a text of eight lines", SecurityWarning, stacklevel=1)
    celery_worker.safe_say("worker: Warm shutdown (MainProcess)", sys.stdout)
    assert worker.quiet is True
    assert caplog.messages == lines
    assert capsys.readouterr() == ("", "")


def test_worker_of_an_unknown_queue_does_not_start() -> None:
    """The error is one line and names the queues."""
    wanted = r"^-Q outbound\.triger: is no queue, should be of outbound\.trigger, outbound\.poll, outbound\.control$"
    with pytest.raises(SystemExit, match=wanted):
        signals.celeryd_init.send(sender="w@host", options={"queues": ["outbound.poll", "outbound.triger"]})


def test_s18_worker_with_a_broken_dial_gate_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """S18: the error is one line and names the remedy."""

    def check_gate() -> None:
        raise GateBrokenError("a dial over http bypassed its gate (a byte was sent)")

    monkeypatch.setattr(module, "_settings", SETTINGS.model_copy(update={"api_base_url": "http://127.0.0.1:9015"}))
    monkeypatch.setattr(module, "check_gate", check_gate)
    with pytest.raises(SystemExit, match=r"^a dial over http bypassed its gate .*requirements\.lock names$"):
        signals.celeryd_init.send(sender="w@host", instance=SimpleNamespace(), conf=None)


@pytest.mark.parametrize(("level", "chatty"), [("INFO", False), ("DEBUG", True)])
def test_s37_worker_logs_use_our_handler_and_hide_celery_task_lines(
    monkeypatch: pytest.MonkeyPatch, level: str, chatty: bool
) -> None:
    """S37: Celery's own logging stays off; its two lines per poll appear at DEBUG only."""
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET)
    monkeypatch.setattr(module, "_settings", SETTINGS.model_copy(update={"log_level": level}))
    ((_, answer),) = signals.setup_logging.send(sender=None, loglevel="INFO")
    assert answer is None, "no error"
    assert [type(handler).__module__ for handler in logging.getLogger().handlers].count("config.log") == 1
    assert [logging.getLogger(name).isEnabledFor(logging.INFO) for name in CHATTY] == [chatty, chatty]

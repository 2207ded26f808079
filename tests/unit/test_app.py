"""The application: its own settings alone say where it connects, and what is wrong with them is one line (S39)."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import signals

from api_client import GateBrokenError
from config.settings import Settings
from worker import app as module
from worker.app import CELERY_VARIABLES, create_app

CHATTY = ("celery.worker.strategy", "celery.app.trace")
SETTINGS = Settings(_env_file=None, redis_url="redis://127.0.0.1:1/0")


@pytest.fixture(autouse=True)
def _leave_all_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in ("", *CHATTY)}
    monkeypatch.setattr(root, "handlers", [])
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(capture=False)
    module.app.set_current()


@pytest.mark.parametrize("name", sorted(CELERY_VARIABLES))
def test_no_variable_of_celery_moves_the_broker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """S4: a worker on another broker than its producers is how people get rung twice. It is said, and not in clear."""
    monkeypatch.setenv(name, "redis://:s3cret@elsewhere:1/5")
    with caplog.at_level(logging.WARNING, logger="worker.app"):
        application = create_app(SETTINGS)
    assert (application.conf.broker_url, application.conf.result_backend) == (SETTINGS.broker_url, SETTINGS.result_url)
    assert name not in os.environ
    (line,) = caplog.messages
    assert line.startswith(f"{name} is ignored")
    assert "s3cret" not in line


def test_settings_that_no_worker_may_start_with_end_it_with_a_line_each(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not with the trace that Celery's command line would make of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALLWATCH_POLL_INTERVAL", "soon")
    monkeypatch.setenv("CALLWATCH_KEY_PREFIX", "")
    with pytest.raises(SystemExit) as end:
        module._load()
    assert [line.partition(":")[0] for line in str(end.value).splitlines()] == [
        "CALLWATCH_POLL_INTERVAL",
        "CALLWATCH_KEY_PREFIX",
    ]


def test_the_messages_of_every_queue_are_read_before_celery_gets_them() -> None:
    """S38: see worker/runtime/malformed.py."""
    conf = create_app(SETTINGS).conf
    assert [*conf.broker_transport_options["task_queues"]] == [queue.name for queue in conf.task_queues]


@pytest.mark.parametrize("address", [None, "http://127.0.0.1:9015"], ids=["none", "one"])
def test_a_worker_without_an_upstream_does_not_start(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    """S39: the address comes from the settings alone; a producer, which asks for nothing, needs none."""
    monkeypatch.setattr(module, "_settings", SETTINGS.model_copy(update={"api_base_url": address}))
    if address is None:
        with pytest.raises(SystemExit, match=r"^CALLWATCH_API_BASE_URL: missing, should be"):
            signals.celeryd_init.send(sender="w@host", instance=None, conf=None)
    else:
        signals.celeryd_init.send(sender="w@host", instance=None, conf=None)


def test_a_worker_whose_gate_does_not_hold_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """S18: it is one line, and says what to do."""

    def check_gate() -> None:
        raise GateBrokenError("a dial over http bypassed its gate (a byte was sent)")

    monkeypatch.setattr(module, "_settings", SETTINGS.model_copy(update={"api_base_url": "http://127.0.0.1:9015"}))
    monkeypatch.setattr(module, "check_gate", check_gate)
    with pytest.raises(SystemExit, match=r"^a dial over http bypassed its gate .*requirements\.lock names$"):
        signals.celeryd_init.send(sender="w@host", instance=None, conf=None)


@pytest.mark.parametrize(("level", "chatty"), [("INFO", False), ("DEBUG", True)])
def test_the_workers_logs_are_ours(monkeypatch: pytest.MonkeyPatch, level: str, chatty: bool) -> None:
    """S37: Celery's own logging never starts; its two lines for each poll are for whoever asks for everything."""
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET)
    monkeypatch.setattr(module, "_settings", SETTINGS.model_copy(update={"log_level": level}))
    ((_, answer),) = signals.setup_logging.send(sender=None, loglevel="INFO")
    assert answer is None, "no error"
    assert [type(handler).__module__ for handler in logging.getLogger().handlers].count("config.log") == 1
    assert [logging.getLogger(name).isEnabledFor(logging.INFO) for name in CHATTY] == [chatty, chatty]

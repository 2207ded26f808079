"""Test the consumer: its log of refused messages, permitted remote commands, and reconnection."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import signals
from celery.worker.control import Panel

from config.settings import Settings
from worker.app import app
from worker.runtime.consumer import READ_ONLY_COMMANDS, Consumer

PERSON = "person-secret-0001"


class Refused:
    """A message that records its rejections."""

    body = f'["{PERSON}"]'

    def __init__(self, headers: Any) -> None:
        self.headers = headers
        self.ends: list[str] = []

    def reject_log_error(self, *_: Any, requeue: bool = False) -> None:
        self.ends.append("requeued" if requeue else "dropped")


class Quiet(Consumer):
    """A consumer without a worker."""

    def __init__(self) -> None:
        self.connection_errors = ()


@pytest.mark.parametrize(
    ("headers", "task_id"),
    [
        ({"id": "task-1", "task": PERSON}, "task-1"),
        ({"id": 5, "task": PERSON}, ""),
        ({"id": "x" * 201}, ""),
        ([PERSON], ""),
    ],
)
def test_s37_refused_message_is_logged_by_kind_length_and_task_id_only(
    caplog: pytest.LogCaptureFixture, headers: Any, task_id: str
) -> None:
    consumer = Quiet()
    refusals: dict[str, Callable[[Refused], None]] = {
        "unknown message": lambda one: consumer.on_unknown_message(PERSON, one),
        "unknown task": lambda one: consumer.on_unknown_task(PERSON, one, KeyError(PERSON)),
        "invalid task": lambda one: consumer.on_invalid_task(PERSON, one, ValueError(PERSON)),
        "unreadable message": lambda one: consumer.on_decode_error(one, ValueError(PERSON)),
    }
    for refuse in refusals.values():
        message = Refused(headers)
        refuse(message)
        assert message.ends == ["dropped"]
    assert caplog.messages == [f"{kind} of 22 bytes refused" for kind in refusals]
    assert {record.__dict__["task_id"] for record in caplog.records} == {task_id}
    assert PERSON not in caplog.text


def test_s40_worker_accepts_only_read_only_remote_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allow-list applies from the start of the worker."""
    monkeypatch.setattr(Panel, "data", dict.fromkeys(READ_ONLY_COMMANDS | {"shutdown", "hello"}))
    monkeypatch.setattr("worker.app._settings", Settings(api_base_url="http://127.0.0.1:1"))
    signals.celeryd_init.send(sender="w@host")
    assert set(Panel.data) == READ_ONLY_COMMANDS


def test_s40_application_uses_this_consumer_without_mingle(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not request revoked tasks from other workers."""
    given: dict[str, Any] = {}

    class Blueprint:
        def __init__(self, **_: Any) -> None:
            pass

        def apply(self, _parent: Any, **options: Any) -> None:
            given.update(options)

    monkeypatch.setattr(Consumer, "Blueprint", Blueprint)
    assert app.conf.worker_consumer == f"{Consumer.__module__}:{Consumer.__name__}"
    Consumer(
        lambda _: None,
        app=app,
        pool=SimpleNamespace(num_processes=1),
        controller=SimpleNamespace(use_eventloop=False),
        worker_options={"without_mingle": False},
    )
    assert given["without_mingle"] is True


def test_s28_worker_reconnects_every_half_second() -> None:
    """S28: kombu's default back-off is 2, 4, 6 … 30 s."""
    retry_options: dict[str, Any] = {}
    connection = SimpleNamespace(ensure_connection=lambda *_args, **options: retry_options.update(options))
    consumer = object.__new__(Consumer)
    consumer.app, consumer.first_connection_attempt = app, False
    consumer.ensure_connected(connection)
    assert tuple(retry_options[f"interval_{name}"] for name in ("start", "step", "max")) == (0.5, 0, 0.5)


def test_s41_worker_pauses_between_attempts_while_redis_accepts_connections_and_no_writes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """S41: connecting succeeds, so that the back-off of `ensure_connected` does not apply."""
    pauses: list[float] = []
    monkeypatch.setattr("worker.runtime.consumer.time", SimpleNamespace(sleep=pauses.append))
    consumer = object.__new__(Consumer)
    consumer.conninfo = SimpleNamespace(as_uri=lambda: "redis://host")
    consumer.on_connection_error_before_connected(ConnectionError("takes no writes"))
    assert pauses == [0.5]
    assert "Cannot connect to redis://host: takes no writes" in caplog.text


def test_consumer_disables_mingle_and_gossip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regardless of the command line: mingle costs a second at each start and each reconnection."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(Consumer.__base__, "__init__", lambda _self, **options: given.update(options))
    Consumer(without_mingle=False, hostname="w")
    assert given == {"without_mingle": True, "without_gossip": True, "hostname": "w"}

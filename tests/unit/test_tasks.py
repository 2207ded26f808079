"""What the tasks do beside their flows: news for Flower, and slots that keep threads free for polls."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from celery import signals
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisAway

from worker import tasks
from worker.app import CONTROL_QUEUE, POLL_QUEUE, TRIGGER_QUEUE, app


@pytest.mark.parametrize(
    ("queues", "slots"),
    [
        pytest.param([TRIGGER_QUEUE, POLL_QUEUE, CONTROL_QUEUE], 4, id="half of its threads beside polls"),
        pytest.param([TRIGGER_QUEUE], None, id="all where it does not poll"),
    ],
)
def test_dials_never_hold_up_the_polls(monkeypatch: pytest.MonkeyPatch, queues: list[str], slots: int | None) -> None:
    """S20: a dial may hang for a minute and a half."""
    monkeypatch.setattr(tasks, "dial_slots", tasks.DialSlots())
    monkeypatch.setattr(app.amqp.queues, "_consume_from", None)
    app.amqp.queues.select(queues)
    signals.celeryd_after_setup.send(sender="w@host", instance=SimpleNamespace(concurrency=8), conf=None)
    taken = sum(tasks.dial_slots.take() for _ in range(8))
    assert taken == (slots or 8)


class Flower:
    """Hears a worker's events, or cannot be reached."""

    def __init__(self, *, refuses: Exception | None = None, loses: Exception | None = None) -> None:
        self.refuses, self.loses = refuses, loses
        self.heard: list[tuple[str, str, dict[str, Any]]] = []

    @contextmanager
    def dispatcher(self, hostname: str) -> Iterator[SimpleNamespace]:
        if self.refuses:
            raise self.refuses

        def send(kind: str, **fields: Any) -> None:
            if self.loses:
                raise self.loses
            self.heard.append((hostname, kind, fields))

        yield SimpleNamespace(send=send)


TASK: Any = SimpleNamespace(request=SimpleNamespace(hostname="w@host"))


def test_an_event_is_the_workers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower shows a task under the worker that its events come from."""
    flower = Flower()
    monkeypatch.setattr(app.events, "default_dispatcher", flower.dispatcher)
    tasks.send_event(TASK, "task-watched", {"uuid": "job-1"})
    assert flower.heard == [("w@host", "task-watched", {"uuid": "job-1"})]


@pytest.mark.parametrize("error", [OperationalError("x"), RedisAway("x"), OSError("x")], ids=repr)
@pytest.mark.parametrize("when", ["refuses", "loses"])
def test_that_nobody_hears_it_is_no_fault_of_the_poll(
    monkeypatch: pytest.MonkeyPatch, error: Exception, when: str
) -> None:
    """S28: watching does not depend on who looks on."""
    flower = Flower(refuses=error) if when == "refuses" else Flower(loses=error)
    monkeypatch.setattr(app.events, "default_dispatcher", flower.dispatcher)
    tasks.send_event(TASK, "task-watched", {"uuid": "job-1"})
    assert flower.heard == []

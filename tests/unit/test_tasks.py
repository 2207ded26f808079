"""Test the task module outside its flows: publishing polls, events for Flower, dial slots, shutdown."""

import base64
import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import redis
from celery import signals
from celery.concurrency import get_implementation
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisAway

from config.settings import Settings
from worker import tasks
from worker.app import app
from worker.core.interfaces import ScheduleFailed
from worker.core.messages import PollMessage
from worker.runtime.celery_config import CONTROL_QUEUE, POLL_QUEUE, TRIGGER_QUEUE
from worker.runtime.poll_executor import MAX_POLLS
from worker.store.primary import primary_of


@pytest.mark.parametrize(
    ("queues", "slots"),
    [
        pytest.param([TRIGGER_QUEUE, POLL_QUEUE, CONTROL_QUEUE], 4, id="half of its threads when it also polls"),
        pytest.param([TRIGGER_QUEUE], None, id="all if it does not poll"),
    ],
)
def test_s20_dial_slots_leave_threads_for_polls(
    monkeypatch: pytest.MonkeyPatch, queues: list[str], slots: int | None
) -> None:
    """S20: a dial may hang for 90 s."""
    monkeypatch.setattr(tasks, "dial_slots", tasks.DialSlots())
    set_up(monkeypatch, queues)
    taken = sum(tasks.dial_slots.take() for _ in range(8))
    assert taken == (slots or 8)


@pytest.mark.parametrize("pool", ["prefork", "processes"])
def test_s20_prefork_worker_for_dials_and_polls_does_not_start(monkeypatch: pytest.MonkeyPatch, pool: str) -> None:
    """S20: each process counts only its own dials, so all of them could dial at once."""
    monkeypatch.setattr(tasks, "dial_slots", tasks.DialSlots())
    reason = r"^with the pool prefork .* -Q outbound\.trigger .*CALLWATCH_WORKER_POOL=threads$"
    with pytest.raises(SystemExit, match=reason):
        set_up(monkeypatch, [TRIGGER_QUEUE, POLL_QUEUE, CONTROL_QUEUE], pool=pool)


@pytest.mark.parametrize("queues", [[TRIGGER_QUEUE], [POLL_QUEUE, CONTROL_QUEUE]], ids=["dials", "polls"])
def test_prefork_worker_may_either_dial_or_poll(monkeypatch: pytest.MonkeyPatch, queues: list[str]) -> None:
    monkeypatch.setattr(tasks, "dial_slots", tasks.DialSlots())
    set_up(monkeypatch, queues, pool="prefork")


@pytest.mark.parametrize(
    ("expires", "expected"),
    [
        (None, None),
        ("2026-11-22T20:00:00+08:00", 1_795_348_800),
        pytest.param("9999-12-31T23:59:59.999999+00:00", tasks.LATEST, id="latest possible"),
    ],
)
def test_expiry_is_converted_to_epoch_seconds(expires: str | None, expected: float | None) -> None:
    moment = tasks.epoch(expires)
    assert moment == expected
    assert moment is None or datetime.fromtimestamp(moment, UTC).isoformat()  # so that it can be republished


def set_up(monkeypatch: pytest.MonkeyPatch, queues: list[str], *, pool: str = "threads") -> None:
    """Set up a worker with eight threads or processes for some queues."""
    monkeypatch.setattr(app.amqp.queues, "_consume_from", None)
    monkeypatch.setattr(tasks.here, "name", None)
    app.amqp.queues.select(queues)
    instance = SimpleNamespace(concurrency=8, hostname="w@host", pool_cls=get_implementation(pool))
    signals.celeryd_after_setup.send(sender="w@host", instance=instance, conf=None)
    assert tasks.here.name == "w@host"


def message_of(number: int) -> PollMessage:
    times = {"poll_no": 3, "retry_count": 0, "due": 1_000.0, "deadline": 8_000.0, "countdown": 0}
    return PollMessage(job_id=f"job-{number}", case_id="C-1", mediation_id="20", person_id="P-1", **times)


def queue_at(url: str) -> tasks.PollQueue:
    return tasks.PollQueue(Settings(_env_file=None, redis_url=url))


@pytest.fixture
def broker_url(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> str:
    """The address of the broker that the tasks publish to."""
    publish_to(monkeypatch, redis_url)
    return redis_url


def publish_to(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Let the poll task publish to the broker at `url`."""
    connection = app.connection_for_write(url, transport_options={"primary": primary_of(url)})
    producer = app.amqp.Producer(connection, auto_declare=False)
    apply_async = tasks.poll.apply_async
    monkeypatch.setattr(tasks.poll, "apply_async", functools.partial(apply_async, producer=producer))


def test_s20_batch_of_polls_is_one_message_without_eta(broker_url: str) -> None:
    queue = queue_at(broker_url)
    assert queue.waiting() == 0
    queue([message_of(number) for number in range(3)])
    queue([message_of(3).model_copy(update={"root_id": "task-1"})])
    assert queue.waiting() == 2
    with redis.Redis.from_url(broker_url, decode_responses=True) as client:
        several, one = (json.loads(entry) for entry in reversed(client.lrange(POLL_QUEUE, 0, -1)))
    kwargs = [json.loads(base64.b64decode(entry["body"]))[1] for entry in (several, one)]
    assert kwargs[0] == {"polls": [message_of(number).kwargs() for number in range(3)]}
    assert kwargs[1] == message_of(3).kwargs()
    for entry in (several, one):
        assert (entry["headers"]["task"], entry["headers"]["eta"]) == ("outbound.poll", None)
        assert "P-1" not in entry["headers"]["kwargsrepr"]
    assert one["headers"]["root_id"] == "task-1"


def test_s28_unavailable_broker_raises_schedule_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    away = "redis://127.0.0.1:1/0"
    publish_to(monkeypatch, away)
    with pytest.raises(ScheduleFailed):
        queue_at(away)([message_of(0)])
    with pytest.raises(ScheduleFailed):
        queue_at(away).waiting()


class Asked:
    """A poll executor that records its close limits."""

    limits: ClassVar[list[float]] = []

    def free(self) -> int:
        return 7

    def close(self, limit: float) -> None:
        self.limits.append(limit)


def test_s28_shutdown_waits_for_polls_once_for_the_query_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has never polled does not wait."""
    process = tasks.ThisProcess()
    monkeypatch.setattr(tasks, "this_process", process)
    assert process.free() == MAX_POLLS
    parts = SimpleNamespace(poll_executor=lambda _show: Asked(), settings=Settings(_env_file=None, status_timeout=5))
    monkeypatch.setattr(tasks, "container", lambda: parts)
    signals.worker_shutdown.send(sender="w@host")
    assert Asked.limits == []
    assert process.poll_executor() is process.poll_executor()
    assert process.free() == 7
    signals.worker_shutdown.send(sender="w@host")
    signals.worker_process_shutdown.send(sender="w@host")
    assert Asked.limits == [7]


class Flower:
    """Receive a worker's events, or be unreachable."""

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


def test_event_carries_the_workers_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower lists a task under the worker that sends its events."""
    flower = Flower()
    monkeypatch.setattr(app.events, "default_dispatcher", flower.dispatcher)
    monkeypatch.setattr(tasks.here, "name", "w@host")
    tasks.send_event("task-watched", {"uuid": "job-1"})
    assert flower.heard == [("w@host", "task-watched", {"uuid": "job-1"})]


@pytest.mark.parametrize("error", [OperationalError("x"), RedisAway("x"), OSError("x")], ids=repr)
@pytest.mark.parametrize("when", ["refuses", "loses"])
def test_s28_undeliverable_event_does_not_fail_the_poll(
    monkeypatch: pytest.MonkeyPatch, error: Exception, when: str
) -> None:
    """S28: watching does not depend on observers."""
    flower = Flower(refuses=error) if when == "refuses" else Flower(loses=error)
    monkeypatch.setattr(app.events, "default_dispatcher", flower.dispatcher)
    tasks.send_event("task-watched", {"uuid": "job-1"})
    assert flower.heard == []

"""What the tasks do beside their flows: news for Flower, and slots that keep threads free for polls."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import signals
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisAway

from worker import tasks
from worker.app import CONTROL_QUEUE, POLL_QUEUE, TRIGGER_QUEUE, app
from worker.messages import PollMessage
from worker.ports import ScheduleFailed


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
    set_up(monkeypatch, queues)
    taken = sum(tasks.dial_slots.take() for _ in range(8))
    assert taken == (slots or 8)


@pytest.mark.parametrize(
    ("queues", "limit"),
    [
        pytest.param([POLL_QUEUE, CONTROL_QUEUE], 0, id="none where it polls"),
        pytest.param([TRIGGER_QUEUE, POLL_QUEUE, CONTROL_QUEUE], 0, id="nor where it dials as well"),
        pytest.param([TRIGGER_QUEUE], 8, id="its threads where it does not"),
    ],
)
def test_a_worker_that_polls_fetches_without_a_limit(
    monkeypatch: pytest.MonkeyPatch, queues: list[str], limit: int
) -> None:
    """S28: what was published anew does not wait behind polls that nobody needs yet; triggers are not hoarded."""
    monkeypatch.setattr(tasks, "dial_slots", tasks.DialSlots())
    consumer = set_up(monkeypatch, queues)
    assert (consumer.initial_prefetch_count, consumer.prefetch_multiplier) == (limit, limit and 1)


@pytest.mark.parametrize(
    ("expires", "expected"),
    [
        (None, None),
        ("2026-11-22T20:00:00+08:00", 1_795_348_800),
        pytest.param("2026-11-22T12:00:00", 1_795_348_800, id="without a zone it is UTC"),
        pytest.param("9999-12-31T23:59:59.999999+00:00", tasks.LATEST, id="for ever"),
        pytest.param("9999-12-31T23:59:59.999999", tasks.LATEST, id="for ever, without a zone"),
    ],
)
def test_when_a_trigger_expires(expires: str | None, expected: float | None) -> None:
    moment = tasks.epoch(expires)
    assert moment == expected
    assert moment is None or datetime.fromtimestamp(moment, UTC).isoformat()  # it can be published again


def set_up(monkeypatch: pytest.MonkeyPatch, queues: list[str]) -> SimpleNamespace:
    """Set up a worker of eight threads for some queues, and return what fetches its messages."""
    monkeypatch.setattr(app.amqp.queues, "_consume_from", None)
    app.amqp.queues.select(queues)
    consumer = SimpleNamespace(initial_prefetch_count=8, prefetch_multiplier=1)
    instance = SimpleNamespace(concurrency=8, consumer=consumer)
    signals.celeryd_after_setup.send(sender="w@host", instance=instance, conf=None)
    return consumer


def message_of(number: int) -> PollMessage:
    times = {"poll_no": 3, "retry_count": 0, "due": 1_000.0, "deadline": 8_000.0, "countdown": 0}
    return PollMessage(job_id=f"job-{number}", case_id="C-1", mediation_id="20", person_id="P-1", **times)


@pytest.fixture
def broker_url(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> Iterator[str]:
    """A broker that the tasks publish to, through the transport of workers."""
    with app.connection_for_write(redis_url) as connection:
        producer = app.amqp.Producer(connection, auto_declare=False)
        monkeypatch.setattr(tasks, "own", SimpleNamespace(producer=producer))
        yield redis_url


def test_s28_what_the_sweep_reissues_leaves_in_one_request(monkeypatch: pytest.MonkeyPatch, broker_url: str) -> None:
    """And arrives whole, in its order, before the polls that wait in the queue for their time."""
    requests: list[list[bytes]] = []
    send: Any = redis.Connection.send_packed_command

    def counted(connection: redis.Connection, command: list[bytes], *args: Any, **kwargs: Any) -> None:
        requests.append(command)
        send(connection, command, *args, **kwargs)

    tasks.publish_poll(message_of(101))
    tasks.Publisher().polls([])  # connects
    with monkeypatch.context() as patched:
        patched.setattr(redis.Connection, "send_packed_command", counted)
        tasks.Publisher().polls([message_of(number) for number in range(1, 101)])
    assert [len(pieces) for pieces in requests] == [1], "each piece is a write, at which others take the interpreter"
    with redis.Redis.from_url(broker_url, decode_responses=True) as client:
        arrived = [json.loads(entry) for entry in reversed(client.lrange(POLL_QUEUE, 0, -1))]
    bodies = [json.loads(base64.b64decode(entry["body"])) for entry in arrived]
    assert [kwargs["job_id"] for _, kwargs, _ in bodies] == [f"job-{number}" for number in range(1, 102)]
    assert {entry["headers"]["task"] for entry in arrived} == {"outbound.poll"}


def test_s28_a_broker_that_is_away_takes_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with app.connection_for_write("redis://127.0.0.1:1/0") as connection:
        producer = app.amqp.Producer(connection, auto_declare=False)
        monkeypatch.setattr(tasks, "own", SimpleNamespace(producer=producer))
        with pytest.raises(ScheduleFailed):
            tasks.Publisher().polls([message_of(0)])


def test_a_published_poll_is_known_by_its_id(broker_url: str) -> None:
    """As any task that was published; of its result there is nothing to be had."""
    sent = tasks.poll.apply_async(kwargs={"job_id": "job-1"}, producer=tasks.own.producer)
    with redis.Redis.from_url(broker_url) as client:
        (entry,) = client.lrange(POLL_QUEUE, 0, -1)
    assert json.loads(entry)["headers"]["id"] == sent.id == sent.task_id


@pytest.mark.usefixtures("broker_url")
def test_s28_a_broker_that_goes_away_in_the_middle_is_no_fault_of_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """What kombu raises is an error of its own."""

    def execute(_pipeline: object) -> None:
        raise RedisAway("gone")

    monkeypatch.setattr(redis.client.Pipeline, "execute", execute)
    with pytest.raises(ScheduleFailed, match="BatchPublishError"):
        tasks.Publisher().polls([message_of(0)])


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

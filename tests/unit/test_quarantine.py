"""Test that the transport quarantines malformed messages, and no valid ones (S38)."""

import json
from typing import Any

import pytest
import redis
from kombu import Message

from tests.deployment import wait_until
from tests.holder import NAMELESS, Holder, connect_again, waiting_and_held
from tests.malformed import message

pytestmark = pytest.mark.usefixtures("no_unrestored_messages")

HELD = '{"body": "", "properties": {"delivery_tag": "t-1", "delivery_info": {"exchange": "", "routing_key": "x"}}}'


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param("once upon a time", id="no JSON"),
        pytest.param("17", id="not a message"),
        pytest.param('{"properties": {"delivery_tag": "t-1"}}', id="a message without a routing key"),
        pytest.param('{"properties": {}}', id="a message without a tag"),
        pytest.param(HELD, id="recorded, then malformed"),
    ],
)
def test_s38_malformed_message_is_quarantined_and_the_next_is_delivered(
    redis_url: str, caplog: pytest.LogCaptureFixture, entry: str
) -> None:
    """S37 S38: kept for inspection for a day, not quoted in the log, and not redelivered."""
    holder = Holder(redis_url, NAMELESS, messages=0)

    def refuse(message: Message) -> None:
        if "n" not in message.payload:
            raise KeyError("id")
        holder.held.append(message)

    holder.consumer.on_message = refuse
    with redis.Redis.from_url(redis_url) as client:
        client.lpush("polls", entry)
        with holder.connection.Producer() as producer:
            producer.publish({"n": 1}, routing_key="polls")
        while not holder.held:
            holder.connection.drain_events(timeout=5)
        assert client.lrange("outbound.malformed", 0, -1) == [entry.encode()]
        assert 0 < client.ttl("outbound.malformed") <= 86_400
    (line,) = [line for line in caplog.messages if "malformed" in line]
    assert line.startswith(f"malformed message of {len(entry)} bytes put aside in outbound.malformed: ")
    holder.held[0].ack()
    holder.leave()
    assert waiting_and_held(redis_url) == (0, 0)


def test_s38_overlong_nested_entry_is_quarantined_truncated(redis_url: str) -> None:
    """S38: its beginning is kept, and the next message is delivered."""
    holder = Holder(redis_url, NAMELESS, messages=0, task_queues={"polls": "outbound.trigger"})
    with redis.Redis.from_url(redis_url) as client:
        client.lpush("polls", "[" * 100_000)
        deliver(holder, redis_url, message())
        assert client.lrange("outbound.malformed", 0, -1) == [b"[" * 16_384]
    holder.leave()


def deliver(holder: Holder, url: str, entry: dict[str, Any]) -> None:
    """Push an entry onto the task queue and wait until the consumer receives it."""
    with redis.Redis.from_url(url) as client:
        client.lpush("polls", json.dumps(entry))
    before = len(holder.held)
    while len(holder.held) == before:
        holder.connection.drain_events(timeout=5)


def test_s38_unreadable_task_message_never_reaches_its_consumer(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """S38: it is quarantined, the log names the field, and the next message is delivered."""
    holder = Holder(redis_url, NAMELESS, messages=0, task_queues={"polls": "outbound.trigger"})
    bad = [message(headers={"task": "outbound.trigger"}), message(body=[[], {}]), message(properties=None)]
    with redis.Redis.from_url(redis_url) as client:
        for entry in bad:
            client.lpush("polls", json.dumps(entry))
        deliver(holder, redis_url, message())
        assert [json.loads(entry) for entry in client.lrange("outbound.malformed", 0, -1)] == bad[::-1]
    assert [line.rpartition("outbound.malformed: ")[2] for line in caplog.messages if "malformed" in line] == [
        "headers.id: missing, should be a text of 1 to 200 printable characters",
        "body: should be a JSON text (a string) of a list of three: positional arguments, kwargs, an empty object",
        "properties: missing, should be a JSON object",
    ]
    fields = [line.__dict__["field"] for line in caplog.records if "malformed" in line.message]
    assert fields == ["headers.id", "body", "properties"]
    (held,) = holder.held
    held.ack()
    holder.leave()
    assert waiting_and_held(redis_url) == (0, 0)


@pytest.mark.parametrize("entry", ["[" * 100_000, '{"__type__": "decimal", "__value__": "x"}', "17", '{"x": [1]}'])
def test_s38_unreadable_event_or_command_is_dropped(
    redis_url: str, caplog: pytest.LogCaptureFixture, entry: str
) -> None:
    """Flower's user may publish to both channels."""
    holder = Holder(redis_url, NAMELESS, messages=0, task_queues={"polls": "outbound.trigger"})
    with redis.Redis.from_url(redis_url) as client:
        place = client.connection_pool.connection_kwargs["db"]
        wait_until(lambda: client.pubsub_numpat() or client.pubsub_numsub(f"/{place}.control")[0][1])
        client.publish(f"/{place}.control", entry)
        deliver(holder, redis_url, message())
    assert entry not in caplog.text
    assert any(text in caplog.text for text in ("unreadable event or remote command dropped", "malformed message of"))
    holder.held[0].ack()
    holder.leave()


def test_s38_message_that_is_not_json_serialisable_is_quarantined_empty(redis_url: str) -> None:
    """S38: the payload cannot be serialised again."""
    holder = Holder(redis_url, NAMELESS, messages=0)
    holder.connection.transport._deliver({"x": object()}, "polls")
    with redis.Redis.from_url(redis_url) as client:
        assert client.lrange("outbound.malformed", 0, -1) == [b""]
    holder.leave()


@pytest.mark.parametrize("requeue", [True, False], ids=["requeued", "restored"])
def test_s38_task_message_returns_only_to_its_own_queue(redis_url: str, requeue: bool) -> None:
    """The routing key in the message is ignored; with the worker's rights it could name any key."""
    holder = Holder(redis_url, NAMELESS, messages=0, task_queues={"polls": "outbound.trigger"})
    place = {"exchange": "", "routing_key": "callwatch:due"}
    deliver(holder, redis_url, message(properties={"delivery_tag": "t-1", "delivery_info": place}))
    if requeue:
        holder.held[0].reject(requeue=True)
        holder.leave()
    else:
        holder.lose()
        connect_again(redis_url)
    assert waiting_and_held(redis_url) == (1, 0)
    with redis.Redis.from_url(redis_url) as client:
        assert not client.exists("callwatch:due")


@pytest.mark.parametrize(
    "fault",
    [
        *(kind("x") for kind in (KeyError, AttributeError, TypeError, ValueError, RecursionError)),
        json.JSONDecodeError("x", "doc", 0),
    ],
)
def test_s38_error_in_the_consumer_quarantines_no_valid_message(redis_url: str, fault: Exception) -> None:
    """S38: the message stays unacknowledged and is redelivered."""
    holder = Holder(redis_url, NAMELESS, messages=0, task_queues={"polls": "outbound.trigger"})

    def fail(_: Message) -> None:
        raise fault

    holder.consumer.on_message = fail
    place = {"exchange": "", "routing_key": "polls"}
    with redis.Redis.from_url(redis_url) as client:
        with pytest.raises(type(fault)):
            deliver(holder, redis_url, message(properties={"delivery_tag": "t-1", "delivery_info": place}))
        assert client.llen("outbound.malformed") == 0
        assert waiting_and_held(redis_url) == (0, 1)
    holder.lose()
    connect_again(redis_url)
    assert waiting_and_held(redis_url) == (1, 0)

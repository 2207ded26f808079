"""Test the kombu transport: a lost connection loses no message and leaves nothing that ends the worker."""

import contextlib
import json
import threading
from collections.abc import Iterator
from queue import Empty
from typing import Any

import kombu
import pytest
import redis
from celery import Celery, signals
from celery.events import EventDispatcher
from kombu import Connection, Consumer, Exchange, Message, Queue, transport
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import QoS as KombuQoS
from kombu.transport.redis import Transport as KombuTransport

from cli.up.embedded_redis import EmbeddedServer
from config.settings import Settings
from tests.deployment import wait_until
from tests.unit.test_malformed import message
from worker.app import app
from worker.runtime import transport as transport_module
from worker.runtime.transport import QoS

NAMED, NAMELESS = "outbound", ""  # exchanges: Celery's producers mostly use the nameless one
BOTH = pytest.mark.parametrize("exchange", [NAMED, NAMELESS], ids=["named exchange", "nameless exchange"])


@pytest.fixture(autouse=True)
def _no_unrestored_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QoS, "left", set())
    monkeypatch.setattr(QoS, "popped", {})


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """A server that these tests may kill."""
    with EmbeddedServer(appendfsync="always") as one:
        yield one


class Holder:
    """A connection with unacknowledged messages and a fanout control queue, as in a worker."""

    def __init__(
        self,
        url: str,
        exchange: str,
        *,
        transport: object = transport_module.Transport,
        messages: int = 3,
        **options: object,
    ) -> None:
        queue = Queue("polls", Exchange(exchange), routing_key="polls")
        self.held: list[Message] = []
        self.connection = Connection(url, transport=transport, transport_options=options)
        with self.connection.Producer() as producer:
            for number in range(messages):
                declare = [queue] if exchange else []
                producer.publish({"n": number}, exchange=exchange, routing_key="polls", declare=declare)
        self.consumer = Consumer(self.connection, [queue], on_message=self.held.append)
        self.consumer.channel.brpop_timeout = 60  # seconds
        self.consumer.consume()
        control = Queue("control", Exchange("control", type="fanout"), auto_delete=True)
        Consumer(self.connection.channel(), [control]).consume()
        while (
            len(self.held) < messages or not self.consumer.channel._in_poll
        ):  # until it waits for the next message, as a worker does
            with contextlib.suppress(TimeoutError):
                self.connection.drain_events(timeout=0.05)

    def leave(self) -> None:
        """Close the connection as a stopping worker does: no message is being fetched."""
        self.consumer.channel._in_poll = None
        self.connection.close()

    def lose(self) -> None:
        """Drop the connection as Celery's `Consumer.on_connection_error_after_connected` does."""
        self.connection.collect(socket_timeout=5)
        self.connection.close()


def connect_again(url: str, **options: object) -> None:
    """Connect as the worker does, far enough to restore messages."""
    with Connection(url, transport=transport_module.Transport, transport_options=options) as connection:
        connection.connect()
        connection.transport.cycle.on_poll_init(connection.transport.cycle.poller)


def waiting_and_held(url: str) -> tuple[int, int]:
    with redis.Redis.from_url(url) as client:
        return client.llen("polls"), client.hlen("unacked")


@BOTH
def test_unacknowledged_messages_are_restored_by_the_next_connection(redis_url: str, exchange: str) -> None:
    holder = Holder(redis_url, exchange)
    holder.lose()
    assert waiting_and_held(redis_url) == (0, 3)
    connect_again(redis_url)
    assert waiting_and_held(redis_url) == (3, 0)
    assert QoS.left == set()
    connect_again(redis_url)
    assert waiting_and_held(redis_url) == (3, 0)


def test_lost_connection_leaves_no_open_descriptor_or_channel(redis_url: str) -> None:
    holder = Holder(redis_url, NAMELESS)
    transport, channels = holder.connection.transport, list(holder.connection.transport.channels)
    assert transport.cycle.fds
    assert len(channels) == 2
    holder.connection.collect()
    assert not transport.cycle.fds
    assert all(channel.closed for channel in channels)
    assert not transport.channels


def test_messages_of_a_dead_process_are_restored_after_the_visibility_timeout(redis_url: str) -> None:
    Holder(redis_url, NAMELESS).lose()
    QoS.left.clear()
    connect_again(redis_url)
    assert waiting_and_held(redis_url) == (0, 3)
    connect_again(redis_url, visibility_timeout=0)
    assert waiting_and_held(redis_url) == (3, 0)


def test_acknowledged_messages_are_not_restored(redis_url: str) -> None:
    """One task ends before the connection is lost and one after; only the third message is restored."""
    holder = Holder(redis_url, NAMELESS)
    holder.held[0].ack()
    holder.lose()
    assert len(QoS.left) == 2
    holder.held[1].ack()
    connect_again(redis_url)
    assert waiting_and_held(redis_url) == (1, 0)


@BOTH
def test_late_requeue_does_not_delete_the_message(redis_url: str, exchange: str) -> None:
    """A task that could not reach the store ends after the connection was lost: `Reject(requeue=True)`."""
    holder = Holder(redis_url, exchange, messages=1)
    holder.lose()
    connect_again(redis_url)  # restores the message, so another worker may have it by the time of the requeue
    holder.held[0].reject(requeue=True)
    assert waiting_and_held(redis_url) == (1, 0)
    connect_again(redis_url)
    assert waiting_and_held(redis_url) == (1, 0)


@BOTH
def test_message_requeued_without_a_connection_is_restored(redis_url: str, exchange: str) -> None:
    holder = Holder(redis_url, exchange, messages=1)
    holder.lose()
    holder.held[0].reject(requeue=True)
    assert waiting_and_held(redis_url) == (0, 1)
    connect_again(redis_url)
    assert waiting_and_held(redis_url) == (1, 0)


@BOTH
def test_dropping_a_connection_sends_nothing_to_an_unavailable_redis(server: EmbeddedServer, exchange: str) -> None:
    holder = Holder(server.url, exchange)
    server.kill()
    holder.lose()
    with pytest.raises(redis.ConnectionError):  # which Celery expects from an acknowledgement and logs
        holder.held[0].ack()
    server.restart()
    holder.held[1].ack()
    connect_again(server.url)
    assert waiting_and_held(server.url) == (2, 0)


def test_interrupted_restore_leaves_messages_to_the_next_connection(server: EmbeddedServer) -> None:
    holder = Holder(server.url, NAMELESS)
    holder.lose()
    connection = Connection(server.url, transport=transport_module.Transport)
    channel = connection.channel()
    server.kill()
    with pytest.raises(redis.ConnectionError):
        channel.qos.restore_visible()
    connection.collect()
    server.restart()
    connect_again(server.url)
    assert waiting_and_held(server.url) == (3, 0)


@pytest.mark.parametrize("requeue", [None, True, False], ids=["acknowledged", "requeued", "dropped"])
def test_failed_acknowledgement_frees_the_prefetch_slot(server: EmbeddedServer, requeue: bool | None) -> None:
    """Otherwise a worker would stop fetching for good; the fence drops duplicate deliveries."""
    holder = Holder(server.url, NAMELESS)
    qos = holder.consumer.channel.qos
    qos.prefetch_count = 3
    assert not qos.can_consume()
    with redis.Redis.from_url(server.url) as client:
        client.replicaof("127.0.0.1", 1)
        for message in holder.held:
            with pytest.raises(redis.ReadOnlyError):
                message.ack() if requeue is None else message.reject(requeue=requeue)
        assert qos.can_consume_max_estimate() == 3
        client.replicaof("NO", "ONE")
    qos.restore_visible()
    assert waiting_and_held(server.url) == (3, 0)
    assert QoS.left == set()


@BOTH
def test_message_that_could_not_be_recorded_returns_to_its_queue(server: EmbeddedServer, exchange: str) -> None:
    """kombu fetches and records a message in two steps; between them it exists in this process only."""
    holder = Holder(server.url, exchange, messages=1)
    message, channel = holder.held[0], holder.consumer.channel
    message.ack()
    assert waiting_and_held(server.url) == (0, 0)
    server.kill()
    with pytest.raises(redis.ConnectionError):
        channel.qos.append(message, message.delivery_tag)
    holder.lose()
    server.restart()
    connect_again(server.url)
    assert waiting_and_held(server.url) == (1, 0)
    assert QoS.popped == {}


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
        "ValidationError (id)",
        "ValidationError (2)",
        "ValidationError (properties)",
    ]
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


def test_connection_lost_while_waiting_for_a_message_is_closed(server: EmbeddedServer) -> None:
    """Otherwise the event loop would read it repeatedly."""
    holder = Holder(server.url, NAMELESS, messages=0)
    channel = holder.consumer.channel
    waiting = channel._in_poll
    server.kill()
    with pytest.raises(redis.ConnectionError):
        channel._brpop_read()
    assert (waiting._sock, channel._in_poll) == (None, None)
    holder.lose()


def test_wait_without_a_message_raises_empty(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = Holder(redis_url, NAMELESS, messages=0)
    channel = holder.consumer.channel
    with monkeypatch.context() as patch:
        patch.setattr(channel.client, "parse_response", lambda *_, **__: None)
        with pytest.raises(Empty):
            channel._brpop_read()
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


# -- faults of plain kombu and Celery: if one of these tests fails, run tests/faults without the workaround ------------


def test_plain_kombu_raises_when_a_connection_is_lost(server: EmbeddedServer) -> None:
    """Fixed by `Transport._collect`, `Channel.abandon` and the client that outlives its channel."""
    holder = Holder(server.url, NAMELESS, transport=KombuTransport)
    server.kill()
    with pytest.raises(AttributeError, match="hostname"):  # this ends the worker process
        holder.lose()
    with pytest.raises(AttributeError, match="hostname"):  # and so does this, a little later
        holder.held[0].ack()


def test_plain_kombu_keeps_the_prefetch_slot_after_a_failed_acknowledgement(server: EmbeddedServer) -> None:
    """Fixed by `QoS.ack` and `QoS.reject`."""
    holder = Holder(server.url, NAMELESS, transport=KombuTransport)
    qos = holder.consumer.channel.qos
    qos.prefetch_count = 3
    with redis.Redis.from_url(server.url) as client:
        client.replicaof("127.0.0.1", 1)
        for message in holder.held:
            with pytest.raises(redis.ReadOnlyError):
                message.ack()
        client.replicaof("NO", "ONE")
    assert not qos.can_consume(), "it fetches no more messages"
    holder.leave()


def test_plain_kombu_loses_a_message_that_it_cannot_record(server: EmbeddedServer) -> None:
    """Fixed by `QoS.append`: the trigger would be lost and its call never made."""
    holder = Holder(server.url, NAMELESS, transport=KombuTransport, messages=1)
    message, channel = holder.held[0], holder.consumer.channel
    message.ack()
    server.kill()
    with pytest.raises(redis.ConnectionError):
        channel.qos.append(message, message.delivery_tag)
    server.restart()
    with Connection(server.url, transport=KombuTransport) as connection:
        connection.connect()
        connection.transport.cycle.on_poll_init(connection.transport.cycle.poller)
    assert waiting_and_held(server.url) == (0, 0)


def test_plain_kombu_deletes_a_message_requeued_after_its_channel_closed(redis_url: str) -> None:
    """Fixed by `QoS.restore_by_tag`: `Reject(requeue=True)` of a trigger that could not reach the store."""

    class AlmostOurs(transport_module.Channel):
        QoS = KombuQoS

        def abandon(self) -> None:
            self._in_poll = None
            self.qos._delivered.clear()
            self.close()

    class Almost(transport_module.Transport):
        Channel = AlmostOurs

    holder = Holder(redis_url, NAMED, transport=Almost, messages=1)
    holder.lose()
    assert waiting_and_held(redis_url) == (0, 1)
    with contextlib.suppress(AttributeError):
        holder.consumer.channel.qos.restore_by_tag(holder.held[0].delivery_tag)
    assert waiting_and_held(redis_url)[0] == 0, "it is not restored"


def test_s41_plain_kombu_treats_a_demoted_server_as_a_program_error() -> None:
    """Fixed by `Transport.connection_errors` (S41): the worker reconnects instead of exiting."""
    assert not issubclass(redis.ReadOnlyError, KombuTransport.connection_errors)
    assert issubclass(redis.ReadOnlyError, transport_module.Transport.connection_errors)


def test_plain_celery_blocks_the_event_loop_with_a_heartbeat(server: EmbeddedServer) -> None:
    """Fixed by `Dispatcher.send`: Celery retries until Redis is back, and the loop handles not even SIGTERM."""
    with (
        Celery(broker=server.url) as other,
        other.connection_for_write() as connection,
        EventDispatcher(connection, app=other) as dispatcher,
    ):
        dispatcher.send("worker-online")
        server.kill()
        heartbeat = threading.Thread(
            target=dispatcher.send, args=["worker-heartbeat"], kwargs={"retry": True}, daemon=True
        )
        heartbeat.start()
        heartbeat.join(3)
        assert heartbeat.is_alive()
        server.restart()
        heartbeat.join(30)


def test_workarounds_match_the_installed_kombu() -> None:
    """They use private names of kombu: for another version, read its source and run the fault tests."""
    assert kombu.__version__.startswith(f"{transport_module.MADE_FOR_KOMBU}.")


@pytest.mark.parametrize(("version", "warned"), [(kombu.__version__, False), ("5.8.0", True), ("5.70.1", True)])
def test_worker_warns_about_an_untested_kombu_version(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, version: str, warned: bool
) -> None:
    monkeypatch.setattr(kombu, "__version__", version)
    monkeypatch.setattr("worker.app._settings", Settings(api_base_url="http://127.0.0.1:1"))
    signals.celeryd_init.send(sender="w@host")
    assert any(f"kombu {version} is installed" in line for line in caplog.messages) is warned


def test_channel_keeps_one_synchronous_client(redis_url: str) -> None:
    with Connection(redis_url, transport=transport_module.Transport) as connection:
        channel = connection.channel()
        assert channel._create_client() is channel._create_client()
        assert channel._create_client(asynchronous=True) is not channel._create_client()


def test_install_applies_to_every_redis_url() -> None:
    """Even after kombu has cached its own transport."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "kombu.transport.redis:Transport"
        transport._transport_cache.pop(scheme, None)
        assert type(Connection(f"{scheme}://127.0.0.1:1/0").transport) is KombuTransport
    transport_module.install()
    for scheme in ("redis", "rediss"):
        assert type(Connection(f"{scheme}://127.0.0.1:1/0").transport) is transport_module.Transport


def test_application_sends_events_by_this_dispatcher() -> None:
    with app.connection_for_write() as connection:
        assert isinstance(app.events.Dispatcher(connection, enabled=False), transport_module.Dispatcher)


def test_heartbeat_does_not_block_the_worker_while_redis_is_unavailable(server: EmbeddedServer) -> None:
    """Celery retries a heartbeat until it is sent, in the event loop that should reconnect."""
    with (
        Celery(broker=server.url, events="worker.runtime.transport:Events") as other,
        other.connection_for_write() as connection,
        other.events.Dispatcher(connection) as dispatcher,
    ):
        dispatcher.send("worker-online")
        server.kill()
        heartbeat = threading.Thread(
            target=dispatcher.send, args=["worker-heartbeat"], kwargs={"retry": True}, daemon=True
        )
        heartbeat.start()
        heartbeat.join(30)
        assert not heartbeat.is_alive()
        assert len(dispatcher._outbound_buffer) == 1
        server.restart()
        dispatcher.flush()
        assert len(dispatcher._outbound_buffer) == 0


def test_install_applies_to_results_of_every_redis_url(redis_url: str) -> None:
    """Without callwatch's option the address is the one that Celery has read."""
    transport_module.install()
    with Celery(backend=redis_url, set_as_current=False) as other:
        assert type(other.backend) is transport_module.Results
        assert other.backend.client.ping()

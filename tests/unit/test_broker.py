"""A broker connection that is lost takes no message along and leaves nothing behind that could end the worker."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import kombu
import pytest
import redis
from celery import Celery
from kombu import Connection, Consumer, Exchange, Message, Queue, transport
from kombu.asynchronous import Hub
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Transport as KombuTransport

from cli.embedded import EmbeddedServer
from worker import broker
from worker.app import app
from worker.holding import QoS

NAMED, NAMELESS = "outbound", ""  # exchanges: Celery's producers mostly use the nameless one, others name theirs
BOTH = pytest.mark.parametrize("exchange", [NAMED, NAMELESS], ids=["named exchange", "nameless exchange"])


@pytest.fixture(autouse=True)
def _nothing_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QoS, "left", set())
    monkeypatch.setattr(QoS, "popped", {})


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """A server that these tests may harm."""
    with EmbeddedServer(appendfsync="always") as one:
        yield one


class Holder:
    """A connection that holds messages as a worker holds polls, with a fanout queue beside them for its control."""

    def __init__(
        self, url: str, exchange: str, *, transport: object = broker.Transport, messages: int = 3, **options: object
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
        while len(self.held) < messages or not self.consumer.channel._in_poll:  # as a worker: waiting for the next one
            with contextlib.suppress(TimeoutError):
                self.connection.drain_events(timeout=0.05)

    def leave(self) -> None:
        """Close the connection in order, as a worker does that was asked to stop: nothing is fetched meanwhile."""
        self.consumer.channel._in_poll = None
        self.connection.close()

    def lose(self) -> None:
        """Let go of the connection, in the words of Celery's `Consumer.on_connection_error_after_connected`."""
        self.connection.collect(socket_timeout=5)
        self.connection.close()


def connect_again(url: str, **options: object) -> None:
    """Connect as the worker does, far enough for messages to be put back."""
    with Connection(url, transport=broker.Transport, transport_options=options) as connection:
        connection.connect()
        connection.transport.cycle.on_poll_init(connection.transport.cycle.poller)


def waiting_and_held(url: str) -> tuple[int, int]:
    with redis.Redis.from_url(url) as client:
        return client.llen("polls"), client.hlen("unacked")


@BOTH
def test_what_a_lost_connection_held_is_put_back_by_the_next(redis_url: str, exchange: str) -> None:
    holder = Holder(redis_url, exchange)
    holder.lose()
    assert waiting_and_held(redis_url) == (0, 3)
    connect_again(redis_url)
    assert waiting_and_held(redis_url) == (3, 0)
    assert QoS.left == set()
    connect_again(redis_url)
    assert waiting_and_held(redis_url) == (3, 0)


def test_nothing_of_a_lost_connection_is_left_open(redis_url: str) -> None:
    holder = Holder(redis_url, NAMELESS)
    transport, channels = holder.connection.transport, list(holder.connection.transport.channels)
    assert transport.cycle.fds
    assert len(channels) == 2
    holder.connection.collect()
    assert not transport.cycle.fds
    assert all(channel.closed for channel in channels)
    assert not transport.channels


def test_what_a_dead_process_held_comes_back_by_the_visibility_time_out(redis_url: str) -> None:
    Holder(redis_url, NAMELESS).lose()
    QoS.left.clear()
    connect_again(redis_url)
    assert waiting_and_held(redis_url) == (0, 3)
    connect_again(redis_url, visibility_timeout=0)
    assert waiting_and_held(redis_url) == (3, 0)


def test_what_was_acknowledged_does_not_come_back(redis_url: str) -> None:
    """One task ends before the connection is lost, one after: only the third is put back."""
    holder = Holder(redis_url, NAMELESS)
    holder.held[0].ack()
    holder.lose()
    assert len(QoS.left) == 2
    holder.held[1].ack()
    connect_again(redis_url)
    assert waiting_and_held(redis_url) == (1, 0)


@BOTH
def test_a_trigger_that_is_handed_back_late_is_not_deleted(redis_url: str, exchange: str) -> None:
    """A task that could not reach the store ends after the connection was lost: `Reject(requeue=True)`."""
    holder = Holder(redis_url, exchange, messages=1)
    holder.lose()
    connect_again(redis_url)  # here it is put back, and somebody else may get it: handing it back must not harm
    holder.held[0].reject(requeue=True)
    assert waiting_and_held(redis_url) == (1, 0)
    connect_again(redis_url)
    assert waiting_and_held(redis_url) == (1, 0)


@BOTH
def test_a_message_handed_back_while_there_is_no_connection_comes_back(redis_url: str, exchange: str) -> None:
    holder = Holder(redis_url, exchange, messages=1)
    holder.lose()
    holder.held[0].reject(requeue=True)
    assert waiting_and_held(redis_url) == (0, 1)
    connect_again(redis_url)
    assert waiting_and_held(redis_url) == (1, 0)


@BOTH
def test_letting_go_says_not_a_word_to_a_redis_that_is_away(server: EmbeddedServer, exchange: str) -> None:
    holder = Holder(server.url, exchange)
    server.kill()
    holder.lose()
    with pytest.raises(redis.ConnectionError):  # which Celery expects of an acknowledgement, and logs
        holder.held[0].ack()
    server.restart()
    holder.held[1].ack()
    connect_again(server.url)
    assert waiting_and_held(server.url) == (2, 0)


def test_a_connection_that_breaks_while_messages_are_put_back_leaves_them_for_the_next(server: EmbeddedServer) -> None:
    holder = Holder(server.url, NAMELESS)
    holder.lose()
    connection = Connection(server.url, transport=broker.Transport)
    channel = connection.channel()
    server.kill()
    with pytest.raises(redis.ConnectionError):
        channel.qos.restore_visible()
    connection.collect()
    server.restart()
    connect_again(server.url)
    assert waiting_and_held(server.url) == (3, 0)


@pytest.mark.parametrize("requeue", [None, True, False], ids=["acknowledged", "handed back", "dropped"])
def test_a_message_whose_end_redis_did_not_take_frees_its_place(server: EmbeddedServer, requeue: bool | None) -> None:
    """Otherwise a worker whose acknowledgements fail fetches nothing any more, for good; the fence drops the copies."""
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
def test_a_message_that_redis_could_not_note_goes_back_to_its_queue(server: EmbeddedServer, exchange: str) -> None:
    """kombu fetches a message and notes it in two steps; between them it is in this process alone."""
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


SWEPT: dict[str, Any] = {"swept_queues": ("polls",)}


@BOTH
def test_s28_what_the_sweep_publishes_again_is_noted_in_this_process_alone(redis_url: str, exchange: str) -> None:
    holder = Holder(redis_url, exchange, **SWEPT)
    assert waiting_and_held(redis_url) == (0, 0)
    holder.held[0].ack()
    holder.held[1].reject()
    assert waiting_and_held(redis_url) == (0, 0)
    holder.held[2].reject(requeue=True)  # and the connection, which waits for messages, has it again
    while len(holder.held) < 4:
        holder.connection.drain_events(timeout=5)
    holder.leave()
    assert waiting_and_held(redis_url) == (1, 0), "what is held is put back once, and what was done with never"


@BOTH
def test_a_worker_that_leaves_in_order_hands_its_polls_back(redis_url: str, exchange: str) -> None:
    holder = Holder(redis_url, exchange, **SWEPT)
    holder.held[0].ack()
    holder.leave()
    assert waiting_and_held(redis_url) == (2, 0)


@BOTH
def test_polls_of_a_lost_connection_are_put_back_by_the_next(server: EmbeddedServer, exchange: str) -> None:
    """Also one that was handed back in vain; not those that ended meanwhile."""
    holder = Holder(server.url, exchange, messages=5, **SWEPT)
    server.kill()
    holder.held[0].ack()
    with pytest.raises(redis.ConnectionError):
        holder.held[1].reject(requeue=True)
    holder.lose()
    holder.held[2].ack()
    holder.held[3].reject(requeue=True)
    assert len(QoS.popped) == 3
    server.restart()
    connect_again(server.url, **SWEPT)
    assert waiting_and_held(server.url) == (3, 0)
    assert QoS.popped == {}
    connect_again(server.url, **SWEPT)
    assert waiting_and_held(server.url) == (3, 0)


class Turns:
    """A worker's loop: what it listens to, and what it was asked to do later."""

    def __init__(self) -> None:
        self.readers: dict[int, object] = {}
        self.added: list[int] = []
        self.later: list[Callable[[], None]] = []

    def add_reader(self, fd: int, callback: object, *args: object) -> None:
        self.added.append(fd)
        self.readers[fd] = callback, args

    def call_later(self, _seconds: float, callback: Callable[[], None]) -> None:
        self.later.append(callback)


def test_polls_that_wait_are_fetched_together_and_then_not_for_a_moment(redis_url: str) -> None:
    """Whatever the worker holds; an entry that is no message keeps none of the others back."""
    holder = Holder(redis_url, NAMELESS, messages=1, **SWEPT)
    channel, turns = holder.consumer.channel, Turns()
    holder.connection.transport.loop = turns
    with redis.Redis.from_url(redis_url) as client:
        with holder.connection.Producer() as producer:
            for number in range(6):
                producer.publish({"n": number}, routing_key="polls")
            client.linsert("polls", "BEFORE", client.lindex("polls", -2), b"\xff no JSON")
        while len(holder.held) < 2:
            with contextlib.suppress(TimeoutError):
                holder.connection.drain_events(timeout=1)
        assert [message.payload["n"] for message in holder.held[1:]] == [0, 1, 2, 3, 4, 5]
        assert client.llen("polls") == 0
        assert client.llen("outbound.malformed") == 1
    holder.connection.transport.cycle.on_poll_start()
    assert not channel._in_poll, "it pauses"
    (go_on,) = turns.later
    go_on()
    holder.connection.transport.cycle.on_poll_start()
    assert channel._in_poll
    holder.leave()


def test_a_worker_without_polls_fetches_without_a_pause(redis_url: str) -> None:
    """What it fetches is somebody's trigger."""
    holder = Holder(redis_url, NAMELESS, messages=1, swept_queues=("other",))
    turns = Turns()
    holder.connection.transport.loop = turns
    with holder.connection.Producer() as producer:
        producer.publish({"n": 1}, routing_key="polls")
    while len(holder.held) < 2:
        with contextlib.suppress(TimeoutError):
            holder.connection.drain_events(timeout=1)
    holder.connection.transport.cycle.on_poll_start()
    assert holder.consumer.channel._in_poll
    assert turns.later == []
    holder.leave()


def test_a_workers_loop_serves_the_connection(redis_url: str) -> None:
    """A loop as Celery's worker has it: what waits is brought by its turns, each socket is added once."""
    holder = Holder(redis_url, NAMELESS, messages=0, **SWEPT)
    hub = Hub()
    added: list[int] = []
    add_reader = hub.add_reader

    def add(fd: int, *args: object) -> None:
        added.append(fd)
        add_reader(fd, *args)

    hub.add_reader = add
    holder.connection.register_with_event_loop(hub)
    assert holder.connection.transport.loop is hub
    for number in range(3):
        with holder.connection.Producer() as producer:
            producer.publish({"n": number}, routing_key="polls")
        while len(holder.held) <= number:
            hub.run_once()
    assert len(added) == len(set(added))
    holder.leave()
    hub.close()


HELD = '{"body": "", "properties": {"delivery_tag": "t-1", "delivery_info": {"exchange": "", "routing_key": "x"}}}'


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param("once upon a time", id="no JSON"),
        pytest.param("17", id="no message"),
        pytest.param('{"properties": {"delivery_tag": "t-1"}}', id="a message without its place"),
        pytest.param('{"properties": {}}', id="a message without a tag"),
        pytest.param(HELD, id="held before it could not be taken apart"),
    ],
)
def test_what_nobody_can_take_apart_is_put_aside_and_the_next_comes(
    redis_url: str, caplog: pytest.LogCaptureFixture, entry: str
) -> None:
    """S37 S38: kept for a person to look at for a day, quoted nowhere, and handed to no other worker."""
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
    assert line.startswith(f"malformed message of {len(entry)} characters put aside in outbound.malformed: ")
    holder.held[0].ack()
    holder.leave()
    assert waiting_and_held(redis_url) == (0, 0)


def test_a_socket_is_added_to_the_loop_once_for_each_that_listens() -> None:
    turns, listeners = Turns(), [print, repr]
    loop = broker.Loop(turns)
    for listener in (0, 0, 1, 1, 0):
        loop.add_reader(7, listeners[listener], 7)
    assert turns.added == [7, 7, 7]
    assert loop.readers is turns.readers


def test_kombu_itself_still_fails(server: EmbeddedServer) -> None:
    """Where this fails, kombu has mended it: try tests/faults/test_redis_away.py without the subclasses in the shim."""
    holder = Holder(server.url, NAMELESS, transport=KombuTransport)
    server.kill()
    with pytest.raises(AttributeError, match="hostname"):  # inside the worker this is the end of the process
        holder.lose()
    with pytest.raises(AttributeError, match="hostname"):  # and so is this, a little later
        holder.held[0].ack()


def test_the_shim_is_made_for_this_kombu() -> None:
    """It uses names that kombu keeps to itself: with another version read its sources and run the fault tests again."""
    assert kombu.__version__.startswith(f"{broker.MADE_FOR_KOMBU}.")


def test_a_channel_keeps_its_client(redis_url: str) -> None:
    with Connection(redis_url, transport=broker.Transport) as connection:
        channel = connection.channel()
        assert channel._create_client() is channel._create_client()
        assert channel._create_client(asynchronous=True) is not channel._create_client()


def test_every_redis_url_gets_it() -> None:
    """Also where kombu was used before."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "kombu.transport.redis:Transport"
        transport._transport_cache.pop(scheme, None)
        assert type(Connection(f"{scheme}://127.0.0.1:1/0").transport) is KombuTransport
    broker.install()
    for scheme in ("redis", "rediss"):
        assert type(Connection(f"{scheme}://127.0.0.1:1/0").transport) is broker.Transport


def test_the_applications_events_are_sent_by_that_dispatcher() -> None:
    with app.connection_for_write() as connection:
        assert isinstance(app.events.Dispatcher(connection, enabled=False), broker.Dispatcher)


def test_a_heartbeat_does_not_hold_up_the_worker_while_redis_is_away(server: EmbeddedServer) -> None:
    """Celery asks for a heartbeat to be tried until it is sent, in the loop that should connect again."""
    with (
        Celery(broker=server.url, events="worker.broker:Events") as other,
        other.connection_for_write() as connection,
        other.events.Dispatcher(connection) as dispatcher,
    ):
        dispatcher.send("worker-online")
        server.kill()
        beat = threading.Thread(target=dispatcher.send, args=["worker-heartbeat"], kwargs={"retry": True}, daemon=True)
        beat.start()
        beat.join(30)
        assert not beat.is_alive()
        assert len(dispatcher._outbound_buffer) == 1
        server.restart()
        dispatcher.flush()
        assert len(dispatcher._outbound_buffer) == 0

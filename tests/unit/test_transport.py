"""Test the kombu transport: a lost connection loses no message and leaves nothing that ends the worker."""

import threading
from queue import Empty

import pytest
import redis
from celery import Celery
from kombu import Connection, transport
from kombu.asynchronous import Hub
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Transport as KombuTransport

from cli.up.embedded_redis import EmbeddedServer
from tests.holder import NAMED, NAMELESS, Holder, connect_again, waiting_and_held
from worker.app import app
from worker.runtime import transport as transport_module
from worker.runtime.transport import QoS

pytestmark = pytest.mark.usefixtures("no_unrestored_messages")

BOTH = pytest.mark.parametrize("exchange", [NAMED, NAMELESS], ids=["named exchange", "nameless exchange"])


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


def test_s41_refused_first_write_leaves_no_channel(server: EmbeddedServer) -> None:
    """Else a worker grows by 100 KB with each attempt to connect, until Redis takes writes again."""
    with redis.Redis.from_url(server.url) as operator, Connection(server.url) as connection:
        operator.config_set("min-replicas-to-write", 1)
        connection.default_channel  # noqa: B018 - opens the channel
        transport, channels = connection.transport, list(connection.transport.channels)
        assert channels
        hub = Hub()
        with pytest.raises(connection.connection_errors):
            transport.register_with_event_loop(connection.connection, hub)
        hub.close()
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


def test_s28_message_of_a_leased_queue_is_counted_and_not_recorded(redis_url: str) -> None:
    """The lease of its polls replaces it if its worker dies, so the two transactions with Redis are saved."""
    holder = Holder(redis_url, NAMELESS, leased_queues=("polls",))
    qos = holder.consumer.channel.qos
    qos.prefetch_count = 3
    assert waiting_and_held(redis_url) == (0, 0)
    assert not qos.can_consume()
    holder.held[0].ack()
    assert qos.can_consume()
    assert waiting_and_held(redis_url) == (0, 0)
    holder.lose()


def test_stopping_worker_returns_messages_of_a_leased_queue(redis_url: str) -> None:
    """Their polls run before the leases end."""
    holder = Holder(redis_url, NAMELESS, leased_queues=("polls",))
    holder.held.pop().ack()
    holder.leave()
    assert waiting_and_held(redis_url) == (2, 0)


def test_requeued_message_of_a_leased_queue_is_delivered_again(redis_url: str) -> None:
    holder = Holder(redis_url, NAMELESS, messages=1, leased_queues=("polls",))
    holder.held[0].reject(requeue=True)
    holder.connection.drain_events(timeout=30)
    assert [message.payload for message in holder.held] == [{"n": 0}, {"n": 0}]
    holder.lose()


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


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # by Celery
@pytest.mark.parametrize("errors", [1, 2])
def test_result_is_stored_although_an_idle_connection_died(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, errors: int
) -> None:
    """S8 S12: the outcome of a trigger that was carried out reaches the back end; Redis may still be away."""
    with Celery("results", broker=redis_url, backend=redis_url) as own:
        backend, raised = own.backend, iter([redis.TimeoutError("no answer")] * errors)
        read = backend.client.get

        def read_late(key: str) -> object:
            for error in raised:
                raise error
            return read(key)

        monkeypatch.setattr(backend.client, "get", read_late)
        if errors == 2:
            with pytest.raises(redis.TimeoutError):
                backend.store_result("T-1", {"outcome": "started"}, "SUCCESS")
        else:
            backend.store_result("T-1", {"outcome": "started"}, "SUCCESS")
            assert own.AsyncResult("T-1").get(timeout=5) == {"outcome": "started"}
        backend.client.close()

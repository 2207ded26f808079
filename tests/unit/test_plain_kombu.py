"""Test the faults of plain kombu and Celery. If one of these tests fails, run tests/faults without the workaround."""

import contextlib
import threading

import kombu
import pytest
import redis
from celery import Celery, signals
from celery.events import EventDispatcher
from kombu import Connection
from kombu.transport.redis import QoS as KombuQoS
from kombu.transport.redis import Transport as KombuTransport

from cli.up.embedded_redis import EmbeddedServer
from config.settings import Settings
from tests.holder import NAMED, NAMELESS, Holder, waiting_and_held
from worker.runtime import transport as transport_module

pytestmark = pytest.mark.usefixtures("no_unrestored_messages")


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

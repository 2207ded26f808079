"""Test that connections leave a demoted server, follow the primary, and log in with a rotated password (S41)."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery
from redis.exceptions import MasterDownError, ReadOnlyError

from cli.up.embedded_redis import HOST, EmbeddedServer
from config.settings import Settings
from tests.contract.conftest import TERMS
from worker.core.interfaces import StoreUnavailable
from worker.runtime import transport
from worker.runtime.celery_config import celery_config
from worker.store import Keys, RedisStore, connect
from worker.store.primary import Primary, is_demoted, primary_of

OTHER_PASSWORD = "another-password"


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """A server that a test may demote; each test has its own `Primary`."""
    primary_of.cache_clear()
    with EmbeddedServer(appendfsync="no") as one:
        yield one


@pytest.fixture
def operator(server: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        yield client


def demote(operator: redis.Redis) -> None:
    operator.replicaof(HOST, 1)


def promote(operator: redis.Redis) -> None:
    operator.replicaof("NO", "ONE")


def test_s41_every_thread_leaves_a_demoted_server_after_one_refused_write(
    server: EmbeddedServer, operator: redis.Redis
) -> None:
    store = RedisStore(connect(server.url), Keys("t"), TERMS)
    other = connect(server.url)
    ids = [client.client_id() for client in (store.client, other)]
    demote(operator)
    with pytest.raises(StoreUnavailable, match=f"{server.port} takes no writes: You can't write against a read only"):
        store.resume()
    assert other.client_id() != ids[1]  # a command that a replica carries out, over a new connection
    promote(operator)
    assert store.resume() is False
    store.client.close()
    other.close()


def test_s41_write_is_sent_again_at_once_if_the_address_leads_to_the_new_primary(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that met the demoted server is the one that follows the address."""
    with EmbeddedServer(appendfsync="no") as old, redis.Redis.from_url(old.url) as operator:
        operator.config_set("requirepass", server.password)
        client = connect(server.url)
        monkeypatch.setattr(Primary, "place", lambda _: (HOST, old.port))
        assert client.set("a", 1)
        operator.auth(server.password)
        demote(operator)
        monkeypatch.setattr(Primary, "place", lambda _: (HOST, server.port))
        assert client.set("b", 1)
        assert client.get("a") is None
        client.close()


def test_s41_transaction_never_moves_to_another_server_between_its_commands(server: EmbeddedServer) -> None:
    client = connect(server.url)
    with client.pipeline() as pipeline:
        pipeline.watch("a")  # type: ignore[no-untyped-call]
        primary_of(server.url).generation += 1
        with pytest.raises(redis.WatchError):
            pipeline.get("a")
    assert client.set("a", 1)
    client.close()


def test_s41_burst_of_refused_writes_counts_as_one(server: EmbeddedServer, operator: redis.Redis) -> None:
    """Each connection of the same generation reports the same demotion."""
    clients = [connect(server.url, retries=0) for _ in range(3)]
    for client in clients:
        client.ping()
    demote(operator)
    for client in clients:
        connection = client.connection_pool.get_connection()
        connection.send_command("SET", "a", 1)  # type: ignore[no-untyped-call]
        with pytest.raises(redis.ConnectionError):
            connection.read_response()
        client.connection_pool.release(connection)
        primary_of(server.url).generation = 0  # the others have sent their commands before
        client.close()
    with pytest.raises(redis.ConnectionError, match="takes no writes"):
        primary_of(server.url).examine(ReadOnlyError("x"), generation=-1)
    assert primary_of(server.url).generation == 0


@pytest.mark.parametrize(
    ("error", "demoted"),
    [
        (ReadOnlyError("You can't write against a read only replica."), True),
        (MasterDownError("Link with MASTER is down and replica-serve-stale-data is set to 'no'."), True),
        (redis.ResponseError("Error running script: @user_script:1: -READONLY You can't write"), True),
        (redis.ResponseError("NOREPLICAS Not enough good replicas to write."), True),
        (redis.ResponseError("UNBLOCKED force unblock from blocking operation, instance state changed"), True),
        (redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), False),
        (redis.ConnectionError("READONLY "), False),
    ],
)
def test_s41_replies_that_show_a_demoted_server(error: redis.RedisError, demoted: bool) -> None:
    assert is_demoted(error) is demoted


def test_s41_demotion_is_logged_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    one = Primary("redis://h:1/0")
    for _ in range(3):
        with pytest.raises(redis.ConnectionError):
            one.examine(ReadOnlyError("no"), one.generation)
    assert one.generation == 3
    assert caplog.messages == ["Redis at h:1 takes no writes, connecting again: no"]


# -- broker and results ------------------------------------------------------------------------------------------------


def application(server: EmbeddedServer, **settings: Any) -> Celery:
    transport.install()
    app = Celery(set_as_current=False)
    app.conf.update(celery_config(Settings(redis_url=server.url, **settings)))
    return app


def test_s41_publishing_leaves_a_demoted_broker(server: EmbeddedServer, operator: redis.Redis) -> None:
    with application(server) as app, app.connection_for_write() as connection:
        queue = connection.SimpleQueue("q")
        queue.put("one")
        demote(operator)
        with pytest.raises(connection.connection_errors):
            queue.put("two")
        promote(operator)
        queue.put("three")
        assert operator.llen("q") == 2
        assert primary_of(server.url).generation > 0


def test_s41_worker_that_waits_for_messages_leaves_a_demoted_broker(
    server: EmbeddedServer, operator: redis.Redis
) -> None:
    """BRPOP ends with an error, which Celery takes for a lost connection."""
    with application(server) as app, app.connection_for_read() as connection:
        consumer = connection.Consumer(connection.SimpleQueue("q").queue)
        consumer.consume()
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.1)
        demote(operator)
        with pytest.raises(connection.connection_errors):
            connection.drain_events(timeout=10)

"""Test that connections leave a demoted server and follow the primary (S41)."""

import threading

import pytest
import redis
from redis.exceptions import MasterDownError, ReadOnlyError

from cli.up.embedded_redis import HOST, EmbeddedServer
from tests.contract.conftest import TERMS
from tests.contract.primaries import application
from tests.deployment import LIMIT, wait_until
from worker.core.interfaces import StoreUnavailable
from worker.store import Keys, RedisStore, connect
from worker.store.primary import Primary, is_cut_off, is_demoted, primary_of


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


def test_s41_connections_to_a_demoted_server_end_also_in_threads_that_wait(
    server: EmbeddedServer, operator: redis.Redis
) -> None:
    """An idle connection would stay for ever, and a thread would wait for events that never come."""
    waiting, idle, writing = (connect(server.url, retries=0) for _ in range(3))
    idle.ping()
    faults: list[redis.ConnectionError] = []

    def wait() -> None:
        try:
            waiting.xread({"s": "$"}, block=60_000)
        except redis.ConnectionError as fault:
            faults.append(fault)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: operator.info("clients")["blocked_clients"] == 1)
    primary_of(server.url).leave(primary_of(server.url).generation)
    thread.join(LIMIT)
    assert len(faults) == 1
    wait_until(lambda: len(operator.client_list()) == 1)
    assert writing.set("a", 1)
    for client in (waiting, idle, writing):
        client.close()


def test_s41_connection_of_another_process_is_left_to_it(server: EmbeddedServer, operator: redis.Redis) -> None:
    """A forked process shares the sockets of its parent."""
    client = connect(server.url)
    made = client.client_id()
    (connection,) = client.connection_pool._available_connections
    connection.pid += 1
    primary_of(server.url).leave(primary_of(server.url).generation)
    assert made in {int(one["id"]) for one in operator.client_list()}
    connection.pid -= 1
    client.close()


def test_s41_primary_without_enough_replicas_is_asked_for_again_by_one_connection(
    server: EmbeddedServer, operator: redis.Redis
) -> None:
    client, other = connect(server.url), connect(server.url)
    made = other.client_id()
    operator.config_set("min-replicas-to-write", 1)
    with pytest.raises(redis.ConnectionError, match="takes no writes: NOREPLICAS"):
        client.set("a", 1)
    assert other.client_id() == made
    assert is_cut_off(redis.ResponseError("Error running script: @user_script:1: -NOREPLICAS Not enough"))
    for one in (client, other):
        one.close()


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
        (redis.ResponseError("NOREPLICAS Not enough good replicas to write."), False),
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


def test_s41_publishing_leaves_a_demoted_broker(server: EmbeddedServer, operator: redis.Redis) -> None:
    with application(server.url) as app, app.connection_for_write() as connection:
        queue = connection.SimpleQueue("q")
        queue.put("one")
        demote(operator)
        with pytest.raises(connection.connection_errors):
            queue.put("two")
        promote(operator)
        queue.put("three")
        assert operator.llen("q") == 2
        assert primary_of(server.url).generation > 0


def test_s41_idle_connection_that_a_proxy_has_closed_is_replaced_without_an_error(
    server: EmbeddedServer, operator: redis.Redis
) -> None:
    """Managed services close idle connections, some after 60 s."""
    client = connect(server.url)
    with application(server.url) as app, app.connection_for_write() as connection:
        queue = connection.SimpleQueue("q")
        for number in range(2):
            queue.put(number)
            app.backend.client.set("result", number)
            client.set("a", number)
            assert operator.client_kill_filter(_type="normal", skipme=True) >= 3
        assert operator.llen("q") == 2
    client.close()


def test_s41_worker_that_waits_for_messages_leaves_a_demoted_broker(
    server: EmbeddedServer, operator: redis.Redis
) -> None:
    """BRPOP ends with an error, which Celery takes for a lost connection."""
    with application(server.url) as app, app.connection_for_read() as connection:
        consumer = connection.Consumer(connection.SimpleQueue("q").queue)
        consumer.consume()
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.1)
        demote(operator)
        with pytest.raises(connection.connection_errors):
            connection.drain_events(timeout=10)

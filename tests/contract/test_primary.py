"""Test that connections leave a demoted server, follow the primary, and log in with a rotated password (S41)."""

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from redis.exceptions import AuthenticationError, MasterDownError, NoPermissionError, ReadOnlyError

from cli.up.embedded_redis import HOST, EmbeddedServer, find_binary
from config.secret_files import read_files
from config.settings import Settings
from tests.contract.conftest import TERMS
from tests.deployment import LIMIT, wait_until
from tests.ports import free_port
from worker.core.interfaces import StoreUnavailable
from worker.runtime import transport
from worker.runtime.celery_config import celery_config
from worker.store import Keys, RedisStore, connect
from worker.store.primary import Primary, is_cut_off, is_demoted, primary_of

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


def test_s41_idle_connection_that_a_proxy_has_closed_is_replaced_without_an_error(
    server: EmbeddedServer, operator: redis.Redis
) -> None:
    """Managed services close idle connections, some after 60 s."""
    client = connect(server.url)
    with application(server) as app, app.connection_for_write() as connection:
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
    with application(server) as app, app.connection_for_read() as connection:
        consumer = connection.Consumer(connection.SimpleQueue("q").queue)
        consumer.consume()
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.1)
        demote(operator)
        with pytest.raises(connection.connection_errors):
            connection.drain_events(timeout=10)


# -- passwords ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def secret_file(server: EmbeddedServer, tmp_path: Path) -> Path:
    """The file that the address of the server was read from."""
    file = tmp_path / "redis_url"
    file.write_text(f"{server.url}\n", encoding="utf-8")
    read, faults = read_files({"X_REDIS_URL_FILE": str(file)}, ["redis_url"], prefix="X_")
    assert (read, faults) == ({"redis_url": server.url}, [])
    return file


def rotate(server: EmbeddedServer, operator: redis.Redis, client: redis.Redis) -> None:
    """Change the password, and end all connections of the client."""
    operator.config_set("requirepass", OTHER_PASSWORD)
    client.connection_pool.disconnect()
    assert server.password != OTHER_PASSWORD


def test_s41_rotated_password_is_read_again_when_a_login_fails(
    server: EmbeddedServer, operator: redis.Redis, secret_file: Path
) -> None:
    client, other = connect(server.url), connect(server.url)
    made = other.client_id()
    secret_file.write_text(server.url.replace(server.password, OTHER_PASSWORD), encoding="utf-8")
    rotate(server, operator, client)
    assert client.set("a", 1)
    assert other.client_id() != made
    with application(server) as app, app.connection_for_write() as connection:
        connection.SimpleQueue("q").put("one")
        app.backend.client.ping()
    for one in (client, other):
        one.close()


@pytest.mark.parametrize(
    ("content", "logged"),
    [
        (None, ""),
        ("redis://s3cret", ""),
        ("s3cret", "the file with the address of Redis at 127.0.0.1:{port} is no URL"),
        ("redis://:s3cret@other.example/1", "names another server, which takes a restart"),
    ],
)
def test_s41_unchanged_or_wrong_secret_file_keeps_the_address(
    server: EmbeddedServer,
    operator: redis.Redis,
    secret_file: Path,
    content: str | None,
    logged: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = connect(server.url)
    if content == "redis://s3cret":
        secret_file.unlink()
    elif content:
        secret_file.write_text(content, encoding="utf-8")
    rotate(server, operator, client)
    with pytest.raises(AuthenticationError):
        client.ping()
    assert logged.format(port=server.port) in caplog.text
    assert "s3cret" not in caplog.text
    assert primary_of(server.url).url.location == f"127.0.0.1:{server.port}"
    client.close()


def test_s41_missing_right_is_a_reason_to_read_the_secret_again(
    server: EmbeddedServer, operator: redis.Redis, secret_file: Path
) -> None:
    operator.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all")  # type: ignore[no-untyped-call]
    operator.execute_command("ACL", "SETUSER", "default", "-set")  # type: ignore[no-untyped-call]
    client = connect(server.url)
    with pytest.raises(NoPermissionError):
        client.set("a", 1)
    secret_file.write_text(f"redis://app:pw@{HOST}:{server.port}/0", encoding="utf-8")
    with pytest.raises(NoPermissionError):
        client.set("a", 1)
    assert client.set("a", 1)
    client.close()


# -- Sentinel ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sentinel(server: EmbeddedServer, tmp_path: Path) -> Iterator[int]:
    """A Sentinel that knows the server as `main`; its port. It requires a password of its own."""
    port = free_port()
    file = tmp_path / "sentinel.conf"
    file.write_text(
        f"bind {HOST}\nport {port}\nrequirepass {OTHER_PASSWORD}\nsentinel monitor main {HOST} {server.port} 1\n"
        f"sentinel auth-pass main {server.password}\n",
        encoding="utf-8",
    )
    with (
        (tmp_path / "sentinel.log").open("wb") as log,
        subprocess.Popen((find_binary(), file, "--sentinel"), stdout=log, cwd=tmp_path) as process,
        redis.Redis(HOST, port, password=OTHER_PASSWORD) as client,
    ):
        wait_until(lambda: answers(client))
        yield port
        process.terminate()
        process.wait(LIMIT)


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def address(server: EmbeddedServer, *ports: int, service: str = "main") -> str:
    hosts = ",".join(f"{HOST}:{port}" for port in ports)
    return f"sentinel://:{server.password}@{hosts}/3?service={service}&sentinel_password={OTHER_PASSWORD}"


def test_s41_sentinel_leads_store_broker_and_results_to_the_primary(server: EmbeddedServer, sentinel: int) -> None:
    url = address(server, 1, sentinel)  # the first Sentinel is away
    client = connect(url)
    assert client.set("a", 1)
    primary_of(url)._place = ("former.example", 1)
    client.connection_pool.disconnect()
    assert client.ping()
    assert (primary_of(url)._place, primary_of(url).generation) == ((HOST, server.port), 1)
    assert primary_of(url)._sentinels == ((HOST, sentinel), (HOST, 1))
    transport.install()
    with Celery(set_as_current=False) as app:
        app.conf.update(celery_config(Settings(redis_url=url)))
        with app.connection_for_write() as connection:
            connection.SimpleQueue("q").put("one")
            assert OTHER_PASSWORD not in connection.as_uri() + repr(connection.transport_options)
        app.backend.client.set("b", 1)
    with redis.Redis.from_url(f"{server.url.removesuffix('0')}3") as plain:
        assert {name.decode() for name in plain.keys()} >= {"a", "b", "q"}  # noqa: SIM118 - the command
    client.close()


def test_s41_sentinel_that_refuses_to_answer_is_passed_over(server: EmbeddedServer, sentinel: int) -> None:
    """A missing right, or a server that is no Sentinel; the error is none of the connection."""
    with EmbeddedServer(appendfsync="no") as other, redis.Redis.from_url(other.url) as operator:
        operator.config_set("requirepass", OTHER_PASSWORD)
        with connect(address(server, other.port, sentinel)) as client:
            assert client.set("a", 1)
        with (
            connect(address(server, other.port)) as client,
            pytest.raises(redis.ConnectionError, match=r"^no Sentinel"),
        ):
            client.ping()


@pytest.mark.parametrize("service", ["main", "other"])
def test_s41_without_a_primary_the_fault_is_one_line(server: EmbeddedServer, sentinel: int, service: str) -> None:
    url = address(server, sentinel if service == "other" else 1, service=service)
    with connect(url) as client, pytest.raises(redis.ConnectionError) as fault:
        client.ping()
    why = "they know none of this name that is up" if service == "other" else "they do not answer"
    assert str(fault.value).endswith(f" names a primary of the service {service}: {why}")
    assert OTHER_PASSWORD not in str(fault.value)


def test_s41_connections_to_sentinels_use_tls_where_asked() -> None:
    url = "sentinel://s/0?service=m&sentinel_ssl=true&ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=none"
    options = Primary(url)._sentinel_options()
    assert (options["ssl"], options["ssl_ca_certs"], options["ssl_cert_reqs"]) == (True, "/etc/ca.pem", "none")
    assert Primary(url).options().keys().isdisjoint({"ssl_ca_certs", "ssl_cert_reqs"})  # plain connections to Redis
    assert "ssl" not in Primary("sentinel://s/0?service=m&ssl=true&ssl_ca_certs=/etc/ca.pem")._sentinel_options()


def test_s41_wrong_password_of_the_sentinels_is_named(server: EmbeddedServer, sentinel: int) -> None:
    url = address(server, sentinel).replace(f"sentinel_password={OTHER_PASSWORD}", "sentinel_password=s3cret")
    with connect(url) as client, pytest.raises(redis.ConnectionError, match="they require another sentinel_password"):
        client.ping()


def test_s41_sentinels_without_the_tls_of_the_address_are_named(server: EmbeddedServer, sentinel: int) -> None:
    url = f"{address(server, sentinel)}&sentinel_ssl=true"
    with connect(url) as client, pytest.raises(redis.ConnectionError, match="TLS to them fails, see sentinel_ssl"):
        client.ping()

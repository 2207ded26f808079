"""Test that connections find the primary through Sentinels (S41)."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from cli.up.embedded_redis import HOST, EmbeddedServer, find_binary
from tests.contract.primaries import OTHER_PASSWORD, application
from tests.deployment import LIMIT, wait_until
from tests.ports import free_port
from worker.store import connect
from worker.store.primary import Primary, primary_of


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
    with application(url) as app, app.connection_for_write() as connection:
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

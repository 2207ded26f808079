"""Test that a Redis URL means the same to store, broker and results, and is refused with its fault."""

from typing import Any

import celery
import certifi
import kombu.connection
import pytest
import redis

from config.redis_url import parse_redis_url
from config.settings import Settings
from tests.oneline import fault_of
from worker.runtime import transport
from worker.runtime.celery_config import celery_config
from worker.store import connect

pytestmark = pytest.mark.usefixtures("empty_environment")

URLS = [
    pytest.param("redis://h", {"host": "h", "port": 6379, "db": 0}, id="a host alone"),
    pytest.param("redis://h:1/2", {"host": "h", "port": 1, "db": 2}, id="port and database"),
    pytest.param("redis://[::1]:1/2", {"host": "::1", "port": 1, "db": 2}, id="an IPv6 address"),
    pytest.param("redis://h:1/?db=3", {"host": "h", "port": 1, "db": 3}, id="the database as an option"),
    pytest.param(
        "redis://u%3Ax:p%40%2F%3B%3F@h:1/2",
        {"host": "h", "port": 1, "db": 2, "username": "u:x", "password": "p@/;?"},
        id="a password with every mark",
    ),
    pytest.param("redis://u@h:1/2", {"host": "h", "port": 1, "db": 2, "username": "u"}, id="a user alone"),
    pytest.param("redis://:p+w@h:1/2", {"host": "h", "port": 1, "db": 2, "password": "p+w"}, id="a password alone"),
    pytest.param("unix:///run/r%20s.sock", {"path": "/run/r s.sock", "db": 0}, id="a socket"),
    pytest.param("unix://:p@/run/r.sock?db=4", {"path": "/run/r.sock", "db": 4, "password": "p"}, id="a socket, db"),
    pytest.param(
        "redis+socket://u:p@/run/r.sock?virtual_host=4",
        {"path": "/run/r.sock", "db": 4, "username": "u", "password": "p"},
        id="a socket as kombu spells it",
    ),
    pytest.param(
        f"rediss://:p@h:1/2?ssl_ca_certs={certifi.where()}",
        {"host": "h", "port": 1, "db": 2, "password": "p", "ssl_ca_certs": certifi.where()},
        id="TLS",
    ),
    pytest.param(
        "rediss://h:1/2?ssl_cert_reqs=CERT_NONE", {"host": "h", "port": 1, "db": 2, "tls": "none"}, id="TLS unchecked"
    ),
    pytest.param(
        "sentinel://u:p%2C@s1:1,s2/2?service=main&sentinel_password=s3cret",
        {"host": "s1", "port": 1, "db": 2, "username": "u", "password": "p,"},
        id="Sentinels, of which the first stands in for the primary",
    ),
    pytest.param(
        f"sentinel://s1/2?service=main&ssl=True&ssl_ca_certs={certifi.where()}",
        {"host": "s1", "port": 26379, "db": 2, "tls": "required", "ssl_ca_certs": certifi.where()},
        id="Sentinels, with TLS to Redis",
    ),
]


def in_one_form(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the connection parameters of any client in one form."""
    given = {name: parameters.get(name) for name in ("host", "path", "username", "password", "ssl_ca_certs")}
    checked = str(parameters.get("ssl_cert_reqs", "required")).lower()  # a text or a constant of ssl
    is_tls = issubclass(parameters.get("connection_class", object), redis.SSLConnection)
    return {name: value for name, value in given.items() if value} | {
        "db": parameters.get("db") or 0,
        "port": parameters.get("port", 6379),
        "tls": {"required": "required", "2": "required", "none": "none", "0": "none"}[checked] if is_tls else None,
    }


def of_the_pool(pool: redis.ConnectionPool) -> dict[str, Any]:
    return in_one_form({**pool.connection_kwargs, "connection_class": pool.connection_class})


def of_the_store(settings: Settings) -> dict[str, Any]:
    return of_the_pool(connect(settings.redis_url).connection_pool)


def of_the_broker(settings: Settings, *, asynchronous: bool) -> dict[str, Any]:
    config = celery_config(settings)
    connection: Any = kombu.connection.Connection
    transport.install()
    with connection(config["broker_url"]) as broker:
        unconnected = transport.Channel.__new__(transport.Channel)  # its __init__ would connect
        unconnected.connection = broker.transport
        unconnected.primary = config["broker_transport_options"]["primary"]
        return in_one_form(unconnected._connparams(asynchronous))


def of_the_results(settings: Settings) -> dict[str, Any]:
    transport.install()
    with celery.Celery(set_as_current=False) as app:
        app.conf.update(celery_config(settings))
        return of_the_pool(app.backend.client.connection_pool)


@pytest.mark.parametrize(("url", "expected"), URLS)
def test_a_redis_url_means_the_same_to_store_broker_and_results(url: str, expected: dict[str, Any]) -> None:
    settings = Settings(redis_url=url)
    whole = {"port": 6379, "db": 0, "tls": "required" if url.startswith("rediss") else None} | expected
    assert of_the_store(settings) == whole
    assert of_the_broker(settings, asynchronous=False) == whole
    assert of_the_broker(settings, asynchronous=True) == whole
    assert of_the_results(settings) == whole


def test_sentinels_of_a_url_are_read_in_order() -> None:
    url = parse_redis_url("sentinel://u@s1,[::1]:2,S3:03/1?service=main")
    assert url.sentinels == (("s1", 26379), ("::1", 2), ("s3", 3))
    assert url.service == "main"
    assert parse_redis_url("redis://h").service is None


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("sentinel://s1:1/0", "names no service"),
        ("sentinel://s1:1/0?service=", "has the option service without a value"),
        ("sentinel://s1:1,/0?service=m", "has no host"),
        ("sentinel://:s3cret@s1:1,s2:s3cret/0?service=m", "has a host or port that cannot be read"),
        (
            "sentinel://s1:1/0?service=m&passwort=s3cret",
            "has the option passwort, which sentinel:// does not have",
        ),
        ("sentinel://s1:1/0?service=m&sentinel_ssl=s3cret", "has the option sentinel_ssl that is neither true nor"),
        ("sentinel://s1:1/s3cret?service=m", "has a database that is no number"),
        (
            "sentinel://s1:1/0?service=m&ssl=false&ssl_cert_reqs=none",
            "has the option ssl_cert_reqs without TLS, should be beside ssl=true or sentinel_ssl=true",
        ),
    ],
)
def test_wrong_address_of_sentinels_is_one_line_without_a_secret(
    monkeypatch: pytest.MonkeyPatch, url: str, fault: str
) -> None:
    line = fault_of(monkeypatch, "CALLWATCH_REDIS_URL", url)
    assert line.startswith(f"CALLWATCH_REDIS_URL: {fault}")
    assert "should be" in line or "did you mean" in line


def test_redis_url_shows_no_secret_in_its_repr() -> None:
    assert "s3cret" not in repr(parse_redis_url("sentinel://:s3cret@s/0?service=m&sentinel_password=s3cret"))

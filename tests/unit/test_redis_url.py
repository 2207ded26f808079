"""Test that a Redis URL means the same to redis-py, kombu and Celery."""

from typing import Any

import celery
import certifi
import kombu.connection
import kombu.transport.redis
import pytest
import redis

from config.settings import Settings

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


def parsed_by_redis_py(url: str) -> dict[str, Any]:
    pool = redis.Redis.from_url(url).connection_pool
    return in_one_form({**pool.connection_kwargs, "connection_class": pool.connection_class})


def parsed_by_kombu(url: str) -> dict[str, Any]:
    connection: Any = kombu.connection.Connection
    channel: Any = kombu.transport.redis.Channel
    with connection(url) as broker:
        unconnected = channel.__new__(channel)  # its __init__ would connect
        unconnected.connection = broker.transport
        return in_one_form(unconnected._connparams())


def parsed_by_celery(url: str) -> dict[str, Any]:
    return in_one_form(celery.Celery(broker="memory://", backend=url, set_as_current=False).backend.connparams)


@pytest.mark.parametrize(("url", "expected"), URLS)
def test_a_redis_url_means_the_same_to_redis_py_kombu_and_celery(url: str, expected: dict[str, Any]) -> None:
    settings = Settings(redis_url=url)
    whole = {"port": 6379, "db": 0, "tls": "required" if url.startswith("rediss") else None} | expected
    assert parsed_by_redis_py(settings.redis_client_url) == whole
    assert parsed_by_kombu(settings.celery_broker_url) == whole
    assert parsed_by_celery(settings.celery_result_url) == whole

"""Run the contract of the store on fakeredis and on a real server; provide a server whose role a test may change."""

from collections.abc import Iterator

import pytest
import redis

from cli.up.embedded_redis import EmbeddedServer
from tests.fakeredisserver import fake_redis
from tests.leaks import without_ttl
from worker.store import Keys, RedisStore, Terms, connect
from worker.store.primary import primary_of

TERMS = Terms(
    lock_ttl=9_000,
    history_ttl=86_400,
    max_poll_duration=7_200,
    interval=10,
    lease=2,
    sending_limit=108,
    look_up=120,
    hold=600,
)


@pytest.fixture(params=["fakeredis", "server"])
def client(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    if request.param == "fakeredis":
        fake = fake_redis()
        yield fake
        fake.close()
        return
    real = connect(request.getfixturevalue("redis_url"), max_connections=64)
    yield real
    real.close()


@pytest.fixture
def store(client: redis.Redis) -> Iterator[RedisStore]:
    """A store whose remaining keys are checked after each test: every key has a time to live or a bound."""
    keys = Keys("t")
    yield RedisStore(client, keys, TERMS)
    assert all(str(name).startswith("t:") for name in client.scan_iter("*"))
    assert without_ttl(client, keys) == []


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

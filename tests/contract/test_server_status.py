"""Test the diagnosis reads of the store: the last sweep, an outage, the calls that hold a pair."""

from typing import Any

import pytest
import redis

from tests.contract.steps import PAIR, started
from worker.core.interfaces import StoreUnavailable
from worker.store import RedisStore
from worker.store.connection import NOT_DURABLE
from worker.store.server_status import Eviction, LastSweep, Memory


def test_last_sweep_outlives_its_leader_lock(store: RedisStore, client: redis.Redis) -> None:
    """S28: whichever worker ran it."""
    assert store.last_sweep() is None
    assert store.acquire_sweep_lock("host:1", 60)
    first = store.last_sweep()
    assert isinstance(first, LastSweep)
    assert first.owner == "host:1"
    assert first.at == pytest.approx(store.now(), abs=60)
    assert not store.acquire_sweep_lock("host:2", 60)
    assert store.last_sweep() == first
    client.delete("t:sweeper")
    assert store.acquire_sweep_lock("host:2", 60)
    second = store.last_sweep()
    assert second
    assert (second.owner, second.at >= first.at) == ("host:2", True)


def test_outage_watched_calls_and_numbers_are_read(store: RedisStore, client: redis.Redis) -> None:
    assert store.outage_since() is None
    assert store.watched(PAIR) == 0
    started(store, "j-1", "j-2")
    client.hset("t:outage", "since", "1000.500")
    assert store.outage_since() == 1000.5
    assert store.watched(PAIR) == 2


def test_unreachable_server_raises_store_unavailable(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise redis.ConnectionError("gone")

    for name in ("get", "hget", "scard", "zcard", "config_get", "info", "time"):
        monkeypatch.setattr(store.client, name, away)
    reads = (
        store.last_sweep,
        store.outage_since,
        store.number_of_calls,
        store.eviction,
        store.version,
        store.memory,
        store.replicas,
    )
    for read in reads:
        with pytest.raises(StoreUnavailable, match="gone"):
            read()
    with pytest.raises(StoreUnavailable):
        store.watched(PAIR)


def test_hidden_settings_do_not_count_as_unreachable(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosted servers forbid `CONFIG`, some also `INFO`."""

    def forbidden(*_: object, **__: object) -> None:
        raise redis.exceptions.NoPermissionError("this user has no permissions to run the command")

    for name in ("config_get", "info"):
        monkeypatch.setattr(store.client, name, forbidden)
    assert (store.eviction(), store.version(), store.memory()) == (None, "of unknown version", None)
    assert store.replicas() is None


def test_memory_use_and_limit_are_read(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.client, "info", lambda _section: {"used_memory": 700, "maxmemory": 1_000})
    assert store.memory() == Memory(700, 1_000)


@pytest.mark.parametrize(
    ("info", "version"),
    [
        ({"valkey_version": "9.1.2", "redis_version": "7.2.4"}, "Valkey 9.1.2"),
        ({"redis_version": "7.2.4"}, "Redis 7.2.4"),
        ({}, "Redis of unknown version"),
    ],
    ids=["Valkey", "Redis", "neither"],
)
def test_server_name_and_version_are_read(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch, info: dict[str, str], version: str
) -> None:
    """Valkey also reports the Redis version that it is compatible with."""
    monkeypatch.setattr(store.client, "info", lambda _section: info)
    assert store.version() == version


@pytest.mark.parametrize(
    ("info", "eviction"),
    [
        ({"maxmemory-policy": "allkeys-lru", "maxmemory": "1048576"}, Eviction("allkeys-lru", 1_048_576)),
        ({}, Eviction("", 0)),
    ],
    ids=["evicting", "nothing known of it"],
)
def test_eviction_policy_is_read(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch, info: dict[str, str], eviction: Eviction
) -> None:
    """S5: an evicted lock allows a second call."""
    monkeypatch.setattr(store.client, "config_get", lambda _pattern: info)
    assert store.eviction() == eviction


def durable(monkeypatch: pytest.MonkeyPatch, store: RedisStore, **answers: Any) -> str | None:
    """Return the fault of a server with these settings and without WAITAOF."""

    def config_get(*_: str) -> dict[str, str]:
        if isinstance(answers.get("settings"), Exception):
            raise answers["settings"]
        return dict(answers["settings"])

    def execute_command(name: str, *_: object) -> None:
        assert name == "WAITAOF"
        raise redis.ResponseError("unknown command")

    monkeypatch.setattr(store.client, "config_get", config_get)
    monkeypatch.setattr(store.client, "execute_command", execute_command)
    monkeypatch.setattr(store, "version", lambda: "Redis 7.0.15")
    return store.durability_fault()


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        pytest.param({"appendonly": "no", "appendfsync": "everysec"}, "appendonly no", id="no file"),
        pytest.param({"appendonly": "yes", "appendfsync": "no"}, "appendfsync no on Redis 7.0.15", id="never synced"),
        pytest.param(
            {"appendonly": "yes", "appendfsync": "everysec"},
            "appendfsync everysec on Redis 7.0.15, and WAITAOF is refused or confirms early",
            id="before 7.2",
        ),
        pytest.param(
            redis.exceptions.NoPermissionError("no permissions"),
            "its settings are hidden, and WAITAOF is refused or confirms early",
            id="hosted",
        ),
        pytest.param({"appendonly": "yes", "appendfsync": "always"}, None, id="written through"),
    ],
)
def test_s18_a_server_that_may_lose_a_request_is_described(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch, settings: Any, found: str | None
) -> None:
    with monkeypatch.context() as patched:
        fault = durable(patched, store, settings=settings)
    assert fault == (None if found is None else f"{NOT_DURABLE}; found: {found}")

"""Test that a request, a stop and a release are confirmed by the configured replicas (S41), on real servers."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

from cli.up.embedded_redis import HOST, EmbeddedServer
from tests.contract.conftest import TERMS
from tests.contract.steps import PAIR, claim, sending, settlement
from tests.deployment import wait_until
from worker.core.interfaces import StoreUnconfirmed
from worker.core.trigger_model import Claimed
from worker.store import Keys, RedisStore, connect
from worker.store.durable import TIMES_ASKED

ONE_REPLICA = replace(TERMS, replicas=1)
UNCONFIRMED = r"^Redis: confirmed by 0 of 1 replicas in time$"


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(appendfsync="always") as one, redis.Redis.from_url(one.url) as client:
        client.config_set("repl-diskless-sync-delay", 0)
        yield one


@pytest.fixture
def replica(server: EmbeddedServer) -> Iterator[redis.Redis]:
    """A connected replica of the server, which flushes each write."""
    with EmbeddedServer(appendfsync="always") as one, redis.Redis.from_url(one.url, decode_responses=True) as client:
        client.config_set("masterauth", server.password)
        client.replicaof(HOST, server.port)
        wait_until(lambda: client.info("replication")["master_link_status"] == "up")
        yield client


@pytest.fixture
def store(server: EmbeddedServer) -> Iterator[RedisStore]:
    client = connect(server.url)
    yield RedisStore(client, Keys("t"), ONE_REPLICA)
    client.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait briefly for a confirmation that cannot come."""
    for limit in ("LIMIT", "RECEIVED_LIMIT", "ASKED_EVERY"):
        monkeypatch.setattr(f"worker.store.durable.{limit}", 20)


def test_s41_request_is_on_the_disk_of_the_replica_before_it_leaves(store: RedisStore, replica: redis.Redis) -> None:
    sending(store)
    assert replica.hget(store.keys.ledger(PAIR), "phase") == "sending"
    assert replica.get(store.keys.task("task-tok")) is not None
    store.pause("why")
    assert replica.exists(store.keys.paused)
    found = store.replicas()
    assert found is not None
    assert (found.is_primary, len(found), len(found.reported)) == (True, 1, 1)


@pytest.mark.usefixtures("impatient")
def test_s41_request_without_the_replica_is_held_back_and_may_be_tried_again(store: RedisStore) -> None:
    assert claim(store) == Claimed()
    for _ in range(2):
        with pytest.raises(StoreUnconfirmed, match=UNCONFIRMED):
            store.begin_sending(PAIR, "tok")
        assert store.renew(PAIR, "tok")
    assert store.settle(settlement("failed", "done", "tok"))
    assert claim(store, token="second", task_id="second") == Claimed()


@pytest.mark.usefixtures("impatient")
def test_s41_replica_is_asked_again_until_it_has_flushed(store: RedisStore) -> None:
    claim(store)
    with pytest.raises(StoreUnconfirmed):
        store.begin_sending(PAIR, "tok")
    statistics = store.client.info("commandstats")
    assert statistics["cmdstat_waitaof"]["calls"] >= TIMES_ASKED


@pytest.mark.usefixtures("impatient")
def test_s41_stop_and_release_say_that_a_failover_may_undo_them(store: RedisStore) -> None:
    alone = RedisStore(store.client, Keys("t"), TERMS)
    sending(alone)
    alone.settle(settlement("unknown", "unknown", "tok"))
    with pytest.raises(StoreUnconfirmed, match=UNCONFIRMED):
        store.release(PAIR, by="me", why="why")
    with pytest.raises(StoreUnconfirmed, match=UNCONFIRMED):
        store.pause("why")
    assert store.is_paused()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("setting", ["appendonly no", "appendfsync no"])
def test_s41_server_without_confirmation_of_its_disk_waits_for_the_memory_of_the_replica(
    store: RedisStore, setting: str, request: pytest.FixtureRequest
) -> None:
    store.client.config_set(*setting.split())
    assert store.durability == "none"
    assert claim(store) == Claimed()
    with pytest.raises(StoreUnconfirmed, match=UNCONFIRMED):
        store.begin_sending(PAIR, "tok")
    replica: redis.Redis = request.getfixturevalue("replica")
    wait_until(lambda: isinstance(store.begin_sending(PAIR, "tok"), float))
    assert replica.hget(store.keys.ledger(PAIR), "phase") == "sending"


def test_s41_durability_is_determined_again_after_a_new_connection(store: RedisStore) -> None:
    """After a failover the new primary may have another configuration."""
    store.client.ping()
    found = [store.durability]
    store.client.config_set("appendonly", "no")
    found.append(store.durability)
    store.client.connection_pool.disconnect()
    store.client.ping()
    assert [*found, store.durability] == ["waitaof", "waitaof", "none"]

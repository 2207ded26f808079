"""What a diagnosis reads of the store: the last sweep, how late polls are, an outage, what holds a pair."""

import pytest
import redis

from tests.contract.test_trigger_steps import PAIR, started
from worker.ports import StoreUnavailable
from worker.store import RedisStore
from worker.store.health import LastSweep, Lateness


def test_the_last_turn_to_sweep_outlives_the_turn(store: RedisStore, client: redis.Redis) -> None:
    """S28: whoever sweeps."""
    assert store.last_sweep() is None
    assert store.take_sweep("host:1", 60)
    first = store.last_sweep()
    assert isinstance(first, LastSweep)
    assert first.owner == "host:1"
    assert first.at == pytest.approx(store.now(), abs=60)
    assert not store.take_sweep("host:2", 60)
    assert store.last_sweep() == first
    client.delete("t:sweeper")
    assert store.take_sweep("host:2", 60)
    second = store.last_sweep()
    assert second
    assert (second.owner, second.at >= first.at) == ("host:2", True)


def test_lateness_is_that_of_the_records(store: RedisStore, client: redis.Redis) -> None:
    """S28: a reissue moves the sweep's date, and carries nothing out."""
    assert store.lateness(limit=1) == Lateness(0, 0)
    started(store, "j-1", "j-2", "j-3", "j-4")
    for job_id, seconds in (("j-1", 100), ("j-2", 20), ("j-3", 0.1), ("j-4", 1_000)):
        client.hset(f"t:job:{job_id}", "due", store.now() - seconds)
        client.zadd("t:due", {job_id: store.now() - seconds})
    client.hset("t:job:j-4", "verdict", "ended")
    client.zadd("t:due", {"no record": 1})
    for _ in range(2):
        late = store.lateness(limit=15)
        assert late.longest == pytest.approx(100, abs=10)
        assert late.beyond == 2
        store.overdue(grace=2, limit=10)
    assert store.number_of_calls() == 3, "what the sweep has found to be none is gone"


def test_what_else_is_read(store: RedisStore, client: redis.Redis) -> None:
    assert store.outage_since() is None
    assert store.watched(PAIR) == 0
    started(store, "j-1", "j-2")
    client.hset("t:outage", "since", "1000.500")
    assert store.outage_since() == 1000.5
    assert store.watched(PAIR) == 2


def test_a_server_that_is_away_is_said_to_be(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise redis.ConnectionError("gone")

    for name in ("get", "hget", "scard", "zcard", "config_get", "info", "time"):
        monkeypatch.setattr(store.client, name, away)
    for read in (store.last_sweep, store.outage_since, store.number_of_calls, store.eviction, store.version):
        with pytest.raises(StoreUnavailable, match="gone"):
            read()
    with pytest.raises(StoreUnavailable):
        store.watched(PAIR)
    with pytest.raises(StoreUnavailable):
        store.lateness(limit=1)

"""Test claims after the promotion of a replica: records may be older than reality (S41), on a real server."""

from collections.abc import Iterator

import pytest

from cli.up.embedded_redis import HOST, EmbeddedServer
from tests.contract.conftest import TERMS
from tests.contract.steps import PAIR, claim, settlement, started
from worker.core.trigger_model import AbandonedClaim, Claimed, DuplicateDelivery
from worker.store import Keys, RedisStore, connect
from worker.store.primary import primary_of

QUERY_FIRST = Claimed(0.0)
A_DAY = 86_400


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    primary_of.cache_clear()
    with EmbeddedServer(appendfsync="always") as one:
        yield one


@pytest.fixture
def store(server: EmbeddedServer) -> Iterator[RedisStore]:
    """A store that a sweep has seen before, so that it knows its primary."""
    client = connect(server.url)
    store = RedisStore(client, Keys("t"), TERMS)
    store.acquire_sweep_lock("host:1", 0.001)
    yield store
    client.close()


def promote(store: RedisStore) -> None:
    """Let the server be the replica of another one, and promote it."""
    store.client.replicaof(HOST, 1)
    store.client.replicaof("NO", "ONE")


def age_claim(store: RedisStore, seconds: float) -> None:
    """Move the claim and the attention of the sweep back in time."""
    ledger, at = store.keys.ledger(PAIR), store.now() - seconds
    store.client.hset(ledger, "claimed_at", f"{at:.3f}")
    store.client.zadd(store.keys.pairs, {"C-1:20": at})


def age_promotion(store: RedisStore, seconds: float) -> None:
    """Move the notice of the promotion back in time."""
    store.client.hset(store.keys.primary, "since", f"{store.now() - seconds:.3f}")


@pytest.mark.parametrize("noticed_by", ["claim", "sweep"])
def test_s41_first_claim_of_each_pair_after_a_promotion_queries_upstream_first(
    store: RedisStore, noticed_by: str
) -> None:
    promote(store)
    if noticed_by == "sweep":
        assert store.acquire_sweep_lock("host:2", 0.001)
        assert store.client.hget(store.keys.primary, "era") == "1"
    assert claim(store) == QUERY_FIRST
    assert isinstance(store.begin_sending(PAIR, "tok"), float)
    store.settle(settlement("refused", "done", "tok"))
    assert claim(store, token="next", task_id="next") == QUERY_FIRST, "the first one made no call (S5)"
    assert isinstance(store.begin_sending(PAIR, "next"), float)
    store.settle(settlement("started", "done", "next", task_id="next"))
    assert claim(store, token="third", task_id="third") == Claimed()


def test_s41_pair_of_before_the_promotion_queries_upstream_first(store: RedisStore) -> None:
    """Its record may lack a later call, whatever the record says."""
    started(store)
    store.settle(settlement("failed", "done", "tok"))
    promote(store)
    assert claim(store, token="next", task_id="next") == QUERY_FIRST
    promote(store)
    store.settle(settlement("failed", "done", "next", task_id="next"))
    assert claim(store, token="third", task_id="third") == QUERY_FIRST


def test_s41_query_before_a_claim_ends_a_day_after_the_promotion(store: RedisStore) -> None:
    promote(store)
    store.acquire_sweep_lock("host:2", 0.001)
    age_promotion(store, A_DAY + 1)
    assert claim(store) == Claimed()


def test_s41_restart_is_no_promotion(store: RedisStore, server: EmbeddedServer) -> None:
    before = store.client.hget(store.keys.primary, "id")
    server.restart()
    assert claim(store) == Claimed()
    assert store.client.hget(store.keys.primary, "id") not in (None, before)


def test_s41_hidden_replication_is_no_promotion(store: RedisStore, server: EmbeddedServer) -> None:
    store.client.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-info")  # type: ignore[no-untyped-call]
    promote(store)
    client = connect(f"redis://app:pw@{HOST}:{server.port}/0")
    assert claim(RedisStore(client, Keys("t"), TERMS)) == Claimed()
    client.close()


def test_s41_sweep_leaves_a_claim_of_before_the_promotion_the_time_of_a_request(store: RedisStore) -> None:
    """The former primary may have known it as `sending`."""
    assert claim(store) == Claimed()
    promote(store)
    age_claim(store, 60)
    assert store.attend(PAIR, token="new") == "none"
    assert claim(store, token="copy") == DuplicateDelivery()
    age_claim(store, TERMS.sending_limit + 1)  # or the clock of this server is ahead of that of the former primary
    assert store.attend(PAIR, token="new") == "none"
    assert claim(store, token="copy") == DuplicateDelivery()
    age_claim(store, TERMS.sending_limit + 1)
    age_promotion(store, TERMS.sending_limit + 1)
    assert isinstance(store.attend(PAIR, token="new"), AbandonedClaim)
    assert claim(store, token="again") == QUERY_FIRST
    age_claim(store, 31)
    assert isinstance(store.attend(PAIR, token="new"), AbandonedClaim)


def test_s41_owner_of_a_claim_stores_the_answer_that_the_former_primary_was_asked_for(store: RedisStore) -> None:
    """A request that left while the replica knew only its claim is answered: its calls are watched, once."""
    assert claim(store) == Claimed()
    promote(store)
    assert store.settle(settlement("started", "watching", "tok", "j-1"))
    assert [call.job_id for call in store.calls()] == ["j-1"]

"""Test the scripts of sweep and look-up; times are set back instead of waited for, so a real server runs them too."""

import json
from dataclasses import replace

import pytest
import redis

from cli.up.embedded_redis import EmbeddedServer
from tests.contract.steps import PAIR, claim, phase, sending, settlement
from worker.core.interfaces import StoreUnavailable
from worker.core.model import Pair
from worker.core.trigger_model import AbandonedClaim, Claimed, LookUp, NewJob
from worker.store import Keys, RedisStore, connect
from worker.store.connection import durability_of

from .conftest import TERMS

LEDGER = "t:ledger:C-1:20"
OTHER = Pair("C-1", "21")


def set_back(client: redis.Redis, store: RedisStore, field: str, seconds: float) -> None:
    """Set a time of the ledger back, and make the pair due for the sweep."""
    client.hset(LEDGER, field, f"{store.now() - seconds:.3f}")
    client.zadd("t:pairs", {"C-1:20": store.now() - 1})


def attend(store: RedisStore) -> AbandonedClaim | str:
    return store.attend(PAIR, token="new")


def unknown(store: RedisStore, client: redis.Redis) -> None:
    sending(store)
    set_back(client, store, "sending_at", 109)
    assert attend(store) == "look"


def job(number: int, at: float) -> NewJob:
    return NewJob(f"{round(at * 1000)}-447e-{number:04}", "", "Executing", 5)


def test_one_sweeper_at_a_time(store: RedisStore) -> None:
    """S28."""
    assert store.acquire_sweep_lock("a", 60)
    assert not store.acquire_sweep_lock("b", 60)


def test_abandoned_claim_gets_a_new_token_and_is_published_unchanged(store: RedisStore, client: redis.Redis) -> None:
    """S18."""
    assert claim(store) == Claimed()
    assert store.pairs_due(limit=10) == []
    set_back(client, store, "claimed_at", 31)
    assert store.pairs_due(limit=10) == [PAIR]
    assert attend(store) == AbandonedClaim("task", "{}", None)
    assert attend(store) == "none"
    assert store.begin_sending(PAIR, "tok") == "taken"
    assert client.get("t:lock:C-1:20") == "new"
    assert claim(store, token="third") == Claimed()


def test_events_of_sweep_and_release_name_the_trigger(store: RedisStore, client: redis.Redis) -> None:
    """S38: a task id is any printable text, and a reason stands beside it."""
    task_id = 'load/"7" \\ 案'
    assert claim(store, task_id=task_id) == Claimed()
    assert isinstance(store.begin_sending(PAIR, "tok"), float)
    set_back(client, store, "sending_at", 109)
    assert attend(store) == "look"
    assert store.release(PAIR, by="an operator", why="known") == "released"
    told = [(event["kind"], event.get("reason"), event["task_id"]) for event in store.history("C-1")]
    assert told == [("unknown", "sender_died", task_id), ("released", None, task_id)]


def test_claim_with_a_stored_outcome_is_released(store: RedisStore, client: redis.Redis) -> None:
    """S17 S18: the slow first owner reported running calls, the second one died; no owner will send again."""
    assert claim(store) == Claimed()
    client.set("t:task:task", "{}", px=60_000)
    set_back(client, store, "claimed_at", 31)
    assert attend(store) == "none"
    assert phase(store) == "done"
    assert not client.exists("t:lock:C-1:20")


def test_dead_sender_leaves_an_unknown_outcome(store: RedisStore, client: redis.Redis) -> None:
    """S18 S17: the stored result is ready for a redelivery."""
    sending(store)
    set_back(client, store, "sending_at", 107)
    assert attend(store) == "none"
    assert phase(store) == "sending"
    set_back(client, store, "sending_at", 109)
    assert attend(store) == "look"
    assert phase(store) == "unknown"
    assert json.loads(str(client.get("t:task:task-tok")))["outcome"] == "unknown"
    assert [event["kind"] for event in store.history("C-1")] == ["unknown"]


def test_look_up_window_ends_in_a_hold_and_the_hold_in_a_release(store: RedisStore, client: redis.Redis) -> None:
    """S14."""
    unknown(store, client)
    look_up = store.open_look_up(PAIR)
    assert look_up
    store.adopt(PAIR, look_up, [], answered=True)
    for field in ("lookup_from", "answered_at"):
        set_back(client, store, field, 121)
    assert attend(store) == "none"
    assert store.open_look_up(PAIR) is None
    set_back(client, store, "held_until", 1)
    assert attend(store) == "none"
    assert phase(store) == "done"
    assert [event["kind"] for event in store.history("C-1")] == ["unknown", "nothing_found", "released"]


def test_found_call_is_adopted_once(store: RedisStore, client: redis.Redis) -> None:
    """S14: with the deadline counted from `sending`; then the pair is watching."""
    unknown(store, client)
    look_up = store.open_look_up(PAIR)
    assert look_up
    found = job(1, store.now())
    adopted = store.adopt(PAIR, look_up, [found], answered=True)
    assert adopted
    assert adopted.watched == [found.job_id]
    again = store.adopt(PAIR, look_up, [found], answered=True)
    assert again
    assert again.watched == []
    (call,) = store.calls()
    assert call.deadline == pytest.approx(look_up.sending_at + 7_200, abs=0.01)
    for field in ("lookup_from", "answered_at"):
        set_back(client, store, field, 121)
    assert attend(store) == "none"
    assert phase(store) == "watching"


def test_s14_call_that_the_pair_watches_already_counts_as_found(store: RedisStore, client: redis.Redis) -> None:
    """An earlier owner of the claim found the call and stored it before the look-up: no hold without a reason."""
    unknown(store, client)
    look_up = store.open_look_up(PAIR)
    assert look_up
    found = job(1, store.now())
    assert store.settle(replace(settlement("skipped", "watching", "earlier", found.job_id), jobs=[found], sent_at=None))
    adopted = store.adopt(PAIR, look_up, [found], answered=True)
    assert adopted
    assert adopted.watched == []
    for field in ("lookup_from", "answered_at"):
        set_back(client, store, field, 121)
    assert attend(store) == "none"
    assert phase(store) == "watching"
    assert client.hget(LEDGER, "held_until") is None


def test_s7_s14_named_call_of_the_answer_is_not_the_missing_one(store: RedisStore, client: redis.Redis) -> None:
    """The answer named one call, and another record without a job: the pair is held until that call is looked for."""
    sent_at = sending(store)
    named = replace(job(1, store.now()), person_id="P-1")
    answer = replace(
        settlement("started", "watching", "tok", task_id="task-tok"), jobs=[named], sent_at=sent_at, look_up=True
    )
    assert store.settle(answer)
    look_up = store.open_look_up(PAIR)
    assert look_up
    assert store.adopt(PAIR, look_up, [replace(named, person_id="")], answered=True)
    for field in ("lookup_from", "answered_at"):
        set_back(client, store, field, 121)
    assert attend(store) == "none"
    assert client.hget(LEDGER, "held_until") is not None


def test_adoption_requires_the_token_of_the_look_up(store: RedisStore, client: redis.Redis) -> None:
    """S14 S18."""
    unknown(store, client)
    adopted = store.adopt(PAIR, LookUp("stranger", store.now()), [job(1, store.now())], answered=True)
    assert adopted
    assert adopted.watched == []
    assert store.calls() == []


def test_adoption_waits_for_another_mediations_request(store: RedisStore, client: redis.Redis) -> None:
    """S14."""
    unknown(store, client)
    sending(store, OTHER, "other")
    look_up = store.open_look_up(PAIR)
    assert look_up
    assert store.adopt(PAIR, look_up, [job(1, store.now())], answered=True) is None
    assert store.calls() == []


def test_watched_call_of_the_pair_forbids_the_request(store: RedisStore, client: redis.Redis) -> None:
    """An earlier owner's late answer has started a watch while the new owner was connecting."""
    assert claim(store) == Claimed()
    set_back(client, store, "claimed_at", 31)
    attend(store)
    assert claim(store, token="third") == Claimed()
    assert store.settle(settlement("started", "watching", "tok", "j-late"))
    assert store.begin_sending(PAIR, "third") == "watched"


@pytest.mark.parametrize(
    ("options", "durability"),
    [({"appendfsync": "everysec"}, "none"), ({"appendfsync": "always"}, "waitaof"), ({"appendfsync": "no"}, "none")],
    ids=["everysec", "always", "no"],
)
def test_sending_is_on_disk_before_the_request(options: dict[str, str], durability: str) -> None:
    """WAITAOF confirms the write before the first byte; with `everysec`, Valkey confirms before it flushes."""
    with EmbeddedServer(**options) as server:  # type: ignore[arg-type]
        client = connect(server.url, max_connections=4)
        store = RedisStore(client, Keys("t"), TERMS)
        assert durability_of(client) == store.durability == durability
        sending(store)
        client.close()


@pytest.mark.parametrize(
    ("version", "durability"),
    [("7.2.4", "none"), ("7.4.2", "none"), ("8.0.0", "waitaof"), ("", "waitaof"), (None, "waitaof")],
    ids=["Valkey", "Redis 7.4", "Redis 8", "no version", "no right to INFO"],
)
def test_s18_everysec_is_durable_only_where_waitaof_waits_for_the_flush(
    version: str | None, durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedServer(appendfsync="everysec") as server, connect(server.url) as client:

        def info(_section: str) -> dict[str, str]:
            if version is None:
                raise redis.ResponseError("NOPERM")
            return {"redis_version": version}

        monkeypatch.setattr(client, "info", info)
        assert durability_of(client) == durability


def test_unconfirmed_write_sends_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server replies within the gate's time, and the flow treats the request as not sent."""
    with EmbeddedServer(appendfsync="always") as server:
        client = connect(server.url, max_connections=4)
        store = RedisStore(client, Keys("t"), TERMS)
        assert claim(store) == Claimed()
        client.ping()
        assert store.durability == "waitaof"
        client.config_set("appendfsync", "no")
        monkeypatch.setattr("worker.store.durable.LIMIT", 50)
        with pytest.raises(StoreUnavailable, match="not on disk in time"):
            store.begin_sending(PAIR, "tok")
        client.close()

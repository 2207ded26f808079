"""Test that many cases are read in one round trip, each at one moment, with its events after a position."""

import json
from typing import Any, cast

import pytest
import redis

from tests.pairs import bring_to, finish
from worker.core.model import Pair
from worker.store import RedisStore
from worker.store.cases import CALLS_SHOWN, CaseState

PAIR, OTHER = Pair("C/1", "20"), Pair("C/1", "3")


def read(store: RedisStore, case_id: str = "C/1", after: tuple[int, int] = (0, 0)) -> CaseState:
    _, (state,) = store.read_cases([(case_id, after)])
    return state


def test_case_is_read_with_events_pairs_and_calls(store: RedisStore) -> None:
    bring_to(store, "watching")
    bring_to(store, "ended", OTHER, "job-2")
    state = read(store)
    assert [(one.pair, one.phase, one.until) for one in state.pairs] == [
        (PAIR, "watching", None),
        (OTHER, "done", None),
    ]
    assert [(call.job_id, call.verdict) for call in state.calls] == [("job-1", None), ("job-2", "ended")]
    assert [event["kind"] for event in state.events] == ["started", "started", "ended"]
    assert state.newest == state.events[-1]["id"]


def test_unknown_case_is_empty(store: RedisStore) -> None:
    assert read(store, "nowhere") == CaseState("nowhere", "", [], [], [])


def test_history_entries_carry_the_stream_id(store: RedisStore) -> None:
    """S36: a reader of the live stream finds missed events in the history."""
    bring_to(store, "ended")
    assert [event["id"] for event in store.history("C/1")] == [entry for entry, _ in store.events("0", wait=0.01)]
    assert store.first_event() == store.history("C/1")[0]["id"]


def test_only_events_after_a_position_are_read(store: RedisStore, client: redis.Redis) -> None:
    """More events than one chunk of the search holds; their number orders events of one millisecond."""
    entries = [{"id": f"{1_000 + number // 10}-{number % 10}", "at": 1.0, "kind": "refused"} for number in range(75)]
    client.rpush(store.keys.history("C/1"), *map(json.dumps, entries))
    text = [json.dumps(entry, separators=(",", ":")) for entry in entries]
    client.delete(store.keys.history("C/1"))
    client.rpush(store.keys.history("C/1"), *text)
    client.expire(store.keys.history("C/1"), 60)
    for after, number in (((1_003, 4), 40), ((1_007, 4), 0), ((0, 0), 75), ((1_007, 3), 1)):
        state = read(store, after=after)
        assert [event["id"] for event in state.events] == [entry["id"] for entry in entries[75 - number :]]
        assert state.newest == "1007-4"


def test_entries_of_an_earlier_release_without_an_id_are_skipped(store: RedisStore, client: redis.Redis) -> None:
    bring_to(store, "watching")
    client.lpush(store.keys.history("C/1"), '{"at":1.0,"kind": "refused"}')
    assert [event["kind"] for event in read(store).events] == ["started"]
    assert len(store.history("C/1")) == 2


def test_waiting_pair_is_read_with_its_time(store: RedisStore, client: redis.Redis) -> None:
    bring_to(store, "claimed")
    client.hset(store.keys.ledger(PAIR), mapping={"phase": "waiting", "until": "12.5"})
    assert read(store).pairs[0].until == 12.5


def test_watched_and_newest_calls_are_read_of_very_many(store: RedisStore, client: redis.Redis) -> None:
    bring_to(store, "watching", job="0-oldest-and-watched")
    record = cast("dict[str, str]", client.hgetall(store.keys.job("0-oldest-and-watched")))
    for number in range(CALLS_SHOWN + 20):
        job_id = f"17{number:011}"
        client.hset(
            store.keys.job(job_id), mapping=cast("dict[Any, Any]", record | {"job_id": job_id, "verdict": "ended"})
        )
        client.expire(store.keys.job(job_id), 60)
        client.sadd(store.keys.jobs("C/1"), job_id)
    read_ids = {call.job_id for call in read(store).calls}
    assert read_ids == {"0-oldest-and-watched", *(f"17{number:011}" for number in range(20, CALLS_SHOWN + 20))}


def test_outage_and_stop_are_read_with_the_cases(store: RedisStore, client: redis.Redis) -> None:
    """S16, S29."""
    calm, _ = store.read_cases([])
    assert (calm.outage_since, calm.stop) == (None, None)
    assert calm.now == pytest.approx(store.now(), abs=60)
    client.hset(store.keys.outage, "since", "12.5")
    store.pause("maintenance", by="me")
    busy, _ = store.read_cases([])
    assert busy.outage_since == 12.5
    assert busy.stop == store.paused()


def test_script_is_loaded_again_after_a_server_restart(store: RedisStore, client: redis.Redis) -> None:
    bring_to(store, "watching")
    client.script_flush()
    assert [call.job_id for call in read(store).calls] == ["job-1"]


def test_s36_erased_event_precedes_the_last_deletion(store: RedisStore, client: redis.Redis) -> None:
    bring_to(store, "watching")
    finish(store, "ended")
    (entry, _), *_ = reversed(store.events("0", wait=0.01))
    seen: list[str] = []
    forget = store._delete_live_events

    def read_first(case_id: str) -> int:
        seen.extend(str(event["kind"]) for _, event in store.events(entry, wait=0.01))
        return forget(case_id)

    store._delete_live_events = read_first  # type: ignore[method-assign]
    store.erase("C/1", anyway=False)
    assert seen == ["erased"]
    assert client.xlen(store.keys.events) == 0

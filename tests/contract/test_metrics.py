"""Test the counters and current counts in Redis: each change counts once, and no metric names a person (S37)."""

import pytest
import redis

from tests.contract.steps import PAIR, begun, claim, finish, make_due, settlement, started
from tests.polls import begin_poll, continue_poll, finish_poll
from worker.core.decision import Poll
from worker.core.interfaces import StoreUnavailable
from worker.core.model import Event, Pair
from worker.core.poll_model import QueryResult, Timing
from worker.store import RedisStore


def new(store: RedisStore, *fields: str) -> dict[str, int]:
    """Return the counters whose field begins with one of the given texts."""
    return {name: number for name, number in store.counters().items() if name.startswith(fields)}


def end_poll(
    store: RedisStore, poll: Poll, result: QueryResult = "answer", took: float | None = 0.02, late: float = 3.0
) -> bool:
    written = continue_poll(
        store,
        PAIR,
        "j-1",
        poll,
        result=result,
        call_status="Paused" if result == "answer" else None,
        event=None,
        timing=Timing(late, took),
    )
    return written is not None


def test_trigger_counts_by_outcome_and_request(store: RedisStore) -> None:
    started(store, "j-1", "j-2")
    claim(store, token="other", task_id="task-2")
    claim(store, token="other", task_id="task-2")
    counted = new(store, "triggers:", "call_requests", "events:", "call_latency")
    buckets = {name: counted.pop(name) for name in list(counted) if name.startswith("call_latency:")}
    assert counted == {
        "triggers:started": 1,
        "triggers:skipped": 1,
        "triggers:handled": 1,
        "call_requests": 1,
        "events:started": 2,
    }
    assert buckets.pop("call_latency:sum") > 0
    assert list(buckets.values()) == [1]


def test_stopped_claim_counts_as_disabled(store: RedisStore) -> None:
    """S16."""
    store.pause("")
    claim(store)
    store.resume()
    assert new(store, "triggers:", "call_requests") == {"triggers:disabled": 1}


def test_rejected_settlement_counts_nothing(store: RedisStore) -> None:
    """S18."""
    claim(store)
    assert store.settle(settlement("failed", token="a stranger")) is None
    assert store.counters() == {}


@pytest.mark.parametrize("result", ["answer", "unavailable", "unreadable", "nothing"])
def test_poll_counts_by_query_result(store: RedisStore, client: redis.Redis, result: QueryResult) -> None:
    """S20 S23: with the lateness of its start, and the duration of its query if it sent one."""
    started(store, "j-1")
    begun(store, client)
    assert end_poll(store, Poll(2, 9e8, 9e9, 0), result, None if result == "nothing" else 0.02)
    latency = {} if result == "nothing" else {"status_latency:0.025": 1, "status_latency:sum": 20_000}
    assert new(store, "polls:", "lateness:", "status_latency:") == {
        f"polls:{result}": 1,
        "lateness:5": 1,
        "lateness:sum": 3_000_000,
        **latency,
    }


@pytest.mark.parametrize(
    ("late", "bucket"), [(-0.9, "0.01"), (0.01, "0.01"), (0.0101, "0.05"), (300, "300"), (301, "Inf")]
)
def test_bucket_includes_its_upper_bound(store: RedisStore, client: redis.Redis, late: float, bucket: str) -> None:
    """A poll may begin up to a second early (S20), which counts as not late."""
    started(store, "j-1")
    begun(store, client)
    assert end_poll(store, Poll(2, 9e8, 9e9, 0), late=late)
    assert new(store, "lateness:") == {f"lateness:{bucket}": 1, "lateness:sum": round(max(0, late) * 1_000_000)}


def test_last_poll_counts_like_the_others(store: RedisStore, client: redis.Redis) -> None:
    started(store, "j-1")
    begun(store, client)
    event = Event("ended", "C-1", "20", "j-1")
    assert finish_poll(
        store,
        PAIR,
        "j-1",
        1,
        verdict="ended",
        retry_count=0,
        result="answer",
        call_status="Succeeded",
        event=event,
        timing=Timing(0.2, 0.3),
    )
    assert {
        name: number for name, number in new(store, "polls:", "lateness:", "status").items() if "sum" not in name
    } == {
        "polls:answer": 1,
        "lateness:0.25": 1,
        "status_latency:0.5": 1,
    }


def test_duration_above_the_last_bound_counts(store: RedisStore, client: redis.Redis) -> None:
    started(store, "j-1")
    begun(store, client)
    end_poll(store, Poll(2, 9e8, 9e9, 0), took=500.0, late=4_000)
    assert {name for name in new(store, "lateness:", "status_latency:") if "sum" not in name} == {
        "lateness:Inf",
        "status_latency:Inf",
    }


def test_poll_end_sent_twice_counts_once(store: RedisStore, client: redis.Redis) -> None:
    """The client resends a script over a broken connection; the second run counts nothing."""
    started(store, "j-1")
    begun(store, client)
    assert end_poll(store, Poll(2, 9e8, 9e9, 0))
    assert end_poll(store, Poll(2, 9e8, 9e9, 0))
    assert new(store, "polls:", "status_latency:0") == {"polls:answer": 1, "status_latency:0.025": 1}


def test_dropped_poll_counts_by_reason(store: RedisStore, client: redis.Redis) -> None:
    """S20 S28."""
    begin_poll(store, "j-none", 1)
    started(store, "j-1")
    make_due(client, "j-1", ago=-5)
    begin_poll(store, "j-1", 1)
    begun(store, client)
    begin_poll(store, "j-1", 1)
    begun(store, client, poll_no=2)
    assert not end_poll(store, Poll(2, 9e8, 9e9, 0))
    assert not finish(store, "lost")
    assert finish(store, "ended", poll_no=2)
    assert not finish(store, "ended", poll_no=2)
    begin_poll(store, "j-1", 3)
    assert new(store, "polls:") == {
        "polls:absent": 1,
        "polls:early": 1,
        "polls:fenced": 1,
        "polls:overtaken": 3,
        "polls:answer": 1,
        "polls:finished": 1,
    }
    assert new(store, "events:ended") == {"events:ended": 1}


def test_republication_counts(store: RedisStore, client: redis.Redis) -> None:
    """S18 S28."""
    started(store, "j-1", "j-2")
    for job_id in ("j-1", "j-2"):
        client.zadd("t:due", {job_id: 10_000_000_001})
    store.take_due(limit=0)
    pair = Pair("C-2", "20")
    claim(store, pair=pair, token="dead", task_id="task-9")
    client.hset("t:ledger:C-2:20", "claimed_at", store.now() - 60)
    client.zadd("t:pairs", {"C-2:20": 1})
    store.attend(pair, token="new")
    assert new(store, "reissued", "requeued") == {"reissued": 2, "requeued": 1}


def test_outage_counts_once_at_its_start_and_once_at_its_end(store: RedisStore, client: redis.Redis) -> None:
    """S29."""
    jobs = [f"j-{number}" for number in range(6)]
    started(store, *jobs)
    for number, job_id in enumerate(jobs):
        client.zadd("t:failing", {job_id: 1 + number})
    begun(store, client, "j-1")
    assert end_poll(store, Poll(2, 9e8, 9e9, 0), "unavailable")
    begun(store, client, poll_no=2)
    assert end_poll(store, Poll(3, 9.1e8, 9e9, 0), "unreadable")
    assert new(store, "events:outage") == {"events:outage_began": 1}
    begun(store, client, poll_no=3)
    assert end_poll(store, Poll(4, 9.2e8, 9e9, 0))
    assert new(store, "events:outage") == {"events:outage_began": 1, "events:outage_ended": 1}


def test_count_increases_one_counter(store: RedisStore) -> None:
    """S2."""
    store.count("triggers:invalid")
    store.count("triggers:invalid")
    assert store.counters() == {"triggers:invalid": 2}


def test_calls_are_counted_by_status_and_lateness(store: RedisStore, client: redis.Redis) -> None:
    """S28: by the records' own due times; a lease alone runs no poll."""
    assert store.count_calls(limit=1).numbers == {}
    started(store, "j-1", "j-2", "j-3", "j-4")
    for job_id, seconds in (("j-1", 100), ("j-2", 20), ("j-3", 0.1), ("j-4", 1_000)):
        client.hset(f"t:job:{job_id}", "due", store.now() - seconds)
        client.zadd("t:due", {job_id: store.now() - seconds})
    client.hset("t:job:j-4", "verdict", "ended")
    client.expire("t:job:j-4", 60)
    client.srem("t:live:C-1:20", "j-4")
    client.hset("t:job:j-3", "call_status", "Executing")
    client.zadd("t:due", {"no record": 1})
    for _ in range(2):
        counts = store.count_calls(limit=15)
        assert counts.numbers == {"Scheduling": 2, "Executing": 1}
        assert counts.longest == pytest.approx(100, abs=10)
        assert counts.beyond == 2
        store.take_due(limit=10)
    assert store.number_of_calls() == 3, "a job without a record has left the due set"


def test_many_calls_are_counted_in_batches(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.store.metrics.BATCH", 2)
    started(store, "j-1", "j-2", "j-3")
    assert store.count_calls(limit=1).numbers == {"Scheduling": 3}


def test_pairs_are_counted_by_phase(store: RedisStore) -> None:
    started(store, "j-1")
    claim(store, pair=Pair("C-2", "20"), token="b", task_id="task-2")
    claim(store, pair=Pair("C:3", "20"), token="c", task_id="task-3")
    assert store.count_pairs().numbers == {"watching": 1, "claimed": 2}


def test_counters_contain_no_person_or_case(store: RedisStore, client: redis.Redis) -> None:
    """S37."""
    started(store, "j-1")
    begun(store, client)
    finish(store)
    assert all(part not in str(store.counters()) for part in ("C-1", "j-1", "P-", "task"))


def test_unreachable_server_raises_store_unavailable(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(redis.Redis, "execute_command", away)
    reads = (store.counters, lambda: store.count("x"), lambda: store.count_calls(limit=1), store.count_pairs)
    for read in reads:
        with pytest.raises(StoreUnavailable, match="gone"):
            read()


def test_events_count_by_kind(store: RedisStore, client: redis.Redis) -> None:
    """S14: an event published once counts once."""
    started(store, "j-1")
    begun(store, client)
    changed = Event("status_changed", "C-1", "20", "j-1", {"label": 'events of a \'kind\': "kind": "x"'})
    continue_poll(store, PAIR, "j-1", Poll(2, 9e8, 9e9, 0), result="answer", call_status="Paused", event=changed)
    assert new(store, "events:") == {"events:started": 1, "events:status_changed": 1}


def test_s37_counts_are_cached_for_observers_once_in_five_seconds(store: RedisStore, client: redis.Redis) -> None:
    """The cache holds numbers only, so its readers need no right to the records."""
    assert store.cached_counts() is None
    started(store, "j-1", "j-2", "j-3")
    client.hset(store.keys.job("j-3"), "call_status", "张三")
    assert [store.cache_counts(limit=15) for _ in range(2)] == [True, False]
    kept = store.cached_counts()
    assert kept is not None
    assert kept.calls.numbers == {"Scheduling": 2, "other": 1}
    assert kept.pairs.numbers == {"watching": 1}
    assert kept.at == pytest.approx(store.now(), abs=60)
    text = str(client.get(store.keys.cached_counts))
    assert not [one for one in ("j-1", "P-", "C-1", "张三") if one in text]
    client.delete(store.keys.counting)
    assert store.cache_counts(limit=15), "its time is over"

"""Test that a poll takes a token where queries are limited, and that a throttled poll stays in Redis."""

import itertools
from dataclasses import replace

import pytest
import redis

from tests.contract.conftest import TERMS
from tests.contract.steps import started
from worker.core.messages import TriggerResult
from worker.core.model import Pair
from worker.core.trigger_model import NewJob, Settlement
from worker.store import RedisStore

PAIR = Pair("C-1", "20")


@pytest.fixture
def limited(store: RedisStore) -> RedisStore:
    """One query per hundred seconds, so that the speed of the tests does not matter."""
    limited = RedisStore(store.client, store.keys, replace(TERMS, status_rate=0.01, dial_rate=0.01))
    limited.claim(PAIR, token="tok", task_id="task", arguments="{}", expires=None, enabled=True)
    sent_at = limited.begin_sending(PAIR, "tok")
    assert isinstance(sent_at, float)
    jobs = [NewJob(f"job-{number}", "P-1", "Scheduling", -5) for number in range(4)]
    result = TriggerResult.of("started", "C-1", "20")
    assert limited.settle(Settlement(PAIR, "tok", "task", result, "watching", sent_at, jobs, []))
    return limited


def make_due(client: redis.Redis, limited: RedisStore, *jobs: str) -> None:
    """Make calls due, in this order."""
    now = limited.now()
    for number, job_id in enumerate(jobs or [f"job-{number}" for number in range(4)]):
        due = now - 10 + number
        client.hset(f"t:job:{job_id}", mapping={"due": f"{due:.3f}", "deadline": now + 7_200})
        client.zadd("t:due", {job_id: f"{due:.3f}"})


def taken(limited: RedisStore) -> list[str]:
    return [one.job_id for one in limited.take_due(limit=10).polls]


def test_polls_taken_never_exceed_the_tokens(limited: RedisStore, client: redis.Redis) -> None:
    """Throttled polls stay in Redis with their due times; the longest overdue goes next."""
    make_due(client, limited)
    assert taken(limited) == ["job-0"]
    assert taken(limited) == []
    client.hset("t:bucket:status", "next", limited.now())
    assert taken(limited) == ["job-1"]
    assert taken(limited) == []


def test_tokens_are_a_fixed_distance_apart_and_issued_slightly_ahead(store: RedisStore, client: redis.Redis) -> None:
    """A poll waits in its process for the time of its token, so that no second exceeds the limit."""
    started(store, "j-0", "j-1", "j-2", "j-3", "j-4")
    limited = RedisStore(store.client, store.keys, replace(TERMS, status_rate=10))
    make_due(client, limited, *(f"j-{number}" for number in range(5)))
    polls = limited.take_due(limit=10).polls
    times = [one.not_before for one in polls]
    assert [later - earlier for earlier, later in itertools.pairwise(times)] == pytest.approx([0.105] * 2, abs=0.002)
    assert times[0] == pytest.approx(limited.now(), abs=0.5)
    assert polls[0].kwargs()["not_before"] == times[0]
    assert 0 < client.pttl("t:bucket:status") <= 62_000


def test_s29_poll_without_a_query_needs_no_token(limited: RedisStore, client: redis.Redis) -> None:
    """During an outage due times are skipped; a poll that ends its watch is still taken (S25)."""
    make_due(client, limited)
    client.hset("t:job:job-1", "deadline", str(client.hget("t:job:job-1", "due")))
    client.hset("t:outage", "since", "1.0")
    client.set("t:probe", "job-0", px=60_000)
    assert taken(limited) == ["job-1"]
    assert all(call.due > limited.now() for call in limited.calls() if call.job_id != "job-1")
    assert not client.exists("t:bucket:status")
    assert limited.counters()["polls:nothing"] == 3


@pytest.mark.parametrize(("queried", "first"), [(False, ["job-0"]), (True, ["job-0", "job-1", "job-2", "job-3"])])
def test_s25_poll_at_the_deadline_needs_a_token_until_its_call_was_queried(
    limited: RedisStore, client: redis.Redis, *, queried: bool, first: list[str]
) -> None:
    """Its first poll may have died between the fence and the query."""
    make_due(client, limited)
    for number in range(4):
        due = limited.now() - 1
        client.hset(f"t:job:job-{number}", mapping={"poll_no": 2, "due": due, "deadline": due})
        if queried:
            client.hset(f"t:job:job-{number}", "last_polled_at", due)
    assert taken(limited) == first


def test_s29_each_fraction_of_an_interval_has_one_probe(store: RedisStore, client: redis.Redis) -> None:
    started(store, "j-0", "j-1")
    make_due(client, store, "j-0", "j-1")
    client.hset("t:outage", "since", "1.0")
    assert taken(store) == ["j-0"]
    assert 0 < client.pttl("t:probe") <= TERMS.interval / 5 * 1_000
    make_due(client, store, "j-1")
    client.delete("t:probe")
    assert taken(store) == ["j-1"]


def test_query_outside_a_poll_reserves_a_token_or_is_refused(limited: RedisStore) -> None:
    assert limited.reserve_query(longest=1) == 0
    assert limited.reserve_query(longest=1) is None
    assert limited.reserve_query(longest=200) == pytest.approx(105, abs=1)
    assert limited.reserve_query(longest=200) is None, "a refused query takes no token"
    assert limited.reserve_query(longest=300) == pytest.approx(210, abs=1)


def test_without_a_limit_a_token_is_always_available(store: RedisStore) -> None:
    assert [store.reserve_query(longest=0) for _ in range(9)] == [0] * 9

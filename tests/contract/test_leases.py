"""Test the leases of polls: one process has a poll at a time, an expired lease returns it (S28)."""

import threading

import pytest
import redis

from tests.contract.conftest import TERMS
from tests.contract.steps import begun, continue_watch, make_due, started
from worker.core.decision import Poll
from worker.store import RedisStore
from worker.store.keys import LEASED


def leased_until(client: redis.Redis, job_id: str) -> float:
    return float(str(client.zscore("t:due", job_id))) - LEASED


def test_s28_a_running_poll_is_leased_to_its_process(store: RedisStore, client: redis.Redis) -> None:
    """For 2 s from its start and from each renewal no dispatcher takes it."""
    started(store, "j-1", "j-2")
    start = begun(store, client)
    assert leased_until(client, "j-1") == pytest.approx(start.now + TERMS.lease, abs=0.01)
    client.zadd("t:due", {"j-1": LEASED + start.now + 0.5})
    store.renew_polls([("j-1", 2), ("j-2", 1), ("j-none", 1)])
    assert leased_until(client, "j-1") == pytest.approx(store.now() + TERMS.lease, abs=0.1)
    assert leased_until(client, "j-2") < 0, "it waits for its time"
    client.zadd("t:due", {"j-1": LEASED + start.now + 0.5})
    store.renew_polls([("j-1", 1)])
    assert leased_until(client, "j-1") == pytest.approx(start.now + 0.5), "of a poll that was overtaken"


def test_s28_expired_lease_returns_the_call_with_its_due_time(store: RedisStore, client: redis.Redis) -> None:
    started(store, "j-1", "j-2", "j-3")
    for number, job_id in enumerate(("j-1", "j-2", "j-3")):
        client.zadd("t:due", {job_id: make_due(client, job_id, ago=10 - number)})
    assert [one.job_id for one in store.take_due(limit=1).polls] == ["j-1"]
    assert store.take_due(limit=0).reissued == 0
    client.zadd("t:due", {"j-1": LEASED + store.now() - 0.1})
    taken = store.take_due(limit=2)
    assert ([one.job_id for one in taken.polls], taken.reissued) == (["j-1", "j-2"], 1)
    assert taken.polls[0].countdown == 0
    assert store.counters()["reissued"] == 1


def test_s28_two_dispatchers_take_each_poll_once(store: RedisStore, client: redis.Redis) -> None:
    jobs = [f"j-{number}" for number in range(20)]
    started(store, *jobs)
    for job_id in jobs:
        client.zadd("t:due", {job_id: make_due(client, job_id, ago=1)})
    taken: list[str] = []

    def take() -> None:
        while polls := store.take_due(limit=3).polls:
            taken.extend(one.job_id for one in polls)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(jobs)


def test_s20_taken_poll_carries_the_values_of_its_record(store: RedisStore, client: redis.Redis) -> None:
    """The message contains the call's ids, countdown, retry count, deadline and number."""
    started(store, "j-1")
    due = make_due(client, "j-1", ago=1)
    client.hset("t:job:j-1", mapping={"retry_count": 3, "last_polled_at": f"{due - 10:.3f}"})
    client.zadd("t:due", {"j-1": due})
    (poll,) = store.take_due(limit=1).polls
    (call,) = store.calls()
    assert poll.kwargs() == {
        "job_id": "j-1",
        "case_id": "C-1",
        "mediation_id": "20",
        "person_id": "P-j-1",
        "countdown": pytest.approx(10),
        "due": pytest.approx(due, abs=0.001),
        "deadline": call.deadline,
        "retry_count": 3,
        "poll_no": 1,
    }
    assert poll.root_id == "task"


def test_s28_query_that_outlasts_its_lease_counts_as_failed(store: RedisStore, client: redis.Redis) -> None:
    """The next poll adds the failure and keeps the count; during an outage failures do not count (S29)."""
    started(store, "j-1")
    assert begun(store, client).poll.retry_count == 0
    assert begun(store, client, poll_no=2).poll.retry_count == 1
    assert begun(store, client, poll_no=3).poll.retry_count == 2
    assert store.calls()[0].retry_count == 2
    client.hset("t:outage", "since", "1")
    start = begun(store, client, poll_no=4)
    assert (start.poll.retry_count, start.outage) == (2, True)
    client.delete("t:outage")
    assert continue_watch(store, Poll(5, 9e8, 9e9, 2), None)
    assert begun(store, client, poll_no=5).poll.retry_count == 2, "that poll was written"

"""A poll without a token keeps its number and is told when to come back; the sweep knows that it is not lost."""

import itertools
from dataclasses import replace

import pytest
import redis

from tests.contract.conftest import TERMS
from worker.messages import TriggerResult
from worker.store import RedisStore
from worker.store.limits import SOON
from worker.values import Begun, Dropped, Early, NewJob, Pair, Settlement

PAIR = Pair("C-1", "20")


@pytest.fixture
def limited(store: RedisStore) -> RedisStore:
    """One query a hundred seconds: nothing depends on how fast the tests run."""
    limited = RedisStore(store.client, store.keys, replace(TERMS, status_rate=0.01, dial_rate=0.01))
    limited.claim(PAIR, token="tok", task_id="task", arguments="{}", expires=None, enabled=True)
    sent_at = limited.begin_sending(PAIR, "tok")
    assert isinstance(sent_at, float)
    jobs = [NewJob(f"job-{number}", "P-1", "Scheduling", -5) for number in range(4)]
    result = TriggerResult.of("started", "C-1", "20")
    assert limited.settle(Settlement(PAIR, "tok", "task", result, "watching", sent_at, jobs, []))
    return limited


def test_one_goes_and_the_others_wait_one_after_the_other(limited: RedisStore) -> None:
    assert isinstance(limited.begin_poll("job-0", 1), Begun)
    waiting = [limited.begin_poll(f"job-{number}", 1) for number in (1, 2, 3)]
    slots = [one.at for one in waiting if isinstance(one, Early)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(slots)]
    assert gaps == pytest.approx([105, 105], abs=1)
    again = limited.begin_poll("job-1", 1)
    assert isinstance(again, Early)
    assert again.at == pytest.approx(slots[0], abs=0.01), "a copy is told the same"
    assert [call.due for call in limited.calls()][1:] == pytest.approx(slots, abs=0.01), "and so is an operator"


def test_who_waits_keeps_its_number_and_is_not_taken_for_lost(limited: RedisStore, client: redis.Redis) -> None:
    """S28."""
    limited.begin_poll("job-0", 1)
    early = limited.begin_poll("job-1", 1)
    assert isinstance(early, Early)
    assert client.hget("t:job:job-1", "poll_no") == "1"
    assert limited.overdue(grace=0, limit=2) == [], "those that nobody has begun are given their turn"
    slots = [float(str(client.hget(f"t:job:job-{number}", "slot"))) for number in (1, 2, 3)]
    assert [later - earlier for earlier, later in itertools.pairwise(slots)] == pytest.approx([105, 105], abs=1)
    assert limited.tally_calls(limit=1).beyond == 1, "job-0 is under way"
    client.hset("t:job:job-2", "slot", limited.now())
    client.zadd("t:due", {"job-2": limited.now() - 60})
    assert [one.job_id for one in limited.overdue(grace=0, limit=2)] == ["job-2"], "its turn has come"


def test_who_comes_at_its_time_goes_before_those_who_are_new(limited: RedisStore, client: redis.Redis) -> None:
    limited.begin_poll("job-0", 1)
    limited.begin_poll("job-1", 1)
    now = limited.now()
    client.hset("t:job:job-1", "slot", now)
    client.hset("t:bucket:status", "next", now)
    fresh = limited.begin_poll("job-2", 1)
    assert isinstance(fresh, Early), "there is a token, and it is promised"
    begun = limited.begin_poll("job-1", 1)
    assert isinstance(begun, Begun)
    assert limited.begin_poll("job-1", 1) == Dropped("fenced")
    assert client.hget("t:job:job-1", "slot")
    client.hset("t:bucket:status", "tail", 0)
    successor = replace(begun.poll, poll_no=2, due=now + 10)
    assert limited.continue_poll(PAIR, "job-1", successor, heard="answer", call_status=None, event=None)
    assert client.hget("t:job:job-1", "slot") is None, "the next poll has none"


def test_a_turn_is_forgotten_when_there_is_no_limit_any_more(
    limited: RedisStore, store: RedisStore, client: redis.Redis
) -> None:
    limited.begin_poll("job-0", 1)
    limited.begin_poll("job-1", 1)
    client.hset("t:job:job-1", "slot", limited.now())
    begun = store.begin_poll("job-1", 1)
    assert isinstance(begun, Begun)
    successor = replace(begun.poll, poll_no=2, due=store.now() + 10)
    assert store.continue_poll(PAIR, "job-1", successor, heard="answer", call_status=None, event=None)
    assert client.hget("t:job:job-1", "slot") is None


def test_who_dies_in_its_turn_does_not_lose_it(limited: RedisStore, client: redis.Redis) -> None:
    """S28: the copy comes at once, not after all who wait."""
    limited.begin_poll("job-0", 1)
    for number in (1, 2, 3):
        limited.begin_poll(f"job-{number}", 1)
    client.hset("t:job:job-1", "slot", limited.now())
    client.hset("t:bucket:status", "next", limited.now())
    assert isinstance(limited.begin_poll("job-1", 1), Begun)
    client.zadd("t:due", {"job-1": limited.now() - 60})
    assert [one.job_id for one in limited.overdue(grace=0, limit=1)] == ["job-1"]


def test_who_finds_its_token_gone_is_next(limited: RedisStore, client: redis.Redis) -> None:
    limited.begin_poll("job-0", 1)
    first = [limited.begin_poll(f"job-{number}", 1) for number in (1, 2, 3)]
    client.hset("t:job:job-1", "slot", limited.now())
    late = limited.begin_poll("job-1", 1)
    assert isinstance(late, Early)
    assert isinstance(first[2], Early)
    assert limited.now() < late.at < first[2].at, "not at the end of the queue"


def test_who_came_in_vain_finds_a_token_before_who_comes_for_the_first_time(
    limited: RedisStore, client: redis.Redis
) -> None:
    """Where more come than there are tokens, everybody's turn comes; none is put off again and again."""
    limited.begin_poll("job-0", 1)
    waiting = [limited.begin_poll(f"job-{number}", 1) for number in (1, 2)]
    assert all(isinstance(one, Early) for one in waiting)
    client.hset("t:job:job-1", "slot", limited.now())
    assert isinstance(limited.begin_poll("job-1", 1), Early)
    for job in ("job-1", "job-2"):
        client.hset(f"t:job:{job}", "slot", limited.now())
    client.hset("t:bucket:status", "next", limited.now() + 0.9)  # beyond what anybody may wait, within twice of it
    assert isinstance(limited.begin_poll("job-2", 1), Early)
    begun = limited.begin_poll("job-1", 1)
    assert isinstance(begun, Begun)
    assert begun.seconds > SOON
    assert client.hget("t:job:job-1", "in_vain") is None


def test_s29_who_asks_nobody_needs_no_token(limited: RedisStore, client: redis.Redis) -> None:
    limited.begin_poll("job-0", 1)
    client.hset("t:outage", "since", "1.0")
    client.set("t:probe", "somebody", px=60_000)
    begun = limited.begin_poll("job-1", 1)
    assert isinstance(begun, Begun)
    assert begun.outage == "wait"


def test_s25_who_only_ends_a_watch_needs_no_token(limited: RedisStore, client: redis.Redis) -> None:
    limited.begin_poll("job-0", 1)
    client.hset("t:job:job-1", "deadline", str(client.hget("t:job:job-1", "due")))
    assert isinstance(limited.begin_poll("job-1", 1), Begun)


def test_a_query_outside_a_poll_takes_its_token_ahead_or_none(limited: RedisStore) -> None:
    assert limited.reserve_query(longest=1) == 0
    assert limited.reserve_query(longest=1) is None
    assert limited.reserve_query(longest=200) == pytest.approx(105, abs=1)
    assert limited.reserve_query(longest=200) is None, "those who are sent away take nothing"
    assert limited.reserve_query(longest=300) == pytest.approx(210, abs=1)


def test_without_a_limit_there_is_always_a_token(store: RedisStore) -> None:
    assert [store.reserve_query(longest=0) for _ in range(9)] == [0] * 9

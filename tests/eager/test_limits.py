"""Test that the limits of queries and dials hold for all workers in every second, and that every call gets polled."""

import itertools
import math
import time
from collections import Counter

import pytest

from api_client import Unavailable
from tests.fakes import START, job_id, record
from tests.world import World
from worker.core.interfaces import StoreUnavailable

CALLS = 120


def busiest(times: list[float]) -> int:
    """Return the largest number of these moments within one second."""
    times = sorted(times)
    first, most = 0, 0
    for last, moment in enumerate(times):
        while moment - times[first] >= 1:
            first += 1
        most = max(most, last - first + 1)
    return most


def start(world: World, calls: int = CALLS) -> None:
    """Watch calls that never end."""
    world.upstream.life = lambda _job, _age: "Executing"
    world.upstream.dials = [[record(job_id(number)) for number in range(calls)]]
    assert world.trigger()["outcome"] == "started"
    world.upstream.queries.clear()


@pytest.mark.parametrize(
    "world", [{"status_rate": 8}, {"status_rate": 3.5}, {"status_rate": 80}], indirect=True, ids=["8", "3.5", "80"]
)
@pytest.mark.no_cover
def test_no_second_exceeds_the_query_limit(world: World) -> None:
    """Also after a standstill of a minute: late polls do not catch up."""
    rate = world.settings.status_rate
    world.sweeping = 1
    start(world)
    world.run(60)
    world.clock.move_to(time.time() + 60)
    world.run(60)
    times = [at for at, _ in world.upstream.queries]
    assert busiest(times) <= math.ceil(rate)
    wanted = min(rate, CALLS / world.settings.poll_interval)
    assert len(times) >= 0.85 * wanted * 120, "the limit is used up"


@pytest.mark.parametrize("world", [{"status_rate": 8}], indirect=True)
def test_every_call_is_polled_under_the_limit(world: World) -> None:
    world.sweeping = 1
    start(world)
    world.run(2 * CALLS / 8 * 1.2)
    polled = Counter(job for _, job in world.upstream.queries)
    assert len(polled) == CALLS
    assert max(polled.values()) - min(polled.values()) <= 2


@pytest.mark.parametrize("world", [{"status_rate": 1}], indirect=True)
def test_throttled_poll_waits_in_the_store(world: World) -> None:
    """A poll is published once it has its token, so no worker holds a message."""
    start(world)
    world.run(200)
    assert len(world.queue) == 0
    assert len(world.upstream.queries) >= 200 * 0.85


@pytest.mark.parametrize("world", [{"status_rate": 1}], indirect=True)
def test_look_up_precedes_polls_and_counts_against_the_limit(world: World) -> None:
    """S14: a lost answer is looked up while 120 polls wait, and the limit covers both together."""
    start(world)
    world.run(15)
    upstream = world.parts.throttled_upstream
    before = len(world.upstream.queries)
    asked = time.time()
    for _ in range(3):
        upstream.status(case_ref="C-1", job_id=job_id(1))
    assert len(world.upstream.queries) == before + 3
    assert time.time() - asked >= 2
    world.run(30)
    assert busiest([at for at, _ in world.upstream.queries]) <= 1


@pytest.mark.parametrize("answer", [None, StoreUnavailable("Redis: ConnectionError")], ids=["none in time", "no store"])
@pytest.mark.parametrize("question", ["status", "conversations"])
def test_query_without_a_token_is_not_sent(
    world: World, monkeypatch: pytest.MonkeyPatch, answer: StoreUnavailable | None, question: str
) -> None:
    """S14 S5: a look-up counts it as unanswered; before a new call, nothing is sent then."""

    def reserve_query(*, longest: float) -> None:
        assert longest < 30, "the seconds of a claim (S18)"
        if answer:
            raise answer

    def ask() -> None:
        if question == "status":
            world.parts.throttled_upstream.status(case_ref="C-1", job_id=job_id(1))
        else:
            world.parts.throttled_upstream.conversations(case_id="C-1")

    monkeypatch.setattr(world.store, "reserve_query", reserve_query)
    monkeypatch.setattr(world.upstream, "conversations", lambda **_: pytest.fail("asked"))
    with pytest.raises(Unavailable, match="throttled" if answer is None else "Redis: ConnectionError"):
        ask()
    assert world.upstream.queries == []


def test_without_a_limit_no_token_is_stored(world: World) -> None:
    start(world)
    world.run(20)
    assert {job for _, job in world.upstream.queries} == {job_id(number) for number in range(CALLS)}
    assert not list(world.redis.scan_iter("*bucket*"))
    assert all(at >= START for at, _ in itertools.islice(world.upstream.queries, 5))

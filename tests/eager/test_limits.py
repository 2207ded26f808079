"""Limits of queries and of dials hold over everybody, in every second, and starve nobody."""

import itertools
import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from api_client import Unavailable
from tests.fakes import START, StatusAnswer, World, job_id, record
from worker import line
from worker.ports import StoreUnavailable

CALLS = 120


def busiest(times: list[float]) -> int:
    """The most of these moments that lie in any one second."""
    times = sorted(times)
    first, most = 0, 0
    for last, moment in enumerate(times):
        while moment - times[first] >= 1:
            first += 1
        most = max(most, last - first + 1)
    return most


def start(world: World, calls: int = CALLS) -> None:
    """Have calls watched that never end."""
    world.upstream.life = lambda _job, _age: "Executing"
    world.upstream.dials = [[record(job_id(number)) for number in range(calls)]]
    assert world.trigger()["outcome"] == "started"
    world.upstream.queries.clear()


@pytest.mark.parametrize(
    "world", [{"status_rate": 8}, {"status_rate": 3.5}, {"status_rate": 80}], indirect=True, ids=["8", "3.5", "80"]
)
@pytest.mark.no_cover
def test_no_second_has_more_queries_than_the_limit(world: World) -> None:
    """Also after everything stood still for a minute: who was late does not make up for it."""
    rate = world.settings.status_rate
    world.sweeping = 1
    start(world)
    world.run(60)
    world.clock.move_to(time.time() + 60)
    world.run(60)
    times = [at for at, _ in world.upstream.queries]
    assert busiest(times) <= math.ceil(rate)
    wanted = min(rate, CALLS / world.settings.poll_interval)
    assert len(times) >= 0.85 * wanted * 120, "and the limit is made use of"


@pytest.mark.parametrize("world", [{"status_rate": 8}], indirect=True)
def test_everybody_gets_a_turn(world: World) -> None:
    world.sweeping = 1
    start(world)
    world.run(2 * CALLS / 8 * 1.2)
    polled = Counter(job for _, job in world.upstream.queries)
    assert len(polled) == CALLS
    assert max(polled.values()) - min(polled.values()) <= 2


@pytest.mark.parametrize("world", [{"status_rate": 1}], indirect=True)
def test_who_waits_long_waits_in_the_store_and_not_in_a_worker(world: World) -> None:
    """No countdown comes near the visibility time-out: beyond it every message would come twice."""
    world.sweeping = 1
    start(world)
    world.run(200)
    held = [delivery.at - time.time() for delivery in world.queue.heap]
    assert max(held, default=0) <= 60
    assert len(world.queue) <= CALLS
    assert len(world.upstream.queries) >= 200 * 0.85


@pytest.mark.parametrize("world", [{"status_rate": 1}], indirect=True)
def test_a_look_up_has_precedence_and_counts(world: World) -> None:
    """S14: a lost answer is looked up though 120 polls wait, and the limit holds for both together."""
    start(world)
    world.run(15)
    paced = world.parts.paced
    before = len(world.upstream.queries)
    asked = time.time()
    for _ in range(3):
        paced.status(case_ref="C-1", job_id=job_id(1))
    assert len(world.upstream.queries) == before + 3
    assert time.time() - asked >= 2
    world.run(30)
    assert busiest([at for at, _ in world.upstream.queries]) <= 1


@pytest.mark.parametrize("answer", [None, StoreUnavailable("Redis: ConnectionError")], ids=["none in time", "no store"])
@pytest.mark.parametrize("question", ["status", "conversations"])
def test_a_question_without_a_token_is_not_asked(
    world: World, monkeypatch: pytest.MonkeyPatch, answer: StoreUnavailable | None, question: str
) -> None:
    """S14 S5: a look-up counts it as not answered; the look before a new call then sends nothing."""

    def reserve_query(*, longest: float) -> None:
        assert longest < 30, "the seconds of a claim (S18)"
        if answer:
            raise answer

    def ask() -> None:
        if question == "status":
            world.parts.paced.status(case_ref="C-1", job_id=job_id(1))
        else:
            world.parts.paced.conversations(case_id="C-1")

    monkeypatch.setattr(world.store, "reserve_query", reserve_query)
    monkeypatch.setattr(world.upstream, "conversations", lambda **_: pytest.fail("asked"))
    with pytest.raises(Unavailable, match="used up" if answer is None else "Redis: ConnectionError"):
        ask()
    assert world.upstream.queries == []


def test_without_a_limit_nothing_of_it_is_there(world: World) -> None:
    start(world)
    world.run(20)
    assert len(world.upstream.queries) == 2 * CALLS
    assert not list(world.redis.scan_iter("*bucket*"))
    assert all(at >= START for at, _ in itertools.islice(world.upstream.queries, 5))


@pytest.mark.parametrize("answer", ["Executing", Unavailable("GET /status: 503")], ids=["answered", "failed"])
@pytest.mark.parametrize("world", [{"status_rate": 8}], indirect=True)
@pytest.mark.no_cover
def test_a_poll_makes_room_for_others_while_it_waits_and_not_while_it_works(
    world: World, monkeypatch: pytest.MonkeyPatch, answer: StatusAnswer
) -> None:
    """S20: it waits for its token and for upstream; the store is its own work."""
    steps: list[str] = []

    @contextmanager
    def waiting() -> Iterator[None]:
        steps.append("waits")
        try:
            yield
        finally:
            steps.append("goes on")

    def note(owner: type, name: str) -> None:
        step = getattr(owner, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            steps.append(name)
            return step(*args, **kwargs)

        monkeypatch.setattr(owner, name, noted)

    start(world)
    monkeypatch.setattr(line, "waiting", waiting)
    note(type(world.store), "begin_poll")
    note(type(world.store), "continue_poll")
    note(type(world.clock), "sleep")
    note(type(world.upstream), "status")
    world.upstream.life = lambda _job, _age: answer
    world.run(4)
    polls = {poll.strip() for poll in " ".join(steps).split("begin_poll")}
    assert polls - {""} == {"waits status goes on continue_poll", "waits sleep status goes on continue_poll"}

"""Test that an upstream outage is one event (S29), and that a `Retry-After` is obeyed."""

import itertools
import logging
import time

import pytest

from api_client import ApiError, Unavailable
from tests.fakes import START, job_id, record
from tests.world import World

DOWN = Unavailable("GET /status: ConnectionError")


def watching(world: World, jobs: int) -> None:
    world.upstream.life = lambda _job, _age: "Executing"
    world.upstream.dials = [[record(job_id(number)) for number in range(jobs)]]
    assert world.trigger()["outcome"] == "started"


def test_three_minutes_of_outage_lose_no_call(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """S29: published once at its start and once at its end; polling thins out and recovers within one interval."""
    caplog.set_level(logging.WARNING)
    watching(world, 50)
    world.run(30)

    def life(_job: str, age: float) -> str | ApiError:
        return DOWN if 30 <= age < 210 else "Executing"

    world.upstream.life = life
    world.run(180)
    asked = sum(START + 60 <= at < START + 210 for at, _ in world.upstream.queries)
    assert 150 / 10 <= asked <= 5 * 150 / 10 + 5
    world.run(12)
    assert {job for at, job in world.upstream.queries if at >= START + 210} == {job_id(number) for number in range(50)}
    assert [call.verdict for call in world.store.calls()] == [None] * 50
    assert [call.retry_count for call in world.store.calls()] == [0] * 50
    notices = [message for message in caplog.messages if message.startswith("上游状态查询")]
    assert notices == ["上游状态查询中断,期间不计失败次数", "上游状态查询已恢复"]
    kinds = [event["kind"] for _, event in world.store.events("0", wait=0.01)]
    assert (kinds.count("outage_began"), kinds.count("outage_ended")) == (1, 1)


@pytest.mark.parametrize("calls", [1, 4])
def test_with_fewer_than_five_calls_only_the_tenth_failure_counts(world: World, calls: int) -> None:
    """S29 S24."""
    watching(world, calls)
    world.upstream.life = lambda _job, _age: DOWN
    world.run(200)
    assert [call.verdict for call in world.store.calls(finished=True)] == ["lost"] * calls


def test_five_failing_calls_among_answered_ones_are_no_outage(world: World) -> None:
    """S29: an outage requires an interval without any successful query."""
    watching(world, 6)
    world.upstream.life = lambda job, _age: "Executing" if job == job_id(0) else DOWN
    world.run(200)
    assert sorted(str(call.verdict) for call in world.store.calls(finished=True)) == ["None", *["lost"] * 5]


@pytest.mark.parametrize("world", [{"max_poll_duration": 600}], indirect=True, ids=["10 minutes"])
def test_watch_ends_at_its_deadline_during_an_outage(world: World) -> None:
    """S25 S29."""
    watching(world, 6)
    world.upstream.life = lambda _job, _age: DOWN
    world.run(700)
    assert [call.verdict for call in world.store.calls(finished=True)] == ["expired"] * 6


@pytest.mark.parametrize(("asked", "gap"), [(None, 10), (25, 30), (300, 300)], ids=["none", "25 s", "300 s"])
def test_retry_after_is_obeyed(world: World, asked: float | None, gap: float) -> None:
    """Due times before it are skipped; the grid stays."""
    world.sweeping = 1
    watching(world, 1)
    world.run(10)
    busy = iter([Unavailable("GET /status: HTTP 429", retry_after=asked)])
    world.upstream.life = lambda _job, _age: next(busy, "Executing")
    world.run(400)
    times = [at for at, _ in world.upstream.queries]
    assert max(round(later - earlier, 2) for earlier, later in itertools.pairwise(times)) == gap


@pytest.mark.parametrize("world", [{"max_poll_duration": 300}], indirect=True, ids=["5 minutes"])
def test_outage_ends_when_fewer_than_five_calls_are_left(world: World) -> None:
    """S29 S24: its calls have expired; a single failing call is `lost` at its tenth failure, as usual."""
    watching(world, 5)
    world.upstream.life = lambda _job, _age: DOWN
    world.run(320)
    assert [call.verdict for call in world.store.calls(finished=True)] == ["expired"] * 5
    kinds = [event["kind"] for _, event in world.store.events("0", wait=0.01)]
    assert (kinds.count("outage_began"), kinds.count("outage_ended")) == (1, 1)
    world.upstream.dials = [[record(job_id(9))]]
    assert world.trigger("C-2", task_id="task-2")["outcome"] == "started"
    world.run(200)
    assert [call.verdict for call in world.store.calls(job_id=job_id(9))] == ["lost"]


def test_s29_only_probes_are_dispatched_during_an_outage(world: World) -> None:
    watching(world, jobs=20)
    world.run(20)
    world.upstream.life = lambda _job, _age: DOWN
    world.run(40)
    before = len(world.queue.published)
    world.run(100)
    published = len(world.queue.published) - before
    assert 10 <= published <= 51
    assert all(call.due > time.time() - 0.2 for call in world.store.calls()), "their due times move on"

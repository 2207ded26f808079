"""Test polls that another process has overtaken: the fence, duplicated messages, verdicts that stand (S25, S28)."""

from typing import Any

import pytest

from api_client import ApiError, Unavailable
from tests.eager.scenes import life, start
from tests.fakes import START, job_id
from tests.world import World, watching
from worker.core.poll_model import PollStarted

JOB = job_id(1)


def test_duplicated_poll_messages_make_one_chain(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """S28: the duplicate delivery is dropped before its query."""
    world.upstream.life = life((0, "Scheduling"), (95, "Succeeded"))
    start(world)
    from worker import tasks  # noqa: PLC0415

    publish = world.queue.publisher("outbound.poll")

    def twice(**options: Any) -> None:
        publish(**options)
        publish(**options)

    monkeypatch.setattr(tasks.poll, "apply_async", twice)
    lines = world.run(300)
    polled = [at for at, _ in world.upstream.queries]
    assert len(polled) == len({round(at, 3) for at in polled}) <= 11
    assert lines.count("dropped: fenced") + lines.count("dropped: finished") >= len(polled) - 2
    assert world.events() == ["started", "ended"]


def test_overtaken_answer_counts_only_if_terminal(world: World) -> None:
    """S28: the end of a poll is fenced as well, except for a terminal status."""
    world.upstream.life = lambda _job, _age: "Executing"
    start(world)
    number = 1
    world.clock.sleep(10)

    def overtake(_job: str, _age: float) -> str:
        world.redis.hincrby(f"t:job:{JOB}", "poll_no", 1)
        return "Paused"

    world.upstream.life = overtake
    assert world.poll(job_id=JOB, poll_no=number) == "overtaken: nothing written"
    assert world.store.calls(job_id=JOB)[0].call_status == "Scheduling"

    world.upstream.life = lambda job, age: overtake(job, age) and "Failed"
    assert world.poll(job_id=JOB, poll_no=number + 2).startswith("失败 · ended")
    assert world.poll(job_id=JOB, poll_no=number + 4) == "dropped: finished"


def test_verdict_is_published_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """S27: one terminal event."""
    start(world)
    world.clock.sleep(10)

    def end_meanwhile(_job: str, _age: float) -> str:
        world.upstream.life = lambda _job, _age: "Succeeded"
        world.poll(job_id=JOB, poll_no=2)
        return "Succeeded"

    world.upstream.life = end_meanwhile
    assert world.poll(job_id=JOB, poll_no=1) == "已完成 · ended after poll 2, overtaken: nothing written"
    assert world.events() == ["started", "ended"]
    assert caplog.messages.count(f"检测到终态,移除 jobId: {JOB}") <= 1


def test_s25_call_past_its_deadline_expires_despite_a_later_poll(world: World) -> None:
    """S28: the watch ends by Redis' clock, in whichever poll; an overtaken failure changes nothing."""
    watching(world)
    world.clock.move_to(START + 7_199)
    (first,) = world.store.begin_polls([(JOB, 1)])
    assert isinstance(first, PollStarted)

    def overtake(_job: str, _age: float) -> ApiError:
        world.clock.sleep(3)
        world.redis.hincrby(f"t:job:{JOB}", "poll_no", 1)
        return Unavailable("GET /status: ReadTimeout")

    world.upstream.life = overtake
    assert world.poll(job_id=JOB, poll_no=2) == "拨号中 · expired after poll 2"
    assert world.store.calls(job_id=JOB)[0].verdict == "expired"


def test_s25_overtaken_poll_does_not_end_a_reopened_watch(world: World) -> None:
    """S5: the record has a later deadline meanwhile."""
    watching(world)
    world.clock.move_to(START + 7_199)

    def reopen(_job: str, _age: float) -> ApiError:
        world.clock.sleep(3)
        world.redis.hincrby(f"t:job:{JOB}", "poll_no", 1)
        world.redis.hset(f"t:job:{JOB}", "deadline", START + 14_000)
        return Unavailable("GET /status: ReadTimeout")

    world.upstream.life = reopen
    assert world.poll(job_id=JOB, poll_no=1) == "overtaken: nothing written"
    assert world.store.calls(job_id=JOB)[0].verdict is None

"""Test a watch from its start to its end: cadence, failures, deadline, fence and messages."""

import itertools
import logging
import time
from collections.abc import Callable

import pytest

from api_client import ApiError, CallRecord, ProtocolError, Unavailable
from tests.eager.scenes import life, start
from tests.fakes import START, job_id, record
from tests.world import World
from worker.core.interfaces import StoreUnavailable
from worker.core.poll_model import PollStarted

JOB = job_id(1)


def verdict(world: World, job: str = JOB) -> str | None:
    return world.store.calls(job_id=job)[0].verdict


def test_call_is_watched_to_its_end(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """S20 S22 S30: a poll every 10 s, a progress event for each change, no event after the end."""
    caplog.set_level(logging.DEBUG)
    world.upstream.life = life((0, "Scheduling"), (15, "Executing"), (35, "Succeeded"))
    start(world)
    lines = world.run(3_600)
    polled = [at for at, _ in world.upstream.queries]
    assert [round(later - earlier, 3) for earlier, later in itertools.pairwise(polled)] == [10.0] * (len(polled) - 1)
    assert lines[-1].startswith("已完成 · ended")
    assert lines[0].startswith("拨号中 · poll 1 · failures 0/10")
    assert world.events() == ["started", "status_changed", "ended"]
    assert verdict(world) == "ended"
    assert f"轮询查询 jobId: {JOB}" in caplog.messages
    assert f"检测到终态,移除 jobId: {JOB}" in caplog.messages
    assert len(world.queue) == 0


def test_call_may_end_between_two_polls(world: World) -> None:
    """S27: Scheduling → Succeeded."""
    world.upstream.life = life((0, "Scheduling"), (12, "Succeeded"))
    start(world)
    world.run(60)
    assert world.events() == ["started", "ended"]
    assert len(world.upstream.queries) <= 2


def test_one_call_ends_and_the_others_continue(world: World) -> None:
    """S22 S5: the last one releases the pair, which may be called again."""
    world.upstream.life = lambda job, age: "Succeeded" if job == JOB or age > 100 else "Executing"
    start(world, JOB, job_id(2))
    world.run(60)
    assert (verdict(world), verdict(world, job_id(2))) == ("ended", None)
    assert world.trigger(task_id="task-2")["outcome"] == "skipped"
    world.run(60)
    world.upstream.dials = [[record(job_id(3))]]
    assert world.trigger(task_id="task-3")["outcome"] == "started"


@pytest.mark.no_cover
def test_two_hours_have_720_polls(
    world: World, record_property: Callable[[str, float], None], caplog: pytest.LogCaptureFixture
) -> None:
    """S20 S25: then the watch expires, without a message to the user."""
    world.upstream.life = lambda _job, _age: "Scheduling"
    before = time.perf_counter()
    start(world)
    lines = world.run(7_300)
    assert len(world.upstream.queries) == 720
    assert lines[-1].startswith("拨号中 · expired")
    assert verdict(world) == "expired"
    assert f"轮询超时,jobId: {JOB}" in caplog.messages
    assert "message" not in world.store.history("C-1")[-1]
    assert world.redis.exists("t:lock:C-1:20") == 0
    record_property("seconds", time.perf_counter() - before)


def test_slow_answer_does_not_shift_the_cadence(world: World) -> None:
    """S20: from due time to due time."""
    world.upstream.life = lambda _job, _age: "Executing"
    world.upstream.slow = 7
    start(world)
    world.run(65)
    polled = [at for at, _ in world.upstream.queries]
    assert {round(later - earlier, 3) for earlier, later in itertools.pairwise(polled)} == {10.0}


FAILURES = [
    pytest.param(Unavailable("GET /status: ReadTimeout"), id="time-out"),
    pytest.param(Unavailable("GET /status: 500"), id="HTTP 500"),
    pytest.param(ProtocolError("GET /status: data null"), id="data null"),
]


@pytest.mark.parametrize("failure", FAILURES)
def test_tenth_failure_in_a_row_loses_the_watch(
    world: World, failure: ApiError, caplog: pytest.LogCaptureFixture
) -> None:
    """S23 S24: the same cadence; published to the person and logged."""
    world.upstream.life = lambda _job, _age: failure
    start(world)
    lines = world.run(600)
    assert len(world.upstream.queries) == 10
    assert [f"查询失败,重试次数: {n}/10, jobId: {JOB}" in caplog.messages for n in range(1, 11)] == [True] * 10
    assert f"重试次数超限,jobId: {JOB}" in caplog.messages
    assert lines[-1].startswith("拨号中 · lost")
    assert (verdict(world), world.store.calls(job_id=JOB)[0].retry_count) == ("lost", 10)
    assert world.store.history("C-1")[-1]["message"] == "获取通话状态失败,请检查网络连接"


def test_successful_answer_resets_the_failures(world: World) -> None:
    """S23: nine failures, an answer, nine failures, an answer … never lost."""
    asked = iter(range(10_000))
    world.upstream.life = lambda _job, _age: "Executing" if next(asked) % 10 == 9 else Unavailable("down")
    start(world)
    world.run(500)
    assert len(world.upstream.queries) == 50
    assert verdict(world) is None


def test_unknown_status_is_shown_unchanged_and_watched(world: World) -> None:
    """S19 S30."""
    world.upstream.life = lambda _job, _age: "Ringing"
    start(world)
    assert world.run(15)[0].startswith("Ringing · poll 1")
    assert verdict(world) is None


def test_poll_after_the_deadline_queries_once_more(world: World) -> None:
    """S25: the poll was late, so the call may have ended meanwhile."""
    world.upstream.life = life((0, "Scheduling"), (7_000, "Succeeded"))
    start(world)
    world.clock.move_to(START + 9_000)
    assert world.run(0)[0].startswith("已完成 · ended")
    assert len(world.upstream.queries) == 1


@pytest.mark.parametrize(
    "answer", [pytest.param("Executing", id="still active"), pytest.param(Unavailable("x"), id="failed")]
)
def test_last_query_without_an_end_expires(world: World, answer: str | ApiError) -> None:
    """S25: the verdict does not describe the call."""
    world.upstream.life = lambda _job, _age: answer
    start(world)
    world.clock.move_to(START + 9_000)
    world.run(1)
    assert verdict(world) == "expired"
    assert len(world.upstream.queries) == 1


def test_call_stored_after_its_deadline_is_queried_once_even_if_its_first_poll_dies(world: World) -> None:
    """S25 S28: the process dies between the fence and the query, and the next poll is due at once."""

    def stopped(_request: object) -> list[CallRecord]:
        world.clock.sleep(7_201)
        return [record(JOB)]

    world.upstream.dials = [stopped]
    assert world.trigger()["outcome"] == "started"
    assert isinstance(world.store.begin_polls([(JOB, 1)])[0], PollStarted)
    world.run(5)
    assert len(world.upstream.queries) == 1
    assert verdict(world) == "ended"


def test_kwargs_carry_countdown_retry_count_and_deadline(world: World) -> None:
    """S20 S38: the state of the watch travels in the message."""
    world.upstream.life = lambda _job, _age: Unavailable("down")
    start(world)
    world.run(35)
    message = world.queue.published[2]
    assert message.keys() == {
        *("job_id", "case_id", "mediation_id", "person_id", "countdown", "due", "deadline", "retry_count", "poll_no"),
    }
    assert (message["job_id"], message["case_id"], message["mediation_id"]) == (JOB, "C-1", "20")
    assert (message["poll_no"], message["retry_count"], message["countdown"]) == (3, 2, 10)
    assert message["deadline"] == START + 7_200


def test_kwargs_of_another_version_are_accepted(world: World) -> None:
    """S38: unknown ones ignored, missing ones taken from the record."""
    start(world)
    world.clock.sleep(10)
    assert world.poll(job_id=JOB, poll_no=1, novelty="x") == "已完成 · ended after poll 1"
    assert world.events() == ["started", "ended"]
    assert world.redis.exists("t:lock:C-1:20") == 0


@pytest.mark.parametrize(
    "kwargs",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"job_id": JOB}, id="no number"),
        pytest.param({"job_id": 5, "poll_no": "x"}, id="wrong kinds"),
        pytest.param({"job_id": "j-unknown", "poll_no": 1}, id="no record"),
    ],
)
def test_invalid_poll_is_dropped(world: World, kwargs: dict[str, object]) -> None:
    """S20 S38: and makes no query."""
    start(world)
    assert world.poll(**kwargs).startswith("dropped:")
    assert world.upstream.queries == []


def test_unavailable_store_ends_a_poll_without_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """S28: the poll gives up; its lease repeats it."""
    start(world)

    def away(*_: object) -> None:
        raise StoreUnavailable("Redis: ConnectionError")

    monkeypatch.setattr(type(world.store), "begin_polls", away)
    assert set(world.run(11)) == {"not started, due again when the lease ends: Redis: ConnectionError"}

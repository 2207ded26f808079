"""Test the poll executor: concurrent queries, grouped writes, lease renewal, isolated failures (S20, S28)."""

import asyncio
import logging
import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest

from api_client import CallStatus, Unavailable
from tests.deployment import wait_until
from worker.container import SystemClock
from worker.core.decision import Policy, Poll
from worker.core.interfaces import StoreUnavailable
from worker.core.messages import PollMessage
from worker.core.model import Pair
from worker.core.poll_model import OutageChange, PollEnd, PollInProgress, PollStarted
from worker.flows.poll import PollFlow
from worker.runtime import poll_executor as module
from worker.runtime.poll_executor import MAX_POLLS, PollExecutor

LEASE = 0.06  # seconds


class Store:
    """Record written and renewed polls; raise each scripted failure once."""

    def __init__(self) -> None:
        self.groups: list[list[PollEnd]] = []
        self.renewed: list[Sequence[tuple[str, int]]] = []
        self.failures: list[Exception] = []
        self.renewal_failures: list[Exception] = []

    def write_polls(self, ends: Sequence[PollEnd]) -> list[OutageChange]:
        if self.failures:
            raise self.failures.pop()
        self.groups.append(list(ends))
        return ["no_change"] * len(ends)

    def renew_polls(self, polls: Sequence[tuple[str, int]]) -> None:
        if self.renewal_failures:
            raise self.renewal_failures.pop()
        self.renewed.append(polls)

    @property
    def written(self) -> dict[str, str]:
        return {end.job_id: end.result for group in self.groups for end in group}


class Upstream:
    """Respond at once, hang until released, or fail, depending on the job's name."""

    def __init__(self) -> None:
        self.queried: list[str] = []
        self.released = asyncio.Event()
        self.closed = False

    async def __call__(self, *, case_ref: str, job_id: str) -> CallStatus:
        assert case_ref == "C-1"
        self.queried.append(job_id)
        if job_id.startswith("hangs"):
            await self.released.wait()
        if job_id.startswith("fails"):
            raise Unavailable("GET /status: ReadTimeout")
        if job_id.startswith("breaks"):
            raise KeyError("P-1")
        return CallStatus.model_validate({"jobId": job_id, "callStatus": "Executing"})

    async def close(self) -> None:
        self.closed = True


class World:
    def __init__(self) -> None:
        self.store, self.upstream = Store(), Upstream()
        watch = PollFlow(cast("Any", self.store), lambda _change: None, SystemClock(), Policy(10, 10))
        self.executor = PollExecutor(watch, self.upstream, lease=LEASE)

    def start(self, *jobs: str, **more: Any) -> None:
        self.executor([started_poll(job, **more) for job in jobs])

    def release(self) -> None:
        self.executor._loop.call_soon_threadsafe(self.upstream.released.set)


def started_poll(job_id: str, *, due: float = 1_000, not_before: float = 0, deadline: float = 8_000) -> PollInProgress:
    poll = Poll(3, due, deadline, 0)
    start = PollStarted(1_000.0, Pair("C-1", "20"), poll, "Executing", queried=True)
    message = PollMessage(job_id=job_id, case_id="C-1", mediation_id="20", not_before=not_before)
    return PollInProgress(message, start, SystemClock().monotonic())


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(module, "PAUSE", 0.01)
    world = World()
    yield world
    world.release()
    world.executor.close(30)


def test_s20_hanging_query_delays_no_other(world: World) -> None:
    """The other nineteen are written at once; the lease of the hanging one is renewed meanwhile."""
    jobs = [f"job-{number}" for number in range(19)]
    world.start("hangs", *jobs)
    wait_until(lambda: len(world.store.written) == 19)
    assert len(world.store.groups) < 19, "written in groups"
    wait_until(lambda: world.executor.free() == MAX_POLLS - 1)
    before = len(world.store.renewed)
    wait_until(lambda: len(world.store.renewed) > before + 1)
    assert world.store.renewed[-1] == [("hangs", 4)]
    world.release()
    wait_until(lambda: "hangs" in world.store.written)
    wait_until(lambda: world.executor.free() == MAX_POLLS)
    renewed = len(world.store.renewed)
    world.start("job-20")
    wait_until(lambda: "job-20" in world.store.written)
    assert all(("hangs", 4) not in polls for polls in world.store.renewed[renewed + 1 :])


def test_s23_each_call_receives_its_own_result(world: World) -> None:
    world.start("fails", "job-1")
    wait_until(lambda: world.store.written == {"fails": "unavailable", "job-1": "answer"})


def test_s25_poll_at_the_deadline_sends_no_query(world: World) -> None:
    world.start("job-1", due=8_000)
    wait_until(lambda: world.store.written == {"job-1": "nothing"})
    assert world.upstream.queried == []


def test_throttled_query_waits_until_its_time(world: World) -> None:
    """With a query limit the store assigns the time."""
    begin = SystemClock().monotonic()
    world.start("job-1", not_before=1_000.1)
    wait_until(lambda: world.store.written)
    assert SystemClock().monotonic() - begin >= 0.1
    (end,) = world.store.groups[0]
    assert end.timing is not None
    assert end.timing.late >= 0.1


def test_s28_unexpected_error_affects_only_its_own_call(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """S37: the log names the error's type only. The lease expires, which counts as a failed query (S28)."""
    world.start("breaks", "job-1")
    wait_until(lambda: world.store.written == {"job-1": "answer"} and world.executor.free() == MAX_POLLS)
    assert "poll failed: KeyError" in caplog.messages


def test_s28_results_are_kept_while_the_store_is_unavailable(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The fence decides whether they still count; lease renewal is retried too."""
    caplog.set_level(logging.INFO)
    world.store.failures = [StoreUnavailable("Redis: gone")] * 3
    world.store.renewal_failures = [StoreUnavailable("Redis: gone")]
    world.start("hangs", "job-1")
    wait_until(lambda: world.store.written == {"job-1": "answer"})
    wait_until(lambda: world.store.renewed)
    assert caplog.messages.count("store away, 1 answers not written yet: Redis: gone") == 3
    assert "leases not renewed: Redis: gone" in caplog.messages


def test_unwritable_result_does_not_block_later_ones(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.store.failures = [KeyError("P-1")]
    world.start("job-1")
    wait_until(lambda: any("polls not written: KeyError" in line for line in caplog.messages))
    world.start("job-2")
    wait_until(lambda: world.store.written == {"job-2": "answer"})
    wait_until(lambda: world.executor.free() == MAX_POLLS)


def test_results_are_written_in_limited_groups(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITTEN", 4)
    world.start(*(f"job-{number}" for number in range(10)))
    wait_until(lambda: len(world.store.written) == 10)
    assert max(map(len, world.store.groups)) == 4


@pytest.mark.parametrize(
    ("soft", "hard", "allowed"), [(1_024, 4_096, 2_000), (1_024, 1_500, 1_024), (8_192, 8_192, 8_192)]
)
def test_open_file_limit_is_raised_up_to_the_hard_limit(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, allowed: int
) -> None:
    """Each poll in flight needs a socket."""
    limits = {"now": (soft, hard)}
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _kind, both: limits.update(now=both))
    assert module.files_allowed(2_000) == allowed
    assert limits["now"] == (allowed, hard)


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_s28_closing_executor_waits_for_polls_in_flight() -> None:
    world = World()
    world.start("hangs", "job-1")
    closing = in_thread(lambda: world.executor.close(30))
    wait_until(lambda: "job-1" in world.store.written)
    assert closing.is_alive()
    world.release()
    closing.join(30)
    assert set(world.store.written) == {"hangs", "job-1"}
    assert "poll-executor" not in {thread.name for thread in threading.enumerate()}


def test_s28_closing_executor_stops_waiting_after_its_limit() -> None:
    """The lease of an abandoned poll expires, and another process takes it over."""
    world = World()
    world.start("hangs")
    wait_until(lambda: world.upstream.queried)
    in_thread(lambda: world.executor.close(0)).join(30)
    assert world.store.written == {}
    assert world.upstream.closed

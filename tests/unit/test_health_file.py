"""Test the worker's health file: waiting messages, a stuck event loop, failing sweeps, an unavailable store (S41)."""

import os
import signal
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery.worker import state

from cli.up.embedded_redis import EmbeddedServer
from tests.unit.test_bootsteps import use
from worker import bootsteps, tasks
from worker.app import app
from worker.core.interfaces import StoreUnavailable
from worker.runtime.celery_config import TASKS
from worker.runtime.liveness import RESTART_AFTER, TICK
from worker.store import RedisStore


class Monotonic:
    """A monotonic clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Monotonic:
    clock = Monotonic()
    monkeypatch.setattr(bootsteps, "time", clock)
    return clock


@pytest.fixture(autouse=True)
def _idle_worker_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reset Celery's counters of received and active tasks."""
    monkeypatch.setattr(state, "total_count", type(state.total_count)())
    monkeypatch.setattr(state, "active_requests", weakref.WeakSet())


@pytest.fixture
def health(
    monkeypatch: pytest.MonkeyPatch, redis_url: str, tmp_path: Path, clock: Monotonic
) -> Iterator[bootsteps.WorkerHealth]:
    """A worker of all queues with two threads whose event loop has just ticked."""
    parts = use(monkeypatch, redis_url=redis_url, health_file=str(tmp_path / "health"), health_limit=5)
    (tmp_path / "health").write_text("an earlier worker's")
    health = bootsteps.WorkerHealth(parts.settings, threads=2)
    assert not (tmp_path / "health").exists(), "the health file of an earlier worker is removed"
    clock.now += 1
    health.tick()
    yield health
    health.close()


def test_idle_worker_writes_its_health_file_and_removes_it_at_close(
    health: bootsteps.WorkerHealth, tmp_path: Path
) -> None:
    health.renew_file()
    assert (tmp_path / "health").read_text() == "6\n", "seconds: the limit plus the sweep between two updates"
    health.close()
    assert not (tmp_path / "health").exists()


def works(health: bootsteps.WorkerHealth) -> None:
    """Record a tick of the event loop and a success of sweep and dispatcher."""
    health.tick()
    health.succeeded("sweep")
    health.succeeded("dispatcher")


@pytest.mark.parametrize(("thread", "limit"), [("sweep", 8), ("dispatcher", 8)])
def test_s41_failing_sweep_or_dispatcher_is_unhealthy(
    health: bootsteps.WorkerHealth, tmp_path: Path, clock: Monotonic, thread: str, limit: float
) -> None:
    clock.now += 100
    works(health)
    clock.now += limit
    for other in {"sweep", "dispatcher"} - {thread}:
        health.succeeded(other)
    health.tick()
    health.renew_file()
    assert (tmp_path / "health").exists()
    (tmp_path / "health").unlink()
    clock.now += 0.1
    health.tick()
    health.renew_file()
    assert not (tmp_path / "health").exists()
    health.succeeded(thread)
    health.renew_file()
    assert (tmp_path / "health").exists()


@pytest.mark.parametrize("queue", TASKS)
def test_worker_that_ignores_waiting_messages_is_unhealthy(
    health: bootsteps.WorkerHealth, tmp_path: Path, redis_url: str, queue: str
) -> None:
    """In each of its queues; the worker is healthy again once it takes one message there, even if more wait."""
    with redis.Redis.from_url(redis_url) as client:
        client.lpush(queue, "x", "y")
    health.renew_file()
    assert not (tmp_path / "health").exists()
    state.total_count[TASKS[queue]] += 1
    health.renew_file()
    assert (tmp_path / "health").exists()


@pytest.mark.parametrize(("at_work", "healthy"), [(1, False), (2, True)], ids=["a thread is free", "all have a dial"])
def test_s14_fully_busy_worker_stays_healthy_for_the_longest_dial(
    health: bootsteps.WorkerHealth, tmp_path: Path, redis_url: str, clock: Monotonic, at_work: int, healthy: bool
) -> None:
    """S14: 90 s to read, 3 s to connect, 15 s of grace."""
    with redis.Redis.from_url(redis_url) as client:
        client.lpush("outbound.trigger", "x")
    dials = [Dial() for _ in range(at_work)]
    state.active_requests.update(dials)
    clock.now = 1_000 + 90 + 3 + 15
    works(health)
    health.renew_file()
    assert (tmp_path / "health").exists() is healthy
    (tmp_path / "health").unlink(missing_ok=True)
    clock.now += 1
    works(health)
    health.renew_file()
    assert not (tmp_path / "health").exists()


def test_worker_with_a_stuck_event_loop_is_unhealthy(
    health: bootsteps.WorkerHealth, tmp_path: Path, clock: Monotonic
) -> None:
    clock.now += 3 * TICK + 0.1
    health.renew_file()
    assert not (tmp_path / "health").exists()


@pytest.mark.parametrize("away", ["redis_url", "broker_url"])
def test_s37_worker_without_store_or_broker_is_unhealthy(
    monkeypatch: pytest.MonkeyPatch,
    redis_url: str,
    tmp_path: Path,
    clock: Monotonic,
    caplog: pytest.LogCaptureFixture,
    away: str,
) -> None:
    """The log names the error in one word, without an address (S37)."""
    given = {"redis_url": redis_url, "broker_url": redis_url} | {away: "redis://127.0.0.1:1/0"}
    parts = use(monkeypatch, health_file=str(tmp_path / "health"), health_limit=1, **given)
    health = bootsteps.WorkerHealth(parts.settings, threads=2)
    clock.now += 3
    health.tick()
    health.renew_file()
    assert not (tmp_path / "health").exists()
    reason = "StoreUnavailable" if away == "redis_url" else "ConnectionError"
    assert caplog.messages[-1] == f"unhealthy: Redis does not answer: {reason}"
    health.close()


class Timer:
    """A worker's timer that records repeated callbacks and their intervals."""

    def __init__(self) -> None:
        self.repeated: list[tuple[float, Any]] = []

    def call_repeatedly(self, seconds: float, callback: Any) -> "Timer":
        self.repeated.append((seconds, callback))
        return self

    def cancel(self) -> None:
        self.repeated.clear()


@pytest.mark.parametrize("end", ["stop", "terminate", "shutdown"])
def test_event_loop_ticks_while_the_consumer_is_connected(health: bootsteps.WorkerHealth, end: str) -> None:
    parent = SimpleNamespace(controller=SimpleNamespace(callwatch_health=health), timer=Timer())
    step = bootsteps.TickStep(parent)
    step.start(parent)
    assert parent.timer.repeated == [(TICK, health.tick)]
    getattr(step, end)(parent)
    assert parent.timer.repeated == []


def test_event_loop_does_not_tick_without_a_health_file() -> None:
    parent = SimpleNamespace(controller=SimpleNamespace(), timer=Timer())
    bootsteps.TickStep(parent).start(parent)
    assert parent.timer.repeated == []


def test_health_check_knows_the_task_of_each_queue() -> None:
    assert {task: queue for queue, task in TASKS.items()} == app.conf.task_routes
    assert set(TASKS.values()) == {task.name for task in (tasks.trigger, tasks.poll, tasks.look_up)}


@pytest.fixture
def signals_sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The signals that the worker sends to itself; a second end exits the process."""
    sent: list[int] = []

    def exit_process(code: int) -> None:
        raise Ended(code)

    ends = SimpleNamespace(kill=lambda _pid, number: sent.append(number), _exit=exit_process, getpid=os.getpid)
    monkeypatch.setattr(bootsteps, "os", ends)
    return sent


def pass_time(health: bootsteps.WorkerHealth, clock: Monotonic, seconds: float) -> None:
    """Let the sweep fail for some time, in an event loop that runs."""
    for _ in range(int(seconds // 10)):
        clock.now += 10
        health.tick()
        health.succeeded("dispatcher")
        health.renew_file()


def test_s41_worker_whose_sweep_fails_for_long_ends_for_its_supervisor(
    health: bootsteps.WorkerHealth, clock: Monotonic, signals_sent: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """First by SIGTERM, as a supervisor stops it; if it is still there after as long again, at once."""
    health.renew_file()
    pass_time(health, clock, RESTART_AFTER)
    assert signals_sent == []
    pass_time(health, clock, 20)
    assert signals_sent == [signal.SIGTERM]
    assert "unhealthy for 300 s: the worker ends" in caplog.text
    with pytest.raises(Ended):
        pass_time(health, clock, RESTART_AFTER + 20)


def test_s41_event_loop_ends_a_worker_whose_sweep_hangs(
    health: bootsteps.WorkerHealth, clock: Monotonic, signals_sent: list[int]
) -> None:
    for _ in range(31):
        clock.now += 10
        health.tick()
    assert signals_sent == [signal.SIGTERM]


def test_s41_healthy_worker_never_ends(
    health: bootsteps.WorkerHealth, clock: Monotonic, signals_sent: list[int]
) -> None:
    for _ in range(100):
        clock.now += 10
        works(health)
        health.renew_file()
    assert signals_sent == []


def test_s41_worker_does_not_end_because_redis_is_away(
    health: bootsteps.WorkerHealth, clock: Monotonic, signals_sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new process would not find another Redis, and an answer that waits for Redis would be lost."""

    def away(_: object) -> float:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(RedisStore, "now", away)
    pass_time(health, clock, 3 * RESTART_AFTER)
    assert signals_sent == []


@pytest.mark.parametrize("refusing", ["redis_url", "broker_url"])
@pytest.mark.parametrize(
    "setting",
    [("min-replicas-to-write", 1), ("maxmemory", 1)],
    ids=["its replicas are away", "its memory is full"],
)
def test_s41_worker_does_not_end_because_redis_takes_no_writes(
    monkeypatch: pytest.MonkeyPatch,
    redis_url: str,
    tmp_path: Path,
    clock: Monotonic,
    signals_sent: list[int],
    caplog: pytest.LogCaptureFixture,
    refusing: str,
    setting: tuple[str, int],
) -> None:
    """It answers, so that only a write shows it; until it takes writes again, each sweep and dispatch fails."""
    with EmbeddedServer(appendfsync="no") as server, redis.Redis.from_url(server.url) as operator:
        given = {"redis_url": redis_url, "broker_url": redis_url} | {refusing: server.url}
        parts = use(monkeypatch, health_file=str(tmp_path / "health"), health_limit=1, **given)
        health = bootsteps.WorkerHealth(parts.settings, threads=2)
        operator.config_set(*setting)
        pass_time(health, clock, 3 * RESTART_AFTER)
        assert signals_sent == []
        assert caplog.messages[-1].startswith("unhealthy: Redis takes no writes: ")
        operator.config_set(setting[0], 0)
        pass_time(health, clock, RESTART_AFTER + 20)
        assert signals_sent == [signal.SIGTERM]
        health.close()
        parts.store.client.close()


def test_s41_missing_right_is_no_refusal_of_redis(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: Monotonic, signals_sent: list[int]
) -> None:
    with EmbeddedServer(appendfsync="no") as server, redis.Redis.from_url(server.url) as operator:
        operator.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-set")
        url = server.url.replace(f"default:{server.password}", "app:pw")
        parts = use(monkeypatch, redis_url=url, broker_url=url, health_file=str(tmp_path / "health"))
        health = bootsteps.WorkerHealth(parts.settings, threads=2)
        pass_time(health, clock, RESTART_AFTER + 20)
        assert signals_sent == [signal.SIGTERM]
        health.close()
        parts.store.client.close()


def test_s18_worker_does_not_end_during_a_dial(
    health: bootsteps.WorkerHealth, clock: Monotonic, signals_sent: list[int]
) -> None:
    """S18: the dial may hold an answer that no other process has."""
    dial = Dial()
    state.active_requests.add(dial)
    pass_time(health, clock, 2 * RESTART_AFTER)
    assert signals_sent == []
    state.active_requests.clear()
    pass_time(health, clock, RESTART_AFTER)
    assert signals_sent == [signal.SIGTERM]


def test_s41_worker_ends_also_while_tasks_begin_in_other_threads(
    health: bootsteps.WorkerHealth, clock: Monotonic, signals_sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Iterating over Celery's set of them raises an error then, which would end the thread of the sweep."""

    class Changing(weakref.WeakSet[Any]):
        def __iter__(self) -> Iterator[Any]:
            raise RuntimeError("Set changed size during iteration")

    monkeypatch.setattr(state, "active_requests", Changing())
    pass_time(health, clock, RESTART_AFTER + 20)
    assert signals_sent == [signal.SIGTERM]


def test_s41_suspended_process_begins_anew(
    health: bootsteps.WorkerHealth, clock: Monotonic, signals_sent: list[int]
) -> None:
    pass_time(health, clock, RESTART_AFTER - 50)
    clock.now += 10 * RESTART_AFTER
    health.tick()
    assert signals_sent == []


class Ended(Exception):  # noqa: N818
    """The process would have exited."""


class Dial:
    """A request of the task that dials."""

    name = "outbound.trigger"

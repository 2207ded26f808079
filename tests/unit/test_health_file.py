"""Test the worker's health file: waiting messages, a stuck event loop, failing sweeps, an unavailable store (S41)."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery.worker import state

from tests.bootsteps import Dial, Monotonic, use, works
from worker import bootsteps, tasks
from worker.app import app
from worker.runtime.celery_config import TASKS
from worker.runtime.liveness import TICK


def test_idle_worker_writes_its_health_file_and_removes_it_at_close(
    health: bootsteps.WorkerHealth, tmp_path: Path
) -> None:
    health.renew_file()
    assert (tmp_path / "health").read_text() == "6\n", "seconds: the limit plus the sweep between two updates"
    health.close()
    assert not (tmp_path / "health").exists()


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

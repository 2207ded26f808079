"""Test that a worker ends for its supervisor after failing for long, and at no other time (S18, S41)."""

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
from tests.bootsteps import Dial, Monotonic, use, works
from worker import bootsteps
from worker.core.interfaces import StoreUnavailable
from worker.runtime.liveness import RESTART_AFTER
from worker.store import RedisStore


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

"""Test the worker's bootsteps: sweep, dispatcher, notifier, heartbeat file, and their life cycle (S28, S35)."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery.worker import state

from cli.up.embedded_redis import EmbeddedServer
from config.settings import Settings
from tests.deployment import wait_until
from tests.receiver import SECRET, Receiver
from worker import bootsteps, tasks
from worker.app import app
from worker.container import Container, SystemClock, build_store
from worker.core.interfaces import StoreUnavailable
from worker.core.messages import PollMessage, TriggerResult
from worker.core.model import AbandonedClaim, NewJob, Pair, Settlement
from worker.core.notice import CHANNELS
from worker.runtime.celery_config import CONTROL_QUEUE, POLL_QUEUE, TASKS, TRIGGER_QUEUE
from worker.runtime.liveness import RESTART_AFTER, TICK
from worker.store import RedisStore

NOWHERE = "redis://127.0.0.1:1/0"


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
    monkeypatch.setattr(state, "active_requests", set())


def use(monkeypatch: pytest.MonkeyPatch, **given: Any) -> Container:
    """Build a worker's container from settings and let the bootsteps use it."""
    settings = Settings(_env_file=None, key_prefix="t", **given)
    parts = Container(settings, build_store(settings), None, SystemClock())  # type: ignore[arg-type]
    monkeypatch.setattr(bootsteps, "container", lambda: parts)
    return parts


# -- the sweep ---------------------------------------------------------------------------------------------------------


class Published(tasks.Publisher):
    """Record the triggers that the sweep publishes."""

    def __init__(self) -> None:
        self.triggers: list[str] = []

    def trigger(self, abandoned: AbandonedClaim) -> None:
        self.triggers.append(abandoned.task_id)


class PublishedPolls:
    """Record the polls that the dispatcher publishes."""

    def __init__(self, _settings: Settings) -> None:
        self.jobs: list[str] = []

    def waiting(self) -> int:
        return 0

    def __call__(self, polls: Sequence[PollMessage]) -> None:
        self.jobs += [message.job_id for message in polls]


def watch_a_call(store: RedisStore) -> None:
    """Watch a call whose poll is due."""
    pair = Pair("C-1", "20")
    store.claim(pair, token="tok", task_id="task-1", arguments="{}", expires=None, enabled=True)
    sent_at = store.begin_sending(pair, "tok")
    assert isinstance(sent_at, float)
    job = NewJob("job-1", "P-1", "Executing", -60)
    result = TriggerResult.of("started", "C-1", "20")
    assert store.settle(Settlement(pair, "tok", "task-1", result, "watching", sent_at, [job], []))


@pytest.mark.parametrize("end", ["stop", "terminate"])
@pytest.mark.parametrize("healthy", [True, False], ids=["with health file", "without"])
def test_s28_sweep_runs_while_the_worker_runs(
    monkeypatch: pytest.MonkeyPatch, redis_url: str, tmp_path: Path, end: str, healthy: bool
) -> None:
    """Each sweep updates the health file if one is configured; the worker removes it at its end."""
    file, published = tmp_path / "health", Published()
    parts = use(monkeypatch, redis_url=redis_url, sweep_interval=0.02, health_file=str(file) if healthy else "")
    monkeypatch.setattr(bootsteps, "Publisher", lambda: published)
    parts.store.claim(Pair("C-1", "20"), token="tok", task_id="dead", arguments="{}", expires=None, enabled=True)
    parts.store.client.hset("t:ledger:C-1:20", "claimed_at", parts.store.now() - 60)
    parts.store.client.zadd("t:pairs", {"C-1:20": 1})
    parent = SimpleNamespace(concurrency=8)
    step = bootsteps.SweepStep(parent)
    step.start(parent)
    wait_until(lambda: "dead" in published.triggers)
    assert hasattr(parent, "callwatch_health") is healthy
    if healthy:
        wait_until(file.exists)
    getattr(step, end)(parent)
    assert "sweep" not in {thread.name for thread in threading.enumerate()}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("end", ["stop", "terminate"])
def test_s20_dispatcher_runs_while_the_worker_runs(monkeypatch: pytest.MonkeyPatch, redis_url: str, end: str) -> None:
    parts = use(monkeypatch, redis_url=redis_url)
    published = PublishedPolls(parts.settings)
    monkeypatch.setattr(bootsteps, "PollQueue", lambda _settings: published)
    watch_a_call(parts.store)
    succeeded: list[str] = []
    parent = SimpleNamespace(callwatch_health=SimpleNamespace(succeeded=succeeded.append))
    step = bootsteps.DispatcherStep(parent)
    step.start(parent)
    wait_until(lambda: "job-1" in published.jobs and succeeded)
    getattr(step, end)(parent)
    assert "dispatcher" not in {thread.name for thread in threading.enumerate()}
    assert set(succeeded) == {"dispatcher"}


def test_dispatcher_runs_without_a_health_file(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    parts = use(monkeypatch, redis_url=redis_url)
    published = PublishedPolls(parts.settings)
    monkeypatch.setattr(bootsteps, "PollQueue", lambda _settings: published)
    watch_a_call(parts.store)
    step = bootsteps.DispatcherStep(SimpleNamespace())
    step.start(SimpleNamespace())
    wait_until(lambda: "job-1" in published.jobs)
    step.stop(SimpleNamespace())


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that runs several sweeps of a worker with given queues and settings."""

    def run(queues: Sequence[str], **settings: Any) -> None:
        parts = use(monkeypatch, sweep_interval=0.02, **settings)
        monkeypatch.setattr(app.amqp.queues, "_consume_from", None)
        app.amqp.queues.select(queues)
        rounds: list[None] = []
        monkeypatch.setattr(RedisStore, "cache_counts", lambda *_, **__: rounds.append(None))
        step = bootsteps.SweepStep(SimpleNamespace())
        step.start(SimpleNamespace(concurrency=8))
        wait_until(lambda: len(rounds) > 3)
        step.stop(SimpleNamespace())
        parts.store.client.close()

    return run


DIALS, POLLS = (TRIGGER_QUEUE, POLL_QUEUE), (POLL_QUEUE, CONTROL_QUEUE)
WARNING = "a crash of Redis may lose the record of a call request: set appendonly yes"


@pytest.mark.parametrize(
    ("queues", "demo", "lines"),
    [
        pytest.param(DIALS, False, 1, id="a worker that dials"),
        pytest.param(POLLS, False, 0, id="a worker that only polls"),
        pytest.param(DIALS, True, 0, id="a demonstration"),
    ],
)
def test_s18_dialling_worker_warns_once_about_a_non_durable_redis(
    sweeps: Callable[..., None],
    redis_url: str,
    caplog: pytest.LogCaptureFixture,
    queues: Sequence[str],
    demo: bool,
    lines: int,
) -> None:
    """S18: the tests' own server does not sync to disk."""
    sweeps(queues, redis_url=redis_url, demo=demo)
    assert [line.startswith(WARNING) for line in caplog.messages].count(True) == lines


def test_s18_durable_redis_causes_no_warning(sweeps: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    """S18: the server of `callwatch up` is durable."""
    with EmbeddedServer() as server:
        sweeps(DIALS, redis_url=server.url)
    assert WARNING not in caplog.text


def test_s18_durability_check_is_repeated_when_redis_was_unavailable(
    sweeps: Callable[..., None], redis_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S18: the check runs with each sweep until Redis responds."""
    answers: list[Any] = [StoreUnavailable("away"), "none"]

    def durability(_: RedisStore) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(RedisStore, "durability", property(durability))
    sweeps(DIALS, redis_url=redis_url)
    assert answers == []
    assert caplog.text.count(WARNING) == 1


def test_steps_that_never_started_can_be_stopped() -> None:
    """Celery stops every step, including those that it has not started."""
    step = bootsteps.SweepStep(SimpleNamespace())
    step.stop(SimpleNamespace())
    dispatcher = bootsteps.DispatcherStep(SimpleNamespace())
    dispatcher.stop(SimpleNamespace())
    tick = bootsteps.TickStep(SimpleNamespace())
    tick.stop(SimpleNamespace())


# -- the health file ---------------------------------------------------------------------------------------------------


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
    state.active_requests.update(range(at_work))
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
    given = {"redis_url": redis_url, "broker_url": redis_url} | {away: NOWHERE}
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


# -- notices -----------------------------------------------------------------------------------------------------------


def test_s35_notifier_delivers_over_each_configured_channel_while_the_worker_runs(
    monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    """Each channel has its own thread, which ends with the worker."""
    with Receiver() as receiver:
        parts = use(
            monkeypatch,
            redis_url=redis_url,
            notice_url=receiver.url,
            notice_secret=SECRET,
            notice_task="calls.notice",
            notice_queue="back-end",
        )
        sent: list[str] = []
        monkeypatch.setattr(app, "send_task", lambda name, **_: sent.append(name))
        event = json.dumps({"at": 1.0, "kind": "ended", "case_id": "C-1", "mediation_id": "20"})
        for channel in CHANNELS:
            parts.store.client.xadd(parts.store.keys.outbox(channel), {"id": "1-0", "event": event})
        step = bootsteps.NotifierStep(SimpleNamespace())
        step.start(SimpleNamespace())
        wait_until(lambda: receiver.taken and sent)
        step.stop(SimpleNamespace())
    assert sent == ["calls.notice"]
    assert [notice["case_id"] for notice in receiver.taken] == ["C-1"]
    assert receiver.forged == []
    wait_until(
        lambda: not [thread for thread in threading.enumerate() if thread.name in ("notices-webhook", "notices-task")]
    )


def test_notifier_starts_no_thread_without_a_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch)
    before = threading.active_count()
    bootsteps.NotifierStep(SimpleNamespace()).start(SimpleNamespace())
    assert threading.active_count() == before


def test_app_registers_all_bootsteps() -> None:
    assert {bootsteps.SweepStep, bootsteps.DispatcherStep, bootsteps.NotifierStep} <= app.steps["worker"]
    assert bootsteps.TickStep in app.steps["consumer"]


def test_health_check_knows_the_task_of_each_queue() -> None:
    assert {task: queue for queue, task in TASKS.items()} == app.conf.task_routes
    assert set(TASKS.values()) == {task.name for task in (tasks.trigger, tasks.poll, tasks.look_up)}


# -- the end of a stuck worker -----------------------------------------------------------------------------------------


class Dial:
    """A request of the task that dials."""

    name = "outbound.trigger"


class Ended(Exception):  # noqa: N818
    """The process would have exited."""


@pytest.fixture
def signals_sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The signals that the worker sends to itself; a second end exits the process."""
    sent: list[int] = []

    def exit_process(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(os, "kill", lambda _pid, number: sent.append(number))
    monkeypatch.setattr(os, "_exit", exit_process)
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


@pytest.mark.parametrize("cause", ["Redis is away", "Redis takes no writes"])
def test_s41_worker_does_not_end_because_of_redis(
    health: bootsteps.WorkerHealth,
    clock: Monotonic,
    signals_sent: list[int],
    monkeypatch: pytest.MonkeyPatch,
    cause: str,
) -> None:
    """A new process would not find another Redis, and an answer that waits for Redis would be lost."""

    def away(_: object) -> float:
        raise StoreUnavailable("gone")

    if cause == "Redis is away":
        monkeypatch.setattr(RedisStore, "now", away)
    for _ in range(4):
        pass_time(health, clock, RESTART_AFTER / 2)
        health._primaries[0].generation += 1
        health.renew_file()
    assert signals_sent == []


def test_s18_worker_does_not_end_during_a_dial(
    health: bootsteps.WorkerHealth, clock: Monotonic, signals_sent: list[int]
) -> None:
    """S18: the dial may hold an answer that no other process has."""
    state.active_requests.add(Dial())
    pass_time(health, clock, 2 * RESTART_AFTER)
    assert signals_sent == []
    state.active_requests.clear()
    pass_time(health, clock, RESTART_AFTER)
    assert signals_sent == [signal.SIGTERM]


def test_s41_suspended_process_begins_anew(
    health: bootsteps.WorkerHealth, clock: Monotonic, signals_sent: list[int]
) -> None:
    pass_time(health, clock, RESTART_AFTER - 50)
    clock.now += 10 * RESTART_AFTER
    health.tick()
    assert signals_sent == []

"""What lives in a worker beside its tasks: begun with it, ended with it, and the sign that it works (S28, S35)."""

import json
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
from worker.runtime.liveness import TICK
from worker.store import RedisStore

NOWHERE = "redis://127.0.0.1:1/0"


class Monotonic:
    """A clock that stands, for the judge."""

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
def _of_this_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing taken, nothing at work."""
    monkeypatch.setattr(state, "total_count", type(state.total_count)())
    monkeypatch.setattr(state, "active_requests", set())


def use(monkeypatch: pytest.MonkeyPatch, **given: Any) -> Container:
    """Build a worker's parts of settings and put them under the bootsteps."""
    settings = Settings(_env_file=None, key_prefix="t", **given)
    parts = Container(settings, build_store(settings), None, SystemClock())  # type: ignore[arg-type]
    monkeypatch.setattr(bootsteps, "container", lambda: parts)
    return parts


# -- the sweep ---------------------------------------------------------------------------------------------------------


class Published(tasks.Publisher):
    """Remembers what the sweep published."""

    def __init__(self) -> None:
        self.triggers: list[str] = []

    def trigger(self, abandoned: AbandonedClaim) -> None:
        self.triggers.append(abandoned.task_id)


class PublishedPolls:
    """Remembers what the dispatcher published."""

    def __init__(self, _settings: Settings) -> None:
        self.jobs: list[str] = []

    def waiting(self) -> int:
        return 0

    def __call__(self, polls: Sequence[PollMessage]) -> None:
        self.jobs += [message.job_id for message in polls]


def watch_a_call(store: RedisStore) -> None:
    """Have a call watched whose poll is due."""
    pair = Pair("C-1", "20")
    store.claim(pair, token="tok", task_id="task-1", arguments="{}", expires=None, enabled=True)
    sent_at = store.begin_sending(pair, "tok")
    assert isinstance(sent_at, float)
    job = NewJob("job-1", "P-1", "Executing", -60)
    result = TriggerResult.of("started", "C-1", "20")
    assert store.settle(Settlement(pair, "tok", "task-1", result, "watching", sent_at, [job], []))


@pytest.mark.parametrize("end", ["stop", "terminate"])
@pytest.mark.parametrize("signs", [True, False], ids=["with a sign", "without"])
def test_s28_a_worker_sweeps_from_its_start_to_its_end(
    monkeypatch: pytest.MonkeyPatch, redis_url: str, tmp_path: Path, end: str, signs: bool
) -> None:
    """And signs after each sweep, where that is asked for; the sign goes with the worker."""
    sign, published = tmp_path / "sign", Published()
    parts = use(monkeypatch, redis_url=redis_url, sweep_interval=0.02, health_file=str(sign) if signs else "")
    monkeypatch.setattr(bootsteps, "Publisher", lambda: published)
    parts.store.claim(Pair("C-1", "20"), token="tok", task_id="dead", arguments="{}", expires=None, enabled=True)
    parts.store.client.hset("t:ledger:C-1:20", "claimed_at", parts.store.now() - 60)
    parts.store.client.zadd("t:pairs", {"C-1:20": 1})
    parent = SimpleNamespace(concurrency=8)
    step = bootsteps.SweepStep(parent)
    step.start(parent)
    wait_until(lambda: "dead" in published.triggers)
    assert hasattr(parent, "callwatch_health") is signs
    if signs:
        wait_until(sign.exists)
    getattr(step, end)(parent)
    assert "sweep" not in {thread.name for thread in threading.enumerate()}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("end", ["stop", "terminate"])
def test_s20_a_worker_dispatches_from_its_start_to_its_end(
    monkeypatch: pytest.MonkeyPatch, redis_url: str, end: str
) -> None:
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


def test_a_worker_without_a_sign_dispatches_all_the_same(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
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
    """Let a worker of some queues, with some settings, come through several sweeps."""

    def run(queues: Sequence[str], **settings: Any) -> None:
        parts = use(monkeypatch, sweep_interval=0.02, **settings)
        monkeypatch.setattr(app.amqp.queues, "_consume_from", None)
        app.amqp.queues.select(queues)
        turns: list[None] = []
        monkeypatch.setattr(RedisStore, "cache_counts", lambda *_, **__: turns.append(None))
        step = bootsteps.SweepStep(SimpleNamespace())
        step.start(SimpleNamespace(concurrency=8))
        wait_until(lambda: len(turns) > 3)
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
def test_a_worker_says_once_that_redis_may_forget_a_request(
    sweeps: Callable[..., None],
    redis_url: str,
    caplog: pytest.LogCaptureFixture,
    queues: Sequence[str],
    demo: bool,
    lines: int,
) -> None:
    """S18: the tests' own server does not wait for its disk."""
    sweeps(queues, redis_url=redis_url, demo=demo)
    assert [line.startswith(WARNING) for line in caplog.messages].count(True) == lines


def test_a_worker_says_nothing_of_a_redis_that_keeps_requests(
    sweeps: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """S18: that of `callwatch up` is such a one."""
    with EmbeddedServer() as server:
        sweeps(DIALS, redis_url=server.url)
    assert WARNING not in caplog.text


def test_a_redis_that_is_away_at_the_start_is_asked_again(
    sweeps: Callable[..., None], redis_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S18."""
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


def test_a_worker_that_ends_before_it_began_ends() -> None:
    """Celery stops every step, also those that it has not come to."""
    step = bootsteps.SweepStep(SimpleNamespace())
    step.stop(SimpleNamespace())
    dispatcher = bootsteps.DispatcherStep(SimpleNamespace())
    dispatcher.stop(SimpleNamespace())
    tick = bootsteps.TickStep(SimpleNamespace())
    tick.stop(SimpleNamespace())


# -- the sign ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def health(
    monkeypatch: pytest.MonkeyPatch, redis_url: str, tmp_path: Path, clock: Monotonic
) -> Iterator[bootsteps.WorkerHealth]:
    """A worker of all queues with two threads, whose loop has just turned."""
    parts = use(monkeypatch, redis_url=redis_url, health_file=str(tmp_path / "sign"), health_limit=5)
    (tmp_path / "sign").write_text("an earlier worker's")
    health = bootsteps.WorkerHealth(parts.settings, threads=2)
    assert not (tmp_path / "sign").exists(), "what an earlier worker left says nothing of this one"
    clock.now += 1
    health.tick()
    yield health
    health.close()


def test_an_idle_worker_signs_and_takes_its_sign_away(health: bootsteps.WorkerHealth, tmp_path: Path) -> None:
    health.renew_file()
    assert (tmp_path / "sign").read_text() == "6\n", "seconds: the limit, and the sweep that comes between two signs"
    health.close()
    assert not (tmp_path / "sign").exists()


def works(health: bootsteps.WorkerHealth) -> None:
    """Let the event loop turn, and sweep and dispatcher succeed."""
    health.tick()
    health.succeeded("sweep")
    health.succeeded("dispatcher")


@pytest.mark.parametrize(("thread", "limit"), [("sweep", 8), ("dispatcher", 8)])
def test_s41_a_worker_whose_sweep_or_dispatcher_does_not_succeed_does_not_sign(
    health: bootsteps.WorkerHealth, tmp_path: Path, clock: Monotonic, thread: str, limit: float
) -> None:
    clock.now += 100
    works(health)
    clock.now += limit
    for other in {"sweep", "dispatcher"} - {thread}:
        health.succeeded(other)
    health.tick()
    health.renew_file()
    assert (tmp_path / "sign").exists()
    (tmp_path / "sign").unlink()
    clock.now += 0.1
    health.tick()
    health.renew_file()
    assert not (tmp_path / "sign").exists()
    health.succeeded(thread)
    health.renew_file()
    assert (tmp_path / "sign").exists()


@pytest.mark.parametrize("queue", TASKS)
def test_a_worker_that_leaves_what_waits_does_not_sign(
    health: bootsteps.WorkerHealth, tmp_path: Path, redis_url: str, queue: str
) -> None:
    """In each of its queues; it signs again once it has taken something there, though more waits."""
    with redis.Redis.from_url(redis_url) as client:
        client.lpush(queue, "x", "y")
    health.renew_file()
    assert not (tmp_path / "sign").exists()
    state.total_count[TASKS[queue]] += 1
    health.renew_file()
    assert (tmp_path / "sign").exists()


@pytest.mark.parametrize(("at_work", "signs"), [(1, False), (2, True)], ids=["a thread is free", "all have a dial"])
def test_a_worker_with_all_hands_full_is_excused_for_as_long_as_a_dial_may_take(
    health: bootsteps.WorkerHealth, tmp_path: Path, redis_url: str, clock: Monotonic, at_work: int, signs: bool
) -> None:
    """S14: 90 s to read, 3 s to connect, and 15 s of grace."""
    with redis.Redis.from_url(redis_url) as client:
        client.lpush("outbound.trigger", "x")
    state.active_requests.update(range(at_work))
    clock.now = 1_000 + 90 + 3 + 15
    works(health)
    health.renew_file()
    assert (tmp_path / "sign").exists() is signs
    (tmp_path / "sign").unlink(missing_ok=True)
    clock.now += 1
    works(health)
    health.renew_file()
    assert not (tmp_path / "sign").exists()


def test_a_worker_whose_loop_does_not_turn_does_not_sign(
    health: bootsteps.WorkerHealth, tmp_path: Path, clock: Monotonic
) -> None:
    clock.now += 3 * TICK + 0.1
    health.renew_file()
    assert not (tmp_path / "sign").exists()


@pytest.mark.parametrize("away", ["redis_url", "broker_url"])
def test_a_worker_whose_redis_is_away_does_not_sign(
    monkeypatch: pytest.MonkeyPatch,
    redis_url: str,
    tmp_path: Path,
    clock: Monotonic,
    caplog: pytest.LogCaptureFixture,
    away: str,
) -> None:
    """Neither without its store nor without its broker; both are named in one word and without an address (S37)."""
    given = {"redis_url": redis_url, "broker_url": redis_url} | {away: NOWHERE}
    parts = use(monkeypatch, health_file=str(tmp_path / "sign"), health_limit=1, **given)
    health = bootsteps.WorkerHealth(parts.settings, threads=2)
    clock.now += 3
    health.tick()
    health.renew_file()
    assert not (tmp_path / "sign").exists()
    reason = "StoreUnavailable" if away == "redis_url" else "ConnectionError"
    assert caplog.messages[-1] == f"unhealthy: Redis does not answer: {reason}"
    health.close()


class Timer:
    """A worker's timer: what it was asked to repeat, and how often."""

    def __init__(self) -> None:
        self.repeated: list[tuple[float, Any]] = []

    def call_repeatedly(self, seconds: float, callback: Any) -> "Timer":
        self.repeated.append((seconds, callback))
        return self

    def cancel(self) -> None:
        self.repeated.clear()


@pytest.mark.parametrize("end", ["stop", "terminate", "shutdown"])
def test_the_loop_ticks_while_there_is_a_connection(health: bootsteps.WorkerHealth, end: str) -> None:
    parent = SimpleNamespace(controller=SimpleNamespace(callwatch_health=health), timer=Timer())
    step = bootsteps.TickStep(parent)
    step.start(parent)
    assert parent.timer.repeated == [(TICK, health.tick)]
    getattr(step, end)(parent)
    assert parent.timer.repeated == []


def test_nothing_ticks_where_no_sign_is_asked_for() -> None:
    parent = SimpleNamespace(controller=SimpleNamespace(), timer=Timer())
    bootsteps.TickStep(parent).start(parent)
    assert parent.timer.repeated == []


# -- notices -----------------------------------------------------------------------------------------------------------


def test_s35_a_worker_tells_back_ends_from_its_start_to_its_end(
    monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    """Over each channel that is configured, by a thread of its own."""
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


def test_nobody_is_told_where_nothing_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch)
    before = threading.active_count()
    bootsteps.NotifierStep(SimpleNamespace()).start(SimpleNamespace())
    assert threading.active_count() == before


def test_every_step_is_part_of_every_worker() -> None:
    assert {bootsteps.SweepStep, bootsteps.DispatcherStep, bootsteps.NotifierStep} <= app.steps["worker"]
    assert bootsteps.TickStep in app.steps["consumer"]


def test_the_sign_looks_at_each_queue_for_the_task_that_comes_by_it() -> None:
    assert {task: queue for queue, task in TASKS.items()} == app.conf.task_routes
    assert set(TASKS.values()) == {task.name for task in (tasks.trigger, tasks.poll, tasks.look_up)}

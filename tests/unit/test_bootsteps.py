"""Test the bootsteps of a worker: sweep, dispatcher, notifier, and their life cycle (S28, S35)."""

import itertools
import json
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli.up.embedded_redis import EmbeddedServer
from config.settings import Settings
from tests.bootsteps import use
from tests.deployment import wait_until
from tests.pairs import bring_to
from tests.receiver import SECRET, Receiver
from worker import bootsteps, tasks
from worker.app import app
from worker.core.interfaces import StoreUnavailable
from worker.core.messages import PollMessage
from worker.core.model import Pair
from worker.core.notice import CHANNELS
from worker.core.trigger_model import AbandonedClaim
from worker.runtime.celery_config import CONTROL_QUEUE, POLL_QUEUE, TRIGGER_QUEUE
from worker.store import RedisStore

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
    bring_to(parts.store, "watching")
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
    bring_to(parts.store, "watching")
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
def test_s18_dialling_worker_warns_about_a_non_durable_redis_with_the_settings_found(
    sweeps: Callable[..., None],
    redis_url: str,
    caplog: pytest.LogCaptureFixture,
    queues: Sequence[str],
    demo: bool,
    lines: int,
) -> None:
    """S18: the tests' own server does not sync to disk. The start logs one line, whatever the number of sweeps."""
    sweeps(queues, redis_url=redis_url, demo=demo)
    found = [line for line in caplog.messages if line.startswith(WARNING)]
    assert len(found) == lines
    assert all(re.search(r"; found: appendfsync no on Valkey \d", line) for line in found)


def test_s18_the_warning_is_repeated_every_hour(
    sweeps: Callable[..., None], redis_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reading of the clock is 40 minutes later."""
    moments = itertools.count(0, 2_400)
    monkeypatch.setattr(bootsteps, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    sweeps(DIALS, redis_url=redis_url)
    assert caplog.text.count(WARNING) > 1


def test_s18_durable_redis_causes_no_warning(sweeps: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    """S18: it flushes each write before it confirms it."""
    with EmbeddedServer(appendfsync="always") as server:
        sweeps(DIALS, redis_url=server.url)
    assert WARNING not in caplog.text


def test_s18_durability_check_is_repeated_when_redis_was_unavailable(
    sweeps: Callable[..., None], redis_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S18: the check runs with each sweep until Redis responds."""
    answers: list[Any] = [StoreUnavailable("away"), WARNING]

    def durability_fault(_: RedisStore) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(RedisStore, "durability_fault", durability_fault)
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

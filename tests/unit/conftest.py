"""Share fixtures: an environment without settings, a server that tests may kill, a worker's health check."""

import logging
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery.worker import state

from cli.up.embedded_redis import EmbeddedServer
from config.settings import Settings
from tests.bootsteps import Monotonic, use
from worker import bootsteps
from worker.runtime.transport import QoS


@pytest.fixture
def no_unrestored_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QoS, "left", set())
    monkeypatch.setattr(QoS, "popped", {})


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """A server that these tests may kill."""
    with EmbeddedServer(appendfsync="always") as one:
        yield one


@pytest.fixture
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting comes from this environment or from an `.env`."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"CALLWATCH_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Monotonic:
    """The clock of the bootsteps, in a worker that has received no task."""
    clock = Monotonic()
    monkeypatch.setattr(bootsteps, "time", clock)
    monkeypatch.setattr(state, "total_count", type(state.total_count)())
    monkeypatch.setattr(state, "active_requests", weakref.WeakSet())
    return clock


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


@pytest.fixture
def restored_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start a test without handlers, and restore the logging of the test run afterwards."""
    root = logging.getLogger()
    level = root.level
    monkeypatch.setattr(root, "handlers", [])
    yield
    root.setLevel(level)
    logging.captureWarnings(capture=False)

"""Build what the bootsteps of a worker use, and set its clock, event loop and tasks."""

from typing import Any

import pytest

from config.settings import Settings
from worker import bootsteps
from worker.container import Container, SystemClock, build_store


def use(monkeypatch: pytest.MonkeyPatch, **given: Any) -> Container:
    """Build a worker's container from settings and let the bootsteps use it."""
    settings = Settings(_env_file=None, key_prefix="t", **given)
    parts = Container(settings, build_store(settings), None, SystemClock())  # type: ignore[arg-type]
    monkeypatch.setattr(bootsteps, "container", lambda: parts)
    return parts


class Monotonic:
    """A monotonic clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


def works(health: bootsteps.WorkerHealth) -> None:
    """Record a tick of the event loop and a success of sweep and dispatcher."""
    health.tick()
    health.succeeded("sweep")
    health.succeeded("dispatcher")


class Dial:
    """A request of the task that dials."""

    name = "outbound.trigger"

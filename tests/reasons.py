"""Read the reasons of triggers and watches from history, counters and log lines."""

from typing import Any

import pytest

from tests.fakes import START
from tests.world import World

CALLING_HOURS = {"calling_hours": "09:00-21:00"}
AT_NIGHT = START + 86_400 - START % 86_400 + 15 * 3_600  # 23:00 in China


def last_event(world: World) -> dict[str, Any]:
    """Return kind, reason and task of the newest event of the case."""
    event = world.store.history("C-1")[-1]
    return {name: event.get(name) for name in ("kind", "reason", "task_id")}


def counted(world: World, subject: str = "trigger") -> dict[str, int]:
    """Return the counters of reasons."""
    head = f"reasons:{subject}:"
    return {name.removeprefix(head): n for name, n in world.store.counters().items() if name.startswith(head)}


def logged(caplog: pytest.LogCaptureFixture) -> set[str]:
    """Return the reasons that the log lines carry."""
    return {reason for line in caplog.records if (reason := getattr(line, "reason", None))}

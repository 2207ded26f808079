"""Run a worker that publishes every poll twice: `celery -A tests.faults.doubled worker`."""

from typing import Any

from worker import tasks
from worker.app import app

__all__ = ["app"]

_apply_async = tasks.poll.apply_async


def _publish(**options: Any) -> Any:
    _apply_async(**options)
    return _apply_async(**options)


tasks.poll.apply_async = _publish

"""Celery's pool of threads, with a line for the polls; see docs/adr/0014-line.md."""

import functools
import json
from collections.abc import Callable
from typing import Any

from celery.concurrency import thread
from celery.concurrency.base import apply_target

from worker.line import Line

POLL_TASK = "outbound.poll"
POLLS_AT_WORK = 4  # of one process; those that wait for upstream do not count


class TaskPool(thread.TaskPool):
    """Threads for tasks in the order of arrival, polls excepted: they wait in a line for their threads."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._line = Line(POLLS_AT_WORK, self.executor.submit)

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        **others: Any,
    ) -> thread.ApplyResult | None:
        """Put a poll into the line; hand any other task to a thread."""
        name, _id, _headers, body = args[:4]  # as celery.worker.request has it
        if name != POLL_TASK:
            return super().on_apply(target, args, kwargs, callback, accept_callback, **others)
        work = functools.partial(apply_target, target, args, kwargs, callback, accept_callback)
        self._line.put(work, due=due(body))
        return None

    def on_stop(self) -> None:
        """Wait for what is at work, and begin nothing else."""
        self._line.close()
        super().on_stop()


def due(body: str | bytes) -> float:
    """Return when the poll of a message's body should begin, in epoch seconds; 0 where it does not say."""
    try:
        _args, kwargs, _ = json.loads(body)
        return float(kwargs["due"])
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
        return 0.0  # it is dropped as soon as it is read

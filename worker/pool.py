"""Celery's pool of threads, with a line before it; see docs/adr/0014-line.md."""

import functools
from collections.abc import Callable
from typing import Any

from celery.concurrency import thread
from celery.concurrency.base import apply_target

from worker.line import Line

POLL_TASK = "outbound.poll"
POLLS_AT_WORK = 4  # of one process; those that wait for upstream do not count


class TaskPool(thread.TaskPool):
    """Threads that serve the line, instead of their tasks in the order of arrival."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._line = Line(POLLS_AT_WORK)

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        **_: Any,
    ) -> thread.ApplyResult:
        """Put a task into the line, and send a thread for whichever is next."""
        name, _id, headers = args[:3]  # as celery.worker.request has it
        work = functools.partial(apply_target, target, args, kwargs, callback, accept_callback)
        # The sweep publishes without a time: what is missed is late already. Every other poll has one to wait for.
        self._line.put(work, poll=name == POLL_TASK, missed=not headers.get("eta"))
        return thread.ApplyResult(self.executor.submit(self._line.run_next))

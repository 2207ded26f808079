"""Submit triggers in batches: triggers that arrive during a batch form the next one.

A batch costs one thread switch, one round trip to the store and one to the broker, regardless of its size.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from gateway.problems import Problem
from gateway.triggers import Asked, TriggerDocument
from worker.core.interfaces import StoreUnavailable

MAX_IN_FLIGHT = 2  # concurrent batches
SLOW = 0.2  # seconds after which the next batch may start beside a running one
LONGEST_BATCH = 100  # triggers; more wait for the next batch

Outcome = TriggerDocument | Problem | None


class Intake:
    """Batches the triggers of concurrent requests; `submit` runs in a thread and returns one outcome per trigger."""

    def __init__(self, submit: Callable[[Sequence[Asked]], Sequence[Outcome]], threads: Executor) -> None:
        self._submit = submit
        self._threads = threads
        self._waiting: deque[tuple[Asked, asyncio.Future[TriggerDocument | None]]] = deque()
        self._under_way = 0
        self._begun = 0.0  # when the last batch began, by the loop's clock
        self._scheduled = self._timed = False

    async def take(self, asked: Asked) -> TriggerDocument | None:
        """Submit a trigger with the next batch; return its state, None if it had been handled before.

        Raises the Problem of this trigger, or the exception that `submit` raised for its batch.
        """
        future: asyncio.Future[TriggerDocument | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        self._schedule()
        return await future

    def _schedule(self) -> None:
        """Start a batch after the requests that are ready on the loop now, so that it includes them."""
        if not self._waiting or self._scheduled or self._under_way >= MAX_IN_FLIGHT:
            return
        loop = asyncio.get_running_loop()
        wait = self._begun + SLOW - loop.time() if self._under_way else 0.0
        self._scheduled = wait <= 0
        if self._scheduled:
            loop.call_soon(self._start)
        elif not self._timed:
            self._timed = True
            loop.call_later(wait, self._end_wait)

    def _end_wait(self) -> None:
        self._timed = False
        self._schedule()

    def _start(self) -> None:
        self._scheduled = False
        loop = asyncio.get_running_loop()
        self._begun = loop.time()
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), LONGEST_BATCH))]
        futures = [future for _, future in batch]
        try:
            job = loop.run_in_executor(self._threads, self._submit, [asked for asked, _ in batch])
        except RuntimeError:  # the threads have been shut down
            _settle(futures, [STOPPING] * len(futures))
        else:
            self._under_way += 1
            job.add_done_callback(lambda done: self._finish(done, futures))
        self._schedule()

    def _finish(
        self, done: "asyncio.Future[Sequence[Outcome]]", futures: Sequence["asyncio.Future[TriggerDocument | None]"]
    ) -> None:
        self._under_way -= 1
        self._schedule()
        if done.cancelled():  # the process ends
            _settle(futures, [STOPPING] * len(futures))
        elif (error := done.exception()) is not None:
            _settle(futures, [error] * len(futures))
        else:
            _settle(futures, done.result())


STOPPING = StoreUnavailable("the gateway is stopping")


def _settle(
    futures: Sequence["asyncio.Future[TriggerDocument | None]"], outcomes: Sequence[Outcome | BaseException]
) -> None:
    for future, outcome in zip(futures, outcomes, strict=True):
        if future.done():  # the request was cancelled
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

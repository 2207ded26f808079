"""Carry polls out: query upstream for many calls on one event loop, and write their ends in groups (S20, S28)."""

import asyncio
import logging
import resource
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from api_client import CallStatus
from worker.core.interfaces import StoreUnavailable
from worker.core.poll_model import PollInProgress
from worker.flows.poll import PollDecision, PollFlow

log = logging.getLogger(__name__)

MAX_POLLS = 4_000  # polls in progress in one process, from which on its dispatcher takes no more: each needs a socket
OTHER_FILES = 500  # files that the process opens for other purposes
GATHER = 0.05  # seconds for which answers are collected before they are written together
WRITTEN = 200  # ends of polls in one script: a few milliseconds of Redis' single thread
PAUSE = 0.5  # seconds between two attempts to write while the store is away
RENEWALS = 3  # of a lease before it ends
LEAVE_WITHIN = 5  # seconds for the thread to end: a name resolution in progress blocks it


class QueryStatus(Protocol):
    """The asynchronous client of upstream's status query."""

    async def __call__(self, *, case_ref: str, job_id: str) -> CallStatus:
        """Query the status of a call in one request; raise Unavailable or ProtocolError."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


def files_allowed(wanted: int) -> int:
    """Raise this process's limit of open files to `wanted` if allowed; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return soft


class PollExecutor:
    """Carry polls out on an event loop in a thread of its own; can be called from any thread.

    `status` queries upstream. The executor renews the lease of each poll, `lease` seconds, until its end is written.
    """

    def __init__(self, flow: PollFlow, status: QueryStatus, *, lease: float) -> None:
        self._flow = flow
        self._status = status
        self._lease_seconds = lease
        self._leases: set[tuple[str, int]] = set()
        self._unwritten: list[PollDecision] = []
        self._max_polls = min(MAX_POLLS, files_allowed(MAX_POLLS + OTHER_FILES) - OTHER_FILES)
        self._changed = threading.Condition()
        self._in_progress = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._store_threads = ThreadPoolExecutor(2, "poll-executor-store")  # one writes, one renews
        self._loop = asyncio.new_event_loop()
        self._wake, self._stopping = asyncio.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="poll-executor", daemon=True)
        self._thread.start()

    def __call__(self, polls: Sequence[PollInProgress]) -> None:
        """Start polls on the event loop, and return at once."""
        with self._changed:
            self._in_progress += len(polls)
        self._loop.call_soon_threadsafe(self._begin, polls)

    def free(self) -> int:
        """Return for how many more polls the process has room."""
        return self._max_polls - self._in_progress

    def close(self, limit: float) -> None:
        """Wait up to `limit` seconds for the polls in progress, then stop; the leases of the others expire."""
        with self._changed:
            self._changed.wait_for(lambda: not self._in_progress, limit)
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(LEAVE_WITHIN)
        self._store_threads.shutdown(wait=False)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:  # cancels remaining polls when it closes
            runner.run(self._main())

    async def _main(self) -> None:
        self._keep(self._loop.create_task(self._write_forever()))
        self._keep(self._loop.create_task(self._renew_forever()))
        await self._stopping.wait()
        await self._status.close()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)  # the event loop itself has only weak references to its tasks
        task.add_done_callback(self._tasks.discard)

    def _begin(self, polls: Sequence[PollInProgress]) -> None:
        self._leases.update(current.lease for current in polls)
        for current in polls:
            self._keep(self._loop.create_task(self._carry_out(current)))

    async def _carry_out(self, current: PollInProgress) -> None:
        try:
            outcome = await self._flow.query(current, self._status, asyncio.sleep)
            self._unwritten.append(self._flow.decide_end(current, outcome))
            self._wake.set()
        except Exception as error:  # noqa: BLE001 - affects one call; when its lease ends, it counts as a failure
            log.error("poll failed: %s", type(error).__name__)  # noqa: TRY400 - its text may quote personal data (S37)
            self._finish([current])

    def _finish(self, polls: Sequence[PollInProgress]) -> None:
        """End the renewal of the polls' leases, and free their room; the watch of a call may continue."""
        self._leases.difference_update(current.lease for current in polls)
        with self._changed:
            self._in_progress -= len(polls)
            self._changed.notify_all()

    async def _write_forever(self) -> None:
        while True:
            await self._wake.wait()
            if len(self._unwritten) < WRITTEN:
                await asyncio.sleep(GATHER)
            group = self._unwritten[:WRITTEN]
            try:
                await self._in_thread(self._flow.write, group)
            except StoreUnavailable as error:  # keep the answers and retry; the fence drops those that are outdated
                log.warning("store away, %s answers not written yet: %s", len(self._unwritten), error)
                await asyncio.sleep(PAUSE)
                continue
            except Exception as error:  # noqa: BLE001 - the next group must still be written
                log.error("polls not written: %s", type(error).__name__)  # noqa: TRY400
            del self._unwritten[: len(group)]
            self._finish([decided.current for decided in group])
            if not self._unwritten:
                self._wake.clear()

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / RENEWALS)
            if not self._leases:
                continue
            try:
                await self._in_thread(self._flow.store.renew_polls, list(self._leases))
            except StoreUnavailable as error:
                log.info("leases not renewed: %s", error)

    async def _in_thread(self, step: Callable[..., Any], *args: Any) -> None:
        await self._loop.run_in_executor(self._store_threads, step, *args)

"""Ask about many calls beside each other on one event loop, and write what comes back in groups (S20, S28)."""

import asyncio
import logging
import resource
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from api_client import CallStatus
from worker.core.interfaces import StoreUnavailable
from worker.core.model import StartedPoll
from worker.flows.poll import PollDecision, PollFlow

log = logging.getLogger(__name__)

MOST = 4_000  # polls at work in one process, above which its dispatcher takes no more: each may have a socket …
OTHER_FILES = 500  # … beside these
GROUP = 0.05  # seconds for which answers are gathered before they are written together
WRITTEN = 200  # ends of polls in one step of the store: a few milliseconds of Redis' only thread
PAUSE = 0.5  # seconds between two attempts to write while the store is away
RENEWALS = 3  # of a lease within its time
LEAVE_WITHIN = 5  # seconds for the thread to end: a host name that is being looked up holds it


class QueryStatus(Protocol):
    """The upstream as an event loop asks it."""

    async def __call__(self, *, case_ref: str, job_id: str) -> CallStatus:
        """Ask how a call stands, in one request: Unavailable or ProtocolError where that did not work."""
        ...

    async def close(self) -> None:
        """Close its connections."""
        ...


def files_allowed(wanted: int) -> int:
    """Return how many files this process may open, after asking the system for as many as are wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return soft


class PollExecutor:
    """Carries polls out in a thread of its own; can be called from any thread.

    `status` asks upstream. The leases of polls at work, `lease` seconds each, are renewed until their ends are written.
    """

    def __init__(self, watch: PollFlow, status: QueryStatus, *, lease: float) -> None:
        self._watch = watch
        self._status = status
        self._lease = lease
        self._at_work: set[tuple[str, int]] = set()
        self._answered: list[PollDecision] = []
        self._most = min(MOST, files_allowed(MOST + OTHER_FILES) - OTHER_FILES)
        self._changed = threading.Condition()
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._store_threads = ThreadPoolExecutor(2, "askers-store")  # one renews while the other one writes
        self._loop = asyncio.new_event_loop()
        self._wake, self._leaves = asyncio.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="askers", daemon=True)
        self._thread.start()

    def __call__(self, asks: Sequence[StartedPoll]) -> None:
        """Ask about each call and write what it heard; returns at once."""
        with self._changed:
            self._number += len(asks)
        self._loop.call_soon_threadsafe(self._begin, asks)

    def free(self) -> int:
        """Return for how many more polls there is room."""
        return self._most - self._number

    def close(self, limit: float) -> None:
        """Wait for the polls at work, `limit` seconds at the most, then stop; those that are left lose their leases."""
        with self._changed:
            self._changed.wait_for(lambda: not self._number, limit)
        self._loop.call_soon_threadsafe(self._leaves.set)
        self._thread.join(LEAVE_WITHIN)
        self._store_threads.shutdown(wait=False)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:  # which cancels what is left at its end
            runner.run(self._main())

    async def _main(self) -> None:
        self._keep(self._loop.create_task(self._write_forever()))
        self._keep(self._loop.create_task(self._renew_forever()))
        await self._leaves.wait()
        await self._status.close()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _begin(self, asks: Sequence[StartedPoll]) -> None:
        self._at_work.update(ask.lease for ask in asks)
        for ask in asks:
            self._keep(self._loop.create_task(self._carry_out(ask)))

    async def _carry_out(self, ask: StartedPoll) -> None:
        try:
            hearing = await self._watch.hear(ask, self._status, asyncio.sleep)
            self._answered.append(self._watch.judge(ask, hearing))
            self._wake.set()
        except Exception as error:  # noqa: BLE001 - one call's fault is its own; its lease ends, and that counts
            log.error("poll failed: %s", type(error).__name__)  # noqa: TRY400 - its text may quote anything (S37)
            self._over([ask])

    def _over(self, asks: Sequence[StartedPoll]) -> None:
        self._at_work.difference_update(ask.lease for ask in asks)
        with self._changed:
            self._number -= len(asks)
            self._changed.notify_all()

    async def _write_forever(self) -> None:
        while True:
            await self._wake.wait()
            if len(self._answered) < WRITTEN:
                await asyncio.sleep(GROUP)
            group = self._answered[:WRITTEN]
            try:
                await self._in_thread(self._watch.write, group)
            except StoreUnavailable as error:  # the answers are kept: the fence decides whether they still count
                log.warning("store away, %s answers wait to be written: %s", len(self._answered), error)
                await asyncio.sleep(PAUSE)
                continue
            except Exception as error:  # noqa: BLE001 - the next group has to be written all the same
                log.error("polls not written: %s", type(error).__name__)  # noqa: TRY400
            del self._answered[: len(group)]
            self._over([judged.ask for judged in group])
            if not self._answered:
                self._wake.clear()

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self._lease / RENEWALS)
            if not self._at_work:
                continue
            try:
                await self._in_thread(self._watch.store.renew_polls, list(self._at_work))
            except StoreUnavailable as error:
                log.info("leases not renewed: %s", error)

    async def _in_thread(self, step: Callable[..., Any], *args: Any) -> None:
        await self._loop.run_in_executor(self._store_threads, step, *args)

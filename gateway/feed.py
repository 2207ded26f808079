"""Feed the hub: a thread reads the live stream, one task re-reads changed cases, another sends heartbeats."""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from gateway.hub import SLOTS, Hub, Subscriber, frame
from gateway.live_view import position, recent
from gateway.metrics import Metrics
from gateway.problems import Problem
from gateway.stream import Reader
from worker.core.interfaces import StoreUnavailable
from worker.store import RedisStore
from worker.store.cases import CaseState, SystemState

log = logging.getLogger(__name__)

FETCHED = 1_000  # events in one round trip
READS_A_SECOND = 100  # maximum rate of cases re-read in case events were missed
MOVED_WITHIN = 5.0  # seconds without progress after which the reading thread counts as dead


@dataclass(frozen=True, slots=True)
class Pace:
    """Intervals and time-outs in seconds; `retry` in milliseconds."""

    tick: float = 0.05
    beat: float = 15.0
    wait: float = 1.0
    blocked: float = 30.0
    away: float = 0.5
    retry: tuple[int, int] = (1_000, 10_000)
    renew: float = 30.0
    longest: float = 3_600.0


@dataclass(eq=False)
class Feed:
    """Keeps the subscribers of one process up to date; `interval` is the poll interval in seconds."""

    store: RedisStore
    hub: Hub
    threads: ThreadPoolExecutor
    metrics: Metrics
    interval: float
    pace: Pace = field(default_factory=Pace)
    away: bool = True  # until the first answer of Redis
    closing: bool = False

    def __post_init__(self) -> None:
        self.moved_at = time.monotonic()
        self._ahead = 0.0  # seconds by which the store's clock is ahead of the local clock
        self._oldest: float | None = None  # time of the oldest event not yet applied, by the store's clock
        self._stopped = threading.Event()
        self._wanted = asyncio.Event()
        self._welcomes: dict[Subscriber, asyncio.Future[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def alive(self) -> bool:
        """Whether Redis answers and the reading thread makes progress."""
        return not self.away and time.monotonic() - self.moved_at < MOVED_WITHIN

    def now(self) -> float:
        """Return the store's time (epoch seconds), estimated from its last answer."""
        return time.time() + self._ahead

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the reading thread and the tasks on the running loop."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="events", daemon=True).start()
        self._tasks = [self._loop.create_task(self._tick()), self._loop.create_task(self._beat())]

    async def stop(self) -> None:
        """Stop the thread and the tasks; `close` has ended the streams before."""
        self._stopped.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        """End every stream and refuse new ones; random retry times spread the reconnections."""
        self.closing = True
        for one in self.hub.subscribers():
            one.close("shutdown", self._retry())
        for welcome in self._welcomes.values():
            if not welcome.done():
                welcome.set_exception(Problem("shutting-down"))

    def _retry(self) -> int:
        return random.randint(*self.pace.retry)  # noqa: S311 - spreads reconnections, no secret

    # -- subscribers ---------------------------------------------------------------------------------------------------

    async def follow(self, reader: Reader, *, expires: float | None) -> Callable[[], None]:
        """Subscribe a reader and wait for its snapshot; return the function to call when its stream has ended.

        Raises StoreUnavailable, or Problem. `expires` (epoch seconds) is when the credential expires.
        """
        if self.closing:
            raise Problem("shutting-down")
        if self.away:
            raise StoreUnavailable("Redis does not answer")
        welcome: asyncio.Future[None] = self._loop.create_future()
        self.hub.join(reader)
        self._welcomes[reader] = welcome
        self.metrics.streams.set(len(self.hub))
        self._wanted.set()
        try:
            await welcome
        except BaseException:
            self._leave(reader, None)
            raise
        finally:
            self._welcomes.pop(reader, None)
        lives = self.pace.longest * random.uniform(0.9, 1.1)  # noqa: S311 - spreads reconnections, no secret
        if expires is not None:
            left = max(0.0, expires - time.time())
            lives = min(lives, left - min(self.pace.renew, left / 2))
        timer = self._loop.call_later(lives, lambda: reader.close("renew", self._retry()))
        return lambda: self._leave(reader, timer)

    def _leave(self, reader: Reader, timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()
        self.hub.leave(reader)
        self.metrics.streams.set(len(self.hub))
        if reader.joined:
            self.metrics.closed.labels(reader.closed or "client").inc()

    # -- events --------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Read the live stream until `stop`; after an outage of Redis re-read every followed case."""
        cursor, was_away = "", True
        while not self._stopped.is_set():
            try:
                if not cursor:
                    cursor = f"{round(self.store.now() * 1000)}-0"
                    self.moved_at, was_away = time.monotonic(), False
                    self._on_loop(self._store_found)
                entries = self.store.events(cursor, wait=self.pace.wait, limit=FETCHED)
                gap = len(entries) >= FETCHED and self._missed(cursor)
            except StoreUnavailable as error:
                if not was_away:
                    log.warning("Redis does not answer, streams report it until Redis is back: %s", error)
                was_away, cursor = True, ""
                self._on_loop(self._store_lost)
                self._stopped.wait(self.pace.away)
                continue
            self.moved_at = time.monotonic()
            if gap:
                self._on_loop(self._store_found)
            if entries:
                cursor = entries[-1][0]
                self._on_loop(self._take, [event for _, event in entries], entries[0][0])

    def _missed(self, cursor: str) -> bool:
        first = self.store.first_event()
        return first is not None and position(first) > position(cursor)

    def _on_loop(self, call: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop has ended
            self._stopped.set()

    def _take(self, events: list[dict[str, Any]], oldest: str) -> None:
        self.hub.note(events)
        self.metrics.events.inc(len(events))
        if self._oldest is None and self.hub.wanting:
            self._oldest = position(oldest)[0] / 1000
        self._wanted.set()

    def _store_lost(self) -> None:
        if not self.away:
            self.away = True
            self.metrics.store_up.set(0)
            self.hub.send_all("state", {"store": "away"})
        self._refuse(StoreUnavailable("Redis does not answer"))

    def _store_found(self) -> None:
        if self.away:
            log.info("Redis answers")
            self.hub.send_all("state", {"store": "ok"})
        self.away = False
        self.metrics.store_up.set(1)
        self.hub.touch_all()
        self._wanted.set()

    def _refuse(self, error: Exception) -> None:
        for welcome in self._welcomes.values():
            if not welcome.done():
                welcome.set_exception(error)

    # -- reading -------------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Read the cases to refresh, at most once per tick."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            begin = self._loop.time()
            if self.hub.wanting and not self.away:
                await self._refresh()
                if self.hub.wanting:
                    self._wanted.set()
            await asyncio.sleep(max(0.0, begin + self.pace.tick - self._loop.time()))

    async def _refresh(self) -> None:
        recently, oldest = recent(self.now()), self._oldest
        self._oldest = None
        wanted, joining = self.hub.plan(recently)
        try:
            system, states = await self._loop.run_in_executor(self.threads, self.store.read_cases, wanted)
            self._apply(system, states, joining, recently)
        except StoreUnavailable as error:
            self.hub.failed(wanted)
            self._oldest = oldest
            for one in joining:
                self._settle(one, error)
            return
        except Exception:
            log.exception("cases cannot be shown")
            for one in joining:
                self._settle(one, Problem("internal"))
            return
        if oldest is not None:
            self.metrics.lag.observe(max(0.0, self.now() - oldest))

    def _apply(
        self, system: SystemState, states: list[CaseState], joining: list[Subscriber], recently: tuple[int, int]
    ) -> None:
        self._ahead = system.now - time.time()
        self.hub.apply(system, states, joining, recently=recently, at=self._loop.time())
        for one in joining:
            self._settle(one, None)

    def _settle(self, one: Subscriber, error: Exception | None) -> None:
        welcome = self._welcomes.get(one)
        if welcome is None or welcome.done():
            return
        if error is None:
            welcome.set_result(None)
        else:
            welcome.set_exception(error)

    # -- heartbeats ----------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        """Send heartbeats to one group of streams at a time, drop blocked streams, re-read old cases."""
        number = 0
        while True:
            await asyncio.sleep(self.pace.beat / SLOTS)
            number = (number + 1) % SLOTS
            sent = frame("beat", {"now": round(self.now(), 3)})
            for one in list(self.hub.slots[number]):
                if one.overflown or self._is_blocked(one):
                    self._drop(one)
                elif one.joined:
                    one.put(("beat",), sent)
            self._touch_old()

    def _is_blocked(self, one: Subscriber) -> bool:
        since = one.sending_since if isinstance(one, Reader) else None
        return since is not None and self._loop.time() - since > self.pace.blocked

    def _drop(self, one: Subscriber) -> None:
        if isinstance(one, Reader):
            one.drop(self._retry())

    def _touch_old(self) -> None:
        """Schedule cases last read a poll interval ago; with many cases the period grows to bound the rate."""
        period = max(self.interval, self.hub.cases / READS_A_SECOND)
        at_once = 1 + round(READS_A_SECOND * self.pace.beat / SLOTS)
        self.hub.touch_old(self._loop.time() - period, at_once)
        if self.hub.wanting and not self.away:
            self._wanted.set()

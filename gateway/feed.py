"""Feed the hub: one thread reads the live stream, one task re-reads what has changed, one spreads heartbeats."""

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
from gateway.metrics import Metrics
from gateway.problems import Problem
from gateway.showing import position, recent
from gateway.stream import Reader
from worker.core.interfaces import StoreUnavailable
from worker.store import RedisStore
from worker.store.cases import CaseState, Surroundings

log = logging.getLogger(__name__)

FETCHED = 1_000  # events in one round trip
READS_A_SECOND = 100  # cases that the net re-reads at the most
MOVED_WITHIN = 5.0  # seconds within which the reading thread has to move, to count as alive


@dataclass(frozen=True, slots=True)
class Pace:
    """How often what happens, in seconds; retries in milliseconds."""

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
    """What keeps the subscribers of one process up to date. `interval` is the poll interval, in seconds."""

    store: RedisStore
    hub: Hub
    threads: ThreadPoolExecutor
    metrics: Metrics
    interval: float
    pace: Pace = field(default_factory=Pace)
    away: bool = True  # until Redis has answered for the first time
    closing: bool = False

    def __post_init__(self) -> None:
        self.moved_at = time.monotonic()
        self._ahead = 0.0  # seconds that the store's clock is ahead of this machine's
        self._oldest: float | None = None  # time of the oldest event that is not shown yet, by the store's clock
        self._stopped = threading.Event()
        self._wanted = asyncio.Event()
        self._welcomes: dict[Subscriber, asyncio.Future[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def alive(self) -> bool:
        """Whether Redis answers and the reading thread moves."""
        return not self.away and time.monotonic() - self.moved_at < MOVED_WITHIN

    def now(self) -> float:
        """Return the store's time, as it was told last (epoch seconds)."""
        return time.time() + self._ahead

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, on the running loop."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="events", daemon=True).start()
        self._tasks = [self._loop.create_task(self._tick()), self._loop.create_task(self._beat())]

    async def stop(self) -> None:
        """End; whoever follows has been told by `close`."""
        self._stopped.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        """End every stream at once, and take no new one; each comes back at another moment."""
        self.closing = True
        for one in self.hub.subscribers():
            one.close("shutdown", self._retry())
        for welcome in self._welcomes.values():
            if not welcome.done():
                welcome.set_exception(Problem("shutting-down"))

    def _retry(self) -> int:
        return random.randint(*self.pace.retry)  # noqa: S311 - spreads those who come back, and guards nothing

    # -- subscribers ---------------------------------------------------------------------------------------------------

    async def follow(self, reader: Reader, *, expires: float | None) -> Callable[[], None]:
        """Let one follow its cases and return once its snapshot is there; call what is returned when it has ended.

        Raises StoreUnavailable, or Problem. `expires` (epoch seconds) is when its credential ends.
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
        lives = self.pace.longest * random.uniform(0.9, 1.1)  # noqa: S311 - likewise
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
        """Read the live stream until the end; what follows Redis' absence is read anew, whole."""
        cursor, was_away = "", True
        while not self._stopped.is_set():
            try:
                if not cursor:
                    cursor = f"{round(self.store.now() * 1000)}-0"
                    self.moved_at, was_away = time.monotonic(), False
                    self._hand_over(self._find_store)
                entries = self.store.events(cursor, wait=self.pace.wait, limit=FETCHED)
                gap = len(entries) >= FETCHED and self._missed(cursor)
            except StoreUnavailable as error:
                if not was_away:
                    log.warning("Redis does not answer, streams say so until it does: %s", error)
                was_away, cursor = True, ""
                self._hand_over(self._lose_store)
                self._stopped.wait(self.pace.away)
                continue
            self.moved_at = time.monotonic()
            if gap:
                self._hand_over(self._find_store)
            if entries:
                cursor = entries[-1][0]
                self._hand_over(self._take, [event for _, event in entries], entries[0][0])

    def _missed(self, cursor: str) -> bool:
        first = self.store.first_event()
        return first is not None and position(first) > position(cursor)

    def _hand_over(self, call: Callable[..., None], *args: Any) -> None:
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

    def _lose_store(self) -> None:
        if not self.away:
            self.away = True
            self.metrics.store_up.set(0)
            self.hub.tell_all("state", {"store": "away"})
        self._refuse(StoreUnavailable("Redis does not answer"))

    def _find_store(self) -> None:
        if self.away:
            log.info("Redis answers")
            self.hub.tell_all("state", {"store": "ok"})
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
        """Read what is wanted, at the most once a tick."""
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
            surroundings, states = await self._loop.run_in_executor(self.threads, self.store.read_cases, wanted)
            self._apply(surroundings, states, joining, recently)
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
        self, surroundings: Surroundings, states: list[CaseState], joining: list[Subscriber], recently: tuple[int, int]
    ) -> None:
        self._ahead = surroundings.now - time.time()
        self.hub.apply(surroundings, states, joining, recently=recently, at=self._loop.time())
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
        """Send heartbeats to one group of streams after the other, drop those that take nothing, spread the net."""
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
            self._spread_net()

    def _is_blocked(self, one: Subscriber) -> bool:
        since = one.sending_since if isinstance(one, Reader) else None
        return since is not None and self._loop.time() - since > self.pace.blocked

    def _drop(self, one: Subscriber) -> None:
        if isinstance(one, Reader):
            one.drop(self._retry())

    def _spread_net(self) -> None:
        """Have some of the cases read again, whose last time is an interval ago or, where they are many, longer."""
        period = max(self.interval, self.hub.cases / READS_A_SECOND)
        at_once = 1 + round(READS_A_SECOND * self.pace.beat / SLOTS)
        self.hub.touch_old(self._loop.time() - period, at_once)
        if self.hub.wanting and not self.away:
            self._wanted.set()

"""The flow of notices: read the outbox → queue each pair in a partition → deliver or retry → delete the entry."""

import itertools
import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from worker.core.interfaces import Clock, Deliver, NotDelivered, Outbox, StoreUnavailable
from worker.core.model import OutboxEntry, Pair
from worker.core.notice import Notice

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 4  # concurrent deliveries of one channel, so that its threads take little time from polls
LOCK_TTL = 10.0  # seconds of the leader lock; its holder renews it
TICK = 0.25  # seconds between two reads of the outbox
BATCH = 1_000  # entries read in one round trip
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds of back-off: 1, 2, 4 … 60, each shortened by up to a half (jitter)
DOWN_AFTER, PROBE_EVERY = 5, 2.0  # consecutive failures that open the circuit breaker; seconds between probes then


@dataclass(slots=True)
class Partition:
    """The outbox entries of one pair, oldest first; `not_before` in seconds of the schedule's clock."""

    waiting: deque[OutboxEntry] = field(default_factory=deque)
    not_before: float = 0
    failures: int = 0
    busy: bool = False


class DeliverySchedule:
    """Schedule deliveries: FIFO per pair, pairs concurrently, circuit breaker while the receiver is down.

    Pure: `now` comes from any monotonic clock, in seconds; `jitter` returns numbers from 0 to 1.
    A pair whose delivery failed is scheduled after all pairs that have not failed, and after those that failed before
    it, so that a pair whose notices always fail delays no other pair, not even while probes alone are sent.
    """

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._partitions: dict[Pair, Partition] = {}
        self._failing: dict[Pair, Partition] = {}
        self._jitter = jitter
        self._failures = 0
        self._probe_at = 0.0
        self._busy = 0

    def __len__(self) -> int:
        return sum(len(partition.waiting) for partition in self._all())

    @property
    def down(self) -> bool:
        """Whether the circuit breaker is open: the receiver counts as down."""
        return self._failures >= DOWN_AFTER

    def add(self, entries: Iterable[OutboxEntry]) -> None:
        """Append entries to the partitions of their pairs."""
        for entry in entries:
            partition = self._failing.get(entry.pair) or self._partitions.setdefault(entry.pair, Partition())
            partition.waiting.append(entry)

    def take(self, now: float) -> list[OutboxEntry]:
        """Return the entries to deliver now, at most one of each partition.

        The caller must report the end of each by `over` or `failed`.
        """
        free = MAX_IN_FLIGHT - self._busy
        if self.down:
            free = 1 - self._busy if now >= self._probe_at else 0
        taken: list[OutboxEntry] = []
        for partition in self._all():
            if len(taken) >= free:
                break
            if not partition.busy and now >= partition.not_before:
                partition.busy = True
                taken.append(partition.waiting[0])
        self._busy += len(taken)
        return taken

    def over(self, entry: OutboxEntry) -> None:
        """Remove a delivered or dropped entry, and reset the back-off of its partition."""
        partition = self._free(entry)
        partition.waiting.popleft()
        partition.failures, partition.not_before = 0, 0
        if partition.waiting:
            self._partitions[entry.pair] = partition

    def accepted(self) -> bool:
        """Record a success and close the circuit breaker; return whether it was open.

        If it was, all partitions may deliver at once.
        """
        was_down, self._failures = self.down, 0
        if was_down:
            for partition in self._all():
                partition.not_before = 0
        return was_down

    def failed(self, entry: OutboxEntry, now: float) -> bool:
        """Record a failure and start the back-off; return whether it opened the circuit breaker."""
        partition = self._failing[entry.pair] = self._free(entry)
        partition.failures += 1
        pause = min(FIRST_PAUSE * 2 ** min(partition.failures - 1, 10), LONGEST_PAUSE)
        partition.not_before = now + pause * (1 - self._jitter() / 2)
        self._failures += 1
        self._probe_at = now + PROBE_EVERY * (1 - self._jitter() / 2)
        if self.down:  # any partition may send the next probe
            partition.not_before = min(partition.not_before, self._probe_at)
        return self._failures == DOWN_AFTER

    def _all(self) -> Iterator[Partition]:
        return itertools.chain(self._partitions.values(), self._failing.values())

    def _free(self, entry: OutboxEntry) -> Partition:
        """Remove the partition of an entry; the caller adds it again behind the others if needed."""
        partition = self._partitions.pop(entry.pair, None) or self._failing.pop(entry.pair)
        partition.busy = False
        self._busy -= 1
        return partition


class Notifier:
    """Deliver the outbox of one channel, as the holder of its leader lock; `token` identifies this process in the lock.

    Delivery is at least once, and in order for each pair: an entry is deleted after the receiver has accepted it, and
    the next entry of the pair waits until then.
    """

    def __init__(self, outbox: Outbox, deliver: Deliver, clock: Clock, *, token: str) -> None:
        self._outbox = outbox
        self._deliver = deliver
        self._clock = clock
        self._token = token
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._pool = ThreadPoolExecutor(MAX_IN_FLIGHT, thread_name_prefix=f"notices-{outbox.channel}")
        self._schedule, self._cursor, self._look_at = DeliverySchedule(), "-", 0.0

    def run(self, over: threading.Event) -> None:
        """Deliver until `over` is set. No error ends the loop."""
        while not over.is_set():
            try:
                leads = self.deliver_due()
            except Exception as error:  # noqa: BLE001 - no error may end the thread
                log.error("notices: %s: %s", type(error).__name__, error)  # noqa: TRY400 - a traceback would add nothing
                leads = False
            if leads:
                self._wake.wait(TICK)
                self._wake.clear()
            else:
                self._forget()
                over.wait(LOCK_TTL / 10)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def deliver_due(self) -> bool:
        """Read new entries and start due deliveries; return False if another worker has the leader lock."""
        now = self._clock.monotonic()
        if now >= self._look_at:
            if not self._outbox.acquire_leader_lock(self._token, LOCK_TTL):
                return False
            self._read()
            self._look_at = now + TICK
        with self._lock:
            taken = self._schedule.take(now)
        for entry in taken:
            self._pool.submit(self.deliver_one, entry, self._schedule)
        return True

    def _read(self) -> None:
        while entries := self._outbox.read(self._cursor, limit=BATCH):
            self._cursor = entries[-1].position
            with self._lock:
                self._schedule.add(entries)
            if len(entries) < BATCH:
                return

    def deliver_one(self, entry: OutboxEntry, schedule: DeliverySchedule) -> None:
        """Deliver one entry and report its end to the schedule."""
        again = self._try(entry, schedule)
        went_away = False
        with self._lock:
            if again is None:
                schedule.over(entry)
            else:
                went_away = schedule.failed(entry, self._clock.monotonic())
        if went_away:
            log.error("notices are not taken by the %s and wait: %s", self._outbox.channel, again)
        self._wake.set()

    def _try(self, entry: OutboxEntry, schedule: DeliverySchedule) -> str | None:
        """Try to deliver an entry; return why it must be retried, or None if it is finished."""
        try:
            where = self._outbox.look(entry, self._token)
            if where != "here":
                return None if where == "gone" else "another worker has the leader lock"
            self._deliver(Notice.of(entry.notice_id, entry.event))
            with self._lock:
                came_back = schedule.accepted()
            if came_back:
                log.warning("notices are taken again by the %s", self._outbox.channel)
            self._outbox.delivered(entry)
        except StoreUnavailable as error:
            return str(error)
        except NotDelivered as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - an unreadable entry must not block its partition
            reason = type(error).__name__
        else:
            return None
        return None if self._given_up(entry, reason) else reason

    def _given_up(self, entry: OutboxEntry, reason: str) -> bool:
        try:
            given_up = self._outbox.give_up(entry, reason)
        except StoreUnavailable:
            return False
        if given_up:
            names = {
                "case_id": entry.pair.case_id,
                "mediation_id": entry.pair.mediation_id,
                "notice_id": entry.notice_id,
            }
            log.error("notice moved to the dead letters: %s", reason, extra=names)
        return given_up

    def _forget(self) -> None:
        """Read the outbox from its beginning again: another worker may have delivered entries meanwhile."""
        self._schedule, self._cursor, self._look_at = DeliverySchedule(), "-", 0.0

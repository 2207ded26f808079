"""The flow of notices: read the outbox → one lane for each pair, in order → deliver, or try later → strike it out."""

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

MAX_IN_FLIGHT = 4  # deliveries at a time: what one worker's threads can spare beside the polls
TURN = 10.0  # seconds for which one worker delivers; renewed while it lives
TICK = 0.25  # seconds between two looks into the outbox
BATCH = 1_000  # entries read in one round trip
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before a notice is tried again: 1, 2, 4 … 60, each less up to a half
DOWN_AFTER, PROBE_EVERY = 5, 2.0  # failures in a row after which the receiver is away; seconds between two probes then


@dataclass(slots=True)
class Partition:
    """What waits for one pair, the oldest first; `not_before` in seconds of the clock that its methods are given."""

    waiting: deque[OutboxEntry] = field(default_factory=deque)
    not_before: float = 0
    failures: int = 0
    busy: bool = False


class DeliverySchedule:
    """Schedule deliveries: in order within a pair, pairs beside each other, few while the receiver is away.

    A pair whose delivery failed comes after all pairs that have not failed, and after those that failed before it: one
    that the receiver never takes holds up no other pair, the probes of a receiver that is away included.
    Pure: `now` is any clock that goes forward, in seconds; `jitter` gives numbers from 0 to 1.
    """

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._lanes: dict[Pair, Partition] = {}
        self._failing: dict[Pair, Partition] = {}
        self._jitter = jitter
        self._failures = 0
        self._probe_at = 0.0
        self._busy = 0

    def __len__(self) -> int:
        return sum(len(lane.waiting) for lane in self._all())

    @property
    def down(self) -> bool:
        """Whether the receiver is taken for away."""
        return self._failures >= DOWN_AFTER

    def add(self, letters: Iterable[OutboxEntry]) -> None:
        """Put letters at the end of their lanes."""
        for letter in letters:
            lane = self._failing.get(letter.pair) or self._lanes.setdefault(letter.pair, Partition())
            lane.waiting.append(letter)

    def take(self, now: float) -> list[OutboxEntry]:
        """Return the letters to be delivered now, at most one of each lane; each must be reported upon."""
        free = MAX_IN_FLIGHT - self._busy
        if self.down:
            free = 1 - self._busy if now >= self._probe_at else 0
        taken: list[OutboxEntry] = []
        for lane in self._all():
            if len(taken) >= free:
                break
            if not lane.busy and now >= lane.not_before:
                lane.busy = True
                taken.append(lane.waiting[0])
        self._busy += len(taken)
        return taken

    def over(self, letter: OutboxEntry) -> None:
        """Note that nothing more is to be done for a letter."""
        lane = self._free(letter)
        lane.waiting.popleft()
        lane.failures, lane.not_before = 0, 0
        if lane.waiting:
            self._lanes[letter.pair] = lane

    def accepted(self) -> bool:
        """Note that the receiver took a letter; returns whether it had been away. Then all lanes may go on at once."""
        was_down, self._failures = self.down, 0
        if was_down:
            for lane in self._all():
                lane.not_before = 0
        return was_down

    def failed(self, letter: OutboxEntry, now: float) -> bool:
        """Note that a letter has to be tried again; returns whether the receiver counts as away from now on."""
        lane = self._failing[letter.pair] = self._free(letter)
        lane.failures += 1
        pause = min(FIRST_PAUSE * 2 ** min(lane.failures - 1, 10), LONGEST_PAUSE)
        lane.not_before = now + pause * (1 - self._jitter() / 2)
        self._failures += 1
        self._probe_at = now + PROBE_EVERY * (1 - self._jitter() / 2)
        if self.down:  # the probe may be anybody's
            lane.not_before = min(lane.not_before, self._probe_at)
        return self._failures == DOWN_AFTER

    def _all(self) -> Iterator[Partition]:
        return itertools.chain(self._lanes.values(), self._failing.values())

    def _free(self, letter: OutboxEntry) -> Partition:
        """Take a lane out; it goes in again behind the others, if at all."""
        lane = self._lanes.pop(letter.pair, None) or self._failing.pop(letter.pair)
        lane.busy = False
        self._busy -= 1
        return lane


class Notifier:
    """Delivers what stands in one channel's outbox; of all workers one at a time does so.

    `token` names this one. At least once, and in order for each pair: a letter is struck out only after it was taken,
    and the next one waits until then.
    """

    def __init__(self, outbox: Outbox, deliver: Deliver, clock: Clock, *, token: str) -> None:
        self._outbox = outbox
        self._deliver = deliver
        self._clock = clock
        self._token = token
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._pool = ThreadPoolExecutor(MAX_IN_FLIGHT, thread_name_prefix=f"notices-{outbox.channel}")
        self._lanes, self._cursor, self._look_at = DeliverySchedule(), "-", 0.0

    def run(self, over: threading.Event) -> None:
        """Deliver until `over`. Nothing that goes wrong ends it."""
        while not over.is_set():
            try:
                mine = self.turn()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next turn must come
                log.error("notices: %s: %s", type(error).__name__, error)  # noqa: TRY400 - its trace is the store's
                mine = False
            if mine:
                self._news.wait(TICK)
                self._news.clear()
            else:
                self._forget()
                over.wait(TURN / 10)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def turn(self) -> bool:
        """Read what is new and hand out what can be delivered; False where another worker has the turn."""
        now = self._clock.monotonic()
        if now >= self._look_at:
            if not self._outbox.acquire_leader_lock(self._token, TURN):
                return False
            self._read()
            self._look_at = now + TICK
        with self._lock:
            taken = self._lanes.take(now)
        for letter in taken:
            self._pool.submit(self.carry, letter, self._lanes)
        return True

    def _read(self) -> None:
        while letters := self._outbox.read(self._cursor, limit=BATCH):
            self._cursor = letters[-1].position
            with self._lock:
                self._lanes.add(letters)
            if len(letters) < BATCH:
                return

    def carry(self, letter: OutboxEntry, lanes: DeliverySchedule) -> None:
        """Deliver one letter and report upon it."""
        again = self._try(letter, lanes)
        went_away = False
        with self._lock:
            if again is None:
                lanes.over(letter)
            else:
                went_away = lanes.failed(letter, self._clock.monotonic())
        if went_away:
            log.error("notices are not taken by the %s and wait: %s", self._outbox.channel, again)
        self._news.set()

    def _try(self, letter: OutboxEntry, lanes: DeliverySchedule) -> str | None:
        """Return why a letter has to be tried again; None where nothing more is to be done for it."""
        try:
            where = self._outbox.look(letter, self._token)
            if where != "here":
                return None if where == "gone" else "another worker has the turn"
            self._deliver(Notice.of(letter.notice_id, letter.event))
            with self._lock:
                came_back = lanes.accepted()
            if came_back:
                log.warning("notices are taken again by the %s", self._outbox.channel)
            self._outbox.delivered(letter)
        except StoreUnavailable as error:
            return str(error)
        except NotDelivered as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - a letter that nobody can read must not stop its lane
            reason = type(error).__name__
        else:
            return None
        return None if self._given_up(letter, reason) else reason

    def _given_up(self, letter: OutboxEntry, reason: str) -> bool:
        try:
            given_up = self._outbox.give_up(letter, reason)
        except StoreUnavailable:
            return False
        if given_up:
            names = {
                "case_id": letter.pair.case_id,
                "mediation_id": letter.pair.mediation_id,
                "notice_id": letter.notice_id,
            }
            log.error("a notice is given up and put with the dead letters: %s", reason, extra=names)
        return given_up

    def _forget(self) -> None:
        """Begin anew: what another worker may have delivered meanwhile is read again."""
        self._lanes, self._cursor, self._look_at = DeliverySchedule(), "-", 0.0

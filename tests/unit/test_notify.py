"""Test the notifier: it empties an outbox under the leader lock, and moves old entries to the dead letters."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from tests.unit.test_delivery_schedule import entry
from worker.core.interfaces import NotDelivered, StoreUnavailable
from worker.core.model import OutboxEntry
from worker.core.notice import Notice, NoticeChannel
from worker.flows.notify import (
    BATCH,
    PROBE_EVERY,
    TICK,
    Notifier,
)


@dataclass
class FakeOutbox:
    """An outbox in memory."""

    entries: dict[str, OutboxEntry] = field(default_factory=dict)
    mine: bool = True
    old: bool = False
    broken: bool = False
    away: bool = False
    dead: list[tuple[str, str]] = field(default_factory=list)
    reads: int = 0
    channel: NoticeChannel = "webhook"

    def acquire_leader_lock(self, _token: str, _seconds: float) -> bool:
        return self.mine

    def read(self, after: str, *, limit: int) -> list[OutboxEntry]:
        self.reads += 1
        rest = [one for one in self.entries.values() if after == "-" or int(one.position[:-2]) > int(after[:-2])]
        return rest[:limit]

    def look(self, entry: OutboxEntry, _token: str) -> Literal["here", "gone", "not ours"]:
        return "not ours" if not self.mine else "here" if entry.position in self.entries else "gone"

    def delivered(self, entry: OutboxEntry) -> None:
        if self.broken:
            raise StoreUnavailable("Redis: cut off")
        del self.entries[entry.position]

    def give_up(self, entry: OutboxEntry, reason: str) -> bool:
        if self.away:
            raise StoreUnavailable("Redis: cut off")
        if self.old:
            self.dead.append((entry.position, reason))
            del self.entries[entry.position]
        return self.old


class FakeClock:
    """A clock that moves by `sleep` or assignment."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Inline:
    """A thread pool replacement that runs tasks immediately."""

    closed = False

    def submit(self, task: Any, *args: Any) -> None:
        task(*args)

    def shutdown(self, **_: bool) -> None:
        self.closed = True


@dataclass
class Desk:
    """A notifier with fakes of its outbox, clock and receiver."""

    outbox: FakeOutbox = field(default_factory=FakeOutbox)
    clock: FakeClock = field(default_factory=FakeClock)
    sent: list[str] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.notifier = Notifier(self.outbox, self.deliver, self.clock, token="t")
        self.notifier._pool = Inline()  # type: ignore[assignment]

    def deliver(self, notice: Notice) -> None:
        if notice.id in self.failing:
            raise NotDelivered("HTTP 503")
        self.sent.append(notice.id)

    def put(self, *entries: OutboxEntry) -> None:
        self.outbox.entries |= {one.position: one for one in entries}

    def rounds(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while self.clock.now <= end:
            self.notifier.deliver_due()
            self.clock.now += TICK


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_all_entries_are_delivered_and_deleted(desk: Desk) -> None:
    desk.put(*(entry(number, str(number % 7)) for number in range(1, BATCH + 30)))
    desk.rounds(120)
    assert len(desk.sent) == BATCH + 29
    assert desk.outbox.entries == {}


def test_failing_entry_blocks_its_own_pair_only(desk: Desk) -> None:
    desk.failing = {"e-1"}
    desk.put(entry(1), entry(2), entry(3, "21"))
    desk.rounds(30)
    assert desk.sent == ["e-3"]
    desk.failing = set()
    desk.rounds(60)
    assert desk.sent == ["e-3", "e-1", "e-2"]


def test_s35_undeliverable_entry_does_not_block_pairs_that_come_later(desk: Desk) -> None:
    """S35: its failures open the circuit breaker, but the probes are shared with other pairs."""
    desk.failing = {"e-1"}
    desk.put(entry(1))
    desk.rounds(60)
    desk.put(entry(2, "21"), entry(3, "22"))
    desk.rounds(2 * PROBE_EVERY)
    assert desk.sent == ["e-2", "e-3"]


def test_too_old_entry_becomes_a_dead_letter_and_its_pair_continues(desk: Desk) -> None:
    desk.failing, desk.outbox.old = {"e-1"}, True
    desk.put(entry(1), entry(2))
    desk.rounds(1)
    assert desk.outbox.dead == [("1-0", "HTTP 503")]
    assert desk.sent == ["e-2"]


def test_unreadable_entry_becomes_a_dead_letter(desk: Desk) -> None:
    desk.outbox.old = True
    desk.put(entry(1, kind="nonsense"), entry(2))
    desk.rounds(1)
    assert desk.outbox.dead == [("1-0", "ValidationError")]
    assert desk.sent == ["e-2"]


def test_delivered_entry_that_was_not_deleted_is_delivered_again(desk: Desk) -> None:
    """Delivery is at least once."""
    desk.outbox.broken = True
    desk.put(entry(1))
    desk.rounds(0)
    desk.outbox.broken = False
    desk.rounds(5)
    assert desk.sent == ["e-1", "e-1"]
    assert desk.outbox.entries == {}


def test_erased_entries_are_not_sent(desk: Desk) -> None:
    desk.failing = {"e-1"}
    desk.put(entry(1), entry(2))
    desk.rounds(0)
    desk.outbox.entries.clear()
    desk.failing = set()
    desk.rounds(10)
    assert desk.sent == []


def test_notifier_without_the_leader_lock_sends_nothing_and_restarts_when_it_regains_it(desk: Desk) -> None:
    desk.failing = {"e-1"}
    desk.put(entry(1))
    desk.rounds(0)
    desk.failing, desk.outbox.mine = set(), False
    desk.clock.now = 10
    assert desk.notifier.deliver_due() is False
    assert desk.sent == []
    desk.notifier._forget()
    desk.outbox.mine = True
    desk.rounds(1)
    assert desk.sent == ["e-1"]


def test_outbox_is_read_once_per_tick(desk: Desk) -> None:
    for _ in range(3):
        assert desk.notifier.deliver_due() is True
    assert desk.outbox.reads == 1
    desk.clock.now += TICK
    desk.notifier.deliver_due()
    assert desk.outbox.reads == 2


def test_entry_is_retried_when_the_store_is_unavailable_for_giving_up(desk: Desk) -> None:
    desk.failing, desk.outbox.away = {"e-1"}, True
    desk.put(entry(1))
    desk.rounds(0)
    desk.failing, desk.outbox.away = set(), False
    desk.rounds(5)
    assert desk.sent == ["e-1"]
    assert desk.outbox.dead == []


class Over(threading.Event):
    """A stop event that runs one callback per round, is set after the last, and never waits."""

    def __init__(self, *rounds: Callable[[], object]) -> None:
        super().__init__()
        self.rounds = iter(rounds)
        self.waits: list[float | None] = []

    def is_set(self) -> bool:
        step = next(self.rounds, None)
        if step is not None:
            step()
        return step is None

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return False


def test_thread_survives_store_failures_and_loss_of_the_leader_lock(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The store fails, another worker has the leader lock, then this one again: it reads and retries everything."""

    def away(_token: str, _seconds: float) -> bool:
        raise StoreUnavailable("Redis: cut off")

    def is_away() -> None:
        desk.clock.now += TICK
        monkeypatch.setattr(desk.outbox, "acquire_leader_lock", away)

    def is_anothers() -> None:
        monkeypatch.undo()
        desk.outbox.mine = False

    def is_mine() -> None:
        desk.outbox.mine, desk.failing = True, set()

    desk.failing = {"e-1"}
    desk.put(entry(1))
    desk.notifier.run(over := Over(lambda: None, is_away, is_anothers, is_mine))
    assert desk.sent == ["e-1"]
    assert over.waits == [1.0, 1.0], "without the leader lock it tries to acquire it every second"
    assert caplog.messages == ["notices: StoreUnavailable: Redis: cut off"]
    assert desk.notifier._pool.closed  # type: ignore[attr-defined]

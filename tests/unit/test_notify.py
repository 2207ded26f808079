"""Notices go in order within a pair, beside each other for all others, and little is asked of who is away."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.interfaces import NotDelivered, StoreUnavailable
from worker.core.model import OutboxEntry
from worker.core.notice import Notice, NoticeChannel
from worker.flows.notify import (
    BATCH,
    DOWN_AFTER,
    LONGEST_PAUSE,
    MAX_IN_FLIGHT,
    PROBE_EVERY,
    TICK,
    DeliverySchedule,
    Notifier,
)


def letter(number: int, mediation: str = "20", kind: str = "ended") -> OutboxEntry:
    event = {"at": 1.0, "kind": kind, "case_id": "C-1", "mediation_id": mediation, "job_id": f"job-{mediation}"}
    return OutboxEntry(f"{number}-0", f"e-{number}", event)


def lanes_of(*letters: OutboxEntry) -> DeliverySchedule:
    lanes = DeliverySchedule(jitter=lambda: 0)
    lanes.add(letters)
    return lanes


def test_a_pair_is_told_one_thing_after_the_other() -> None:
    first, second, other = letter(1), letter(2), letter(3, "21")
    lanes = lanes_of(first, second, other)
    assert lanes.take(0) == [first, other]
    assert lanes.take(0) == []
    lanes.over(first)
    assert lanes.take(0) == [second]


def test_what_failed_waits_and_so_does_what_follows_and_nobody_else() -> None:
    first, second, other = letter(1), letter(2), letter(3, "21")
    lanes = lanes_of(first, second)
    for failures, pause in enumerate((1, 2, 4, 8), start=1):
        assert lanes.take(100 * failures) == [first]
        assert lanes.failed(first, 100 * failures) is False
        assert lanes.take(100 * failures + pause - 0.01) == []
    lanes.add([other])
    assert lanes.take(401) == [other]
    assert lanes.take(408) == [first]


def test_pauses_grow_to_a_minute_and_differ() -> None:
    lanes = DeliverySchedule(jitter=lambda: 1)
    lanes.add([letter(1)])
    now = 0.0
    for _ in range(4):
        (one,) = lanes.take(now)
        lanes.failed(one, now)
        lanes.accepted()  # somebody else's: the receiver is there
        now += LONGEST_PAUSE
    (one,) = lanes.take(now)
    lanes.failed(one, now)
    assert lanes.take(now + 7.9) == []
    assert len(lanes.take(now + 8)) == 1, "16 s less a half"


def test_no_more_hands_than_there_are() -> None:
    lanes = lanes_of(*(letter(number, str(number)) for number in range(20)))
    assert len(lanes.take(0)) == MAX_IN_FLIGHT
    assert lanes.take(0) == []


def test_who_is_away_is_asked_by_one_letter_now_and_then_and_gets_all_when_back() -> None:
    lanes = lanes_of(*(letter(number, str(number)) for number in range(20)))
    told: list[bool] = []
    while len(told) < DOWN_AFTER:
        told += [lanes.failed(one, 0) for one in lanes.take(0)]
    assert told.count(True) == 1, "it is said once"
    assert lanes.down
    assert lanes.take(PROBE_EVERY - 0.01) == []
    (probe,) = lanes.take(PROBE_EVERY)
    assert lanes.take(PROBE_EVERY * 2) == [], "one at a time"
    assert lanes.accepted() is True
    lanes.over(probe)
    assert len(lanes.take(PROBE_EVERY)) == MAX_IN_FLIGHT
    assert lanes.accepted() is False


def test_the_probe_of_a_receiver_that_is_away_is_another_pairs_each_time() -> None:
    """S35: a pair that has not failed comes first, then the one whose failure is the longest ago."""
    lanes = lanes_of(*(letter(number, str(number)) for number in range(2)))
    now = 0.0
    while not lanes.down:
        for one in lanes.take(now):
            lanes.failed(one, now)
        now += LONGEST_PAUSE
    lanes.add([letter(2, "2"), letter(3, "0")])
    probed: list[str] = []
    for _ in range(5):
        now += PROBE_EVERY
        (probe,) = lanes.take(now)
        lanes.failed(probe, now)
        probed.append(probe.pair.mediation_id)
    assert probed[0] == "2"
    assert sorted(probed[1:4]) == ["0", "1", "2"]
    assert probed[4] == probed[1]
    now += PROBE_EVERY
    (taken,) = lanes.take(now)
    lanes.accepted()
    lanes.over(taken)
    lanes.add([letter(4, taken.pair.mediation_id)])
    assert lanes.take(now)[0].pair == taken.pair, "what was taken has not failed"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12), st.integers(0, 99))
def test_whatever_fails_each_letter_is_delivered_once_and_in_the_order_of_its_pair(
    drawn: list[tuple[str, bool]], seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - for a test
    letters = [letter(number, pair) for number, (pair, _) in enumerate(drawn)]
    fails = {one.position for one, (_, well) in zip(letters, drawn, strict=True) if not well}
    lanes = lanes_of(*letters)
    delivered: list[OutboxEntry] = []
    now = 0.0
    while len(lanes):
        taken = lanes.take(now)
        chance.shuffle(taken)
        for one in taken:
            if one.position in fails and chance.random() < 0.5:
                lanes.failed(one, now)
            else:
                lanes.accepted()
                delivered.append(one)
                lanes.over(one)
        now += 1
        assert now < 10_000
    assert sorted(delivered, key=lambda one: int(one.position[:-2])) == letters
    for pair in "abc":
        ours = [one for one in letters if one.pair.mediation_id == pair]
        assert [one for one in delivered if one.pair.mediation_id == pair] == ours


# -- the driver --------------------------------------------------------------------------------------------------------


@dataclass
class FakeOutbox:
    """An outbox in memory."""

    letters: dict[str, OutboxEntry] = field(default_factory=dict)
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
        rest = [one for one in self.letters.values() if after == "-" or int(one.position[:-2]) > int(after[:-2])]
        return rest[:limit]

    def look(self, letter: OutboxEntry, _token: str) -> Literal["here", "gone", "not ours"]:
        return "not ours" if not self.mine else "here" if letter.position in self.letters else "gone"

    def delivered(self, letter: OutboxEntry) -> None:
        if self.broken:
            raise StoreUnavailable("Redis: cut off")
        del self.letters[letter.position]

    def give_up(self, letter: OutboxEntry, reason: str) -> bool:
        if self.away:
            raise StoreUnavailable("Redis: cut off")
        if self.old:
            self.dead.append((letter.position, reason))
            del self.letters[letter.position]
        return self.old


class FakeClock:
    """Moves when told."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Inline:
    """Takes the place of the threads."""

    closed = False

    def submit(self, task: Any, *args: Any) -> None:
        task(*args)

    def shutdown(self, **_: bool) -> None:
        self.closed = True


@dataclass
class Desk:
    """A notifier with all that it stands on."""

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

    def put(self, *letters: OutboxEntry) -> None:
        self.outbox.letters |= {one.position: one for one in letters}

    def turns(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while self.clock.now <= end:
            self.notifier.deliver_due()
            self.clock.now += TICK


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_what_stands_in_the_outbox_is_delivered_and_struck_out(desk: Desk) -> None:
    desk.put(*(letter(number, str(number % 7)) for number in range(1, BATCH + 30)))
    desk.turns(120)
    assert len(desk.sent) == BATCH + 29
    assert desk.outbox.letters == {}


def test_a_letter_that_fails_holds_its_own_pair_up_and_no_other(desk: Desk) -> None:
    desk.failing = {"e-1"}
    desk.put(letter(1), letter(2), letter(3, "21"))
    desk.turns(30)
    assert desk.sent == ["e-3"]
    desk.failing = set()
    desk.turns(60)
    assert desk.sent == ["e-3", "e-1", "e-2"]


def test_a_notice_that_is_never_taken_holds_up_no_pair_that_comes_later(desk: Desk) -> None:
    """S35: its failures alone make the receiver count as away, and the probes are not all its own."""
    desk.failing = {"e-1"}
    desk.put(letter(1))
    desk.turns(60)
    desk.put(letter(2, "21"), letter(3, "22"))
    desk.turns(2 * PROBE_EVERY)
    assert desk.sent == ["e-2", "e-3"]


def test_what_is_too_old_goes_to_the_dead_letters_and_its_lane_goes_on(desk: Desk) -> None:
    desk.failing, desk.outbox.old = {"e-1"}, True
    desk.put(letter(1), letter(2))
    desk.turns(1)
    assert desk.outbox.dead == [("1-0", "HTTP 503")]
    assert desk.sent == ["e-2"]


def test_what_nobody_can_read_goes_the_same_way(desk: Desk) -> None:
    desk.outbox.old = True
    desk.put(letter(1, kind="nonsense"), letter(2))
    desk.turns(1)
    assert desk.outbox.dead == [("1-0", "ValidationError")]
    assert desk.sent == ["e-2"]


def test_what_was_taken_and_not_struck_out_is_delivered_again(desk: Desk) -> None:
    """At least once."""
    desk.outbox.broken = True
    desk.put(letter(1))
    desk.turns(0)
    desk.outbox.broken = False
    desk.turns(5)
    assert desk.sent == ["e-1", "e-1"]
    assert desk.outbox.letters == {}


def test_what_is_erased_meanwhile_is_not_sent(desk: Desk) -> None:
    desk.failing = {"e-1"}
    desk.put(letter(1), letter(2))
    desk.turns(0)
    desk.outbox.letters.clear()
    desk.failing = set()
    desk.turns(10)
    assert desk.sent == []


def test_a_turn_that_has_passed_to_another_sends_nothing_and_a_new_one_begins_anew(desk: Desk) -> None:
    desk.failing = {"e-1"}
    desk.put(letter(1))
    desk.turns(0)
    desk.failing, desk.outbox.mine = set(), False
    desk.clock.now = 10
    assert desk.notifier.deliver_due() is False
    assert desk.sent == []
    desk.notifier._forget()
    desk.outbox.mine = True
    desk.turns(1)
    assert desk.sent == ["e-1"]


def test_between_two_looks_the_outbox_is_left_alone(desk: Desk) -> None:
    for _ in range(3):
        assert desk.notifier.deliver_due() is True
    assert desk.outbox.reads == 1
    desk.clock.now += TICK
    desk.notifier.deliver_due()
    assert desk.outbox.reads == 2


def test_what_cannot_be_given_up_while_the_store_is_away_is_tried_again(desk: Desk) -> None:
    desk.failing, desk.outbox.away = {"e-1"}, True
    desk.put(letter(1))
    desk.turns(0)
    desk.failing, desk.outbox.away = set(), False
    desk.turns(5)
    assert desk.sent == ["e-1"]
    assert desk.outbox.dead == []


class Over(threading.Event):
    """The end of the worker after some turns, without the waits."""

    def __init__(self, *turns: Callable[[], object]) -> None:
        super().__init__()
        self.turns = iter(turns)
        self.waits: list[float | None] = []

    def is_set(self) -> bool:
        turn = next(self.turns, None)
        if turn is not None:
            turn()
        return turn is None

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return False


def test_the_thread_delivers_until_the_worker_ends_whatever_goes_wrong(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A store that is away, then another worker's turn, then its own: all is read and tried anew."""

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
    desk.put(letter(1))
    desk.notifier.run(over := Over(lambda: None, is_away, is_anothers, is_mine))
    assert desk.sent == ["e-1"]
    assert over.waits == [1.0, 1.0], "where it has not the turn, it looks for it every second"
    assert caplog.messages == ["notices: StoreUnavailable: Redis: cut off"]
    assert desk.notifier._pool.closed  # type: ignore[attr-defined]

"""Which poll goes next in a worker: the longest overdue, and never more at once than the interpreter can serve."""

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.deployment import wait_until
from worker.line import Line, waiting

MOST = 2
THREADS = 8


class Poll:
    """A poll of which a test decides when it waits for upstream and when it ends."""

    def __init__(self, name: str, order: list[str]) -> None:
        self.name = name
        self._order = order
        self.begun, self.asks, self.is_answered, self.may_end = (threading.Event() for _ in range(4))
        self.came_back = threading.Event()

    def __call__(self) -> None:
        self._order.append(self.name)
        self.begun.set()
        wait_until(lambda: self.asks.is_set() or self.may_end.is_set())
        if self.asks.is_set():
            with waiting():
                assert self.is_answered.wait(60)
            self.came_back.set()
        assert self.may_end.wait(60)

    def end(self) -> None:
        """Let it end, wherever it is."""
        self.is_answered.set()
        self.may_end.set()


class World:
    """A line with threads that serve it."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.executor = executor
        self.sent_for = 0
        self.fails_at = 0
        self.line = Line(MOST, self.start)
        self.order: list[str] = []
        self.polls: list[Poll] = []

    def start(self, run: Callable[[], object]) -> None:
        """Send a thread."""
        self.sent_for += 1
        self.executor.submit(run)
        if self.sent_for == self.fails_at:
            raise RuntimeError("can't start new thread")  # as an executor does, which keeps what it was given

    def put(self, name: str, *, due: float = 0) -> Poll:
        """Put a poll into the line."""
        poll = Poll(name, self.order)
        self.polls.append(poll)
        self.line.put(poll, due=due)
        return poll

    def full(self) -> list[Poll]:
        """Let polls take all places."""
        first = [self.put(f"first {number}") for number in range(MOST)]
        wait_until(lambda: all(poll.begun.is_set() for poll in first))
        return first


@pytest.fixture
def world() -> Iterator[World]:
    """More threads than polls may work at once."""
    with ThreadPoolExecutor(THREADS) as executor:
        one = World(executor)
        yield one
        for poll in one.polls:
            poll.end()


def test_no_more_polls_are_at_work_than_may(world: World) -> None:
    first, _ = world.full()
    third = world.put("third")
    assert not third.begun.wait(0.2)
    assert world.sent_for == MOST  # a thread that comes in vain costs a change of threads
    first.end()
    assert third.begun.wait(60)


def test_a_poll_that_waits_for_upstream_makes_room(world: World) -> None:
    first, _ = world.full()
    third, fourth = world.put("third"), world.put("fourth")
    first.asks.set()
    assert third.begun.wait(60)
    assert not fourth.begun.wait(0.2)


def test_a_poll_that_comes_while_others_wait_for_upstream_begins(world: World) -> None:
    first, _ = world.full()
    first.asks.set()
    wait_until(lambda: world.line._at_work == MOST - 1)
    assert world.put("third").begun.wait(60)


def test_a_poll_comes_back_at_once_and_the_next_one_begins_when_there_is_room_again(world: World) -> None:
    first, second = world.full()
    third, fourth = world.put("third"), world.put("fourth")
    first.asks.set()
    assert third.begun.wait(60)
    first.is_answered.set()  # all places are taken again, and it does not wait for one
    assert first.came_back.wait(60)
    first.end()
    assert not fourth.begun.wait(0.2)  # three were at work: one that ends leaves no place
    second.end()
    assert fourth.begun.wait(60)


def test_s28_the_longest_overdue_goes_first_and_of_two_as_late_the_first_to_come(world: World) -> None:
    """A poll of a worker that died does not wait behind those that are late by a moment."""
    first, _ = world.full()
    for name, due in (("30", 30), ("20", 20), ("missed", 10), ("20 again", 20), ("40", 40)):
        world.put(name, due=due).may_end.set()
    first.end()
    wait_until(lambda: len(world.order) == MOST + 5)
    assert world.order[MOST:] == ["missed", "20", "20 again", "30", "40"]


@pytest.mark.parametrize("where", ["at work", "while it waits"])
def test_a_poll_that_fails_is_told_of_and_leaves_its_place(
    world: World, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    def fail() -> None:
        if where == "at work":
            raise SystemExit("bad")
        with waiting():
            raise SystemExit("bad")

    with caplog.at_level(logging.ERROR):
        for _ in range(MOST + 1):
            world.line.put(fail, due=0)
        wait_until(lambda: len(caplog.records) == MOST + 1)
    assert {record.getMessage() for record in caplog.records} == {"poll failed: SystemExit: bad"}
    world.full()


def test_the_count_is_right_when_no_thread_can_be_started(world: World) -> None:
    world.fails_at = MOST + 1
    first, second = world.full()
    third = world.put("third")
    first.asks.set()  # and fails there
    assert third.begun.wait(60)
    assert not world.put("fourth").begun.wait(0.2)
    for poll in (second, *world.polls):
        poll.end()
    wait_until(lambda: world.line._at_work == 0)


def test_waiting_changes_nothing_in_a_thread_that_does_no_poll(world: World) -> None:
    """Not even in one that did polls before."""
    threads = threading.Barrier(THREADS)
    for _ in range(THREADS):
        world.line.put(lambda: None, due=0)

    def dial() -> int:
        threads.wait(60)  # so each thread has one
        with waiting():
            return world.line._at_work

    wait_until(lambda: world.line._at_work == 0)
    dials = [world.executor.submit(dial) for _ in range(THREADS)]
    assert {one.result(60) for one in dials} == {0}


def test_s25_a_worker_that_leaves_begins_no_other_poll(world: World) -> None:
    first, second = world.full()
    waits, late = world.put("waits"), Poll("late", world.order)
    world.line.close()
    world.line.put(late, due=0)
    first.asks.set()
    for poll in (first, second):
        poll.end()
    world.executor.shutdown()
    assert not waits.begun.is_set()
    assert not late.begun.is_set()


def test_no_poll_is_lost_or_carried_out_twice_and_no_more_begin_than_may(world: World) -> None:
    lock = threading.Lock()
    ran: list[int] = []
    at_work = most = 0

    def poll(number: int) -> None:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        with lock:
            at_work -= 1
        with waiting():
            ran.append(number)

    def put(numbers: range) -> None:
        for number in numbers:
            world.line.put(functools.partial(poll, number), due=number % 7)

    putting = [threading.Thread(target=put, args=(range(start, 3_000, 3),)) for start in range(3)]
    for one in putting:
        one.start()
    for one in putting:
        one.join()
    wait_until(lambda: len(ran) >= 3_000)
    wait_until(lambda: world.line._at_work == 0)
    assert sorted(ran) == list(range(3_000))
    assert 1 <= most <= MOST

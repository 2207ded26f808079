"""Who goes next in a worker: what is missed, and never more polls at once than the interpreter can serve."""

import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.deployment import wait_until
from worker.line import Line, waiting

AT_WORK = 2
THREADS = 8


class Task:
    """A task of which a test decides when it waits for upstream and when it ends."""

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


class Threads:
    """A line with threads that serve it."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.line = Line(AT_WORK)
        self.order: list[str] = []
        self.tasks: list[Task] = []
        self._executor = executor

    def put(self, name: str, *, poll: bool = True, missed: bool = False) -> Task:
        """Put a task into the line, and a thread to work."""
        task = Task(name, self.order)
        self.tasks.append(task)
        self.line.put(task, poll=poll, missed=missed)
        self._executor.submit(self.line.run_next)
        return task

    def full(self) -> list[Task]:
        """Let polls take all places."""
        first = [self.put(f"first {number}") for number in range(AT_WORK)]
        wait_until(lambda: all(task.begun.is_set() for task in first))
        return first


@pytest.fixture
def threads() -> Iterator[Threads]:
    """More threads than polls may work at once."""
    with ThreadPoolExecutor(THREADS) as executor:
        served = Threads(executor)
        yield served
        for task in served.tasks:
            task.end()


def in_turn(line: Line, number: int) -> None:
    """Run that many tasks, one after the other."""
    for _ in range(number):
        line.run_next()


def test_a_poll_waits_for_a_place_and_gets_the_next_that_is_free(threads: Threads) -> None:
    first, _ = threads.full()
    third, fourth = threads.put("third"), threads.put("fourth")
    assert not third.begun.wait(0.2)
    first.end()
    assert third.begun.wait(60)
    assert not fourth.begun.is_set()


def test_a_poll_that_waits_for_upstream_makes_room_and_goes_on_at_once(threads: Threads) -> None:
    first, second = threads.full()
    third, fourth = threads.put("third"), threads.put("fourth")
    first.asks.set()
    assert third.begun.wait(60)
    first.is_answered.set()  # all places are taken again, and it does not wait for one
    assert first.came_back.wait(60)
    first.end()
    assert not fourth.begun.wait(0.2)  # three were at work: one that ends leaves no place
    second.end()
    assert fourth.begun.wait(60)


def test_what_is_missed_goes_before_what_came_earlier(threads: Threads) -> None:
    first = threads.full()
    for name in ("a", "b"):
        threads.put(name).may_end.set()
    for name in ("missed 1", "missed 2"):
        threads.put(name, missed=True).may_end.set()
    first[0].end()
    wait_until(lambda: len(threads.order) == AT_WORK + 4)
    assert threads.order[AT_WORK:] == ["missed 1", "missed 2", "a", "b"]


def test_other_tasks_need_no_place(threads: Threads) -> None:
    threads.full()
    threads.put("a poll")
    others = [threads.put("a dial", poll=False) for _ in range(3)]
    assert all(task.begun.wait(60) for task in others)


def test_polls_and_other_tasks_take_turns() -> None:
    line, order = Line(1), list[str]()
    for name in ("poll 1", "poll 2", "poll 3"):
        line.put(functools.partial(order.append, name), poll=True)
    for name in ("dial 1", "dial 2", "dial 3", "dial 4", "dial 5"):
        line.put(functools.partial(order.append, name), poll=False)
    in_turn(line, 8)
    assert order == ["dial 1", "poll 1", "dial 2", "poll 2", "dial 3", "poll 3", "dial 4", "dial 5"]


@pytest.mark.parametrize("where", ["at work", "while it waits"])
def test_a_poll_that_fails_leaves_its_place(where: str) -> None:
    line = Line(1)

    def fail() -> None:
        if where == "at work":
            raise TimeoutError
        with waiting():
            raise TimeoutError

    for _ in range(3):
        line.put(fail, poll=True)
        with pytest.raises(TimeoutError):
            line.run_next()
    done: Future[None] = Future()
    line.put(lambda: done.set_result(None), poll=True)
    line.run_next()
    assert done.done()


def test_waiting_changes_nothing_for_what_holds_no_place() -> None:
    line, order = Line(1), list[str]()

    def dial(then: Callable[[], None]) -> None:
        with waiting():
            then()

    dial(lambda: order.append("in another pool"))
    line.put(lambda: dial(lambda: order.append("no poll")), poll=False)
    line.put(lambda: order.append("a poll"), poll=True)
    in_turn(line, 2)
    line.put(lambda: dial(lambda: order.append("after a poll, in its thread")), poll=False)
    in_turn(line, 1)
    assert order == ["in another pool", "no poll", "a poll", "after a poll, in its thread"]
    assert line._places == 1


def test_no_task_is_lost_or_run_twice_and_no_more_polls_begin_than_may() -> None:
    line, lock = Line(AT_WORK), threading.Lock()
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

    with ThreadPoolExecutor(THREADS) as executor:
        for number in range(3_000):
            work: Callable[[], object] = functools.partial(poll if number % 3 else ran.append, number)
            line.put(work, poll=bool(number % 3), missed=number % 3 == 1)
            executor.submit(line.run_next)
    assert sorted(ran) == list(range(3_000))
    assert 1 <= most <= AT_WORK

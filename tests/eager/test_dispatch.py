"""Test that due polls are dispatched from Redis, each to one worker, and again after a worker's death (S20, S28)."""

import itertools
import logging
import time
from collections.abc import Callable

import pytest

from tests.fakes import START, job_id, record
from tests.world import PollQueueOf, World, watching
from worker.core.interfaces import ScheduleFailed, StoreUnavailable
from worker.core.messages import read_polls
from worker.core.poll_model import PollStarted
from worker.flows.dispatch import TICK, WAITING, Dispatcher, dispatch_forever

JOB = job_id(1)


def dispatcher(world: World, *, free: int = 1_000) -> Dispatcher:
    return world.parts.dispatcher(PollQueueOf(world.queue), lambda: free)


def gaps(world: World) -> list[float]:
    times = [at for at, _ in world.upstream.queries]
    return [round(later - earlier, 3) for earlier, later in itertools.pairwise(times)]


def test_s20_each_poll_is_dispatched_once_when_it_is_due(world: World) -> None:
    watching(world, jobs=5)
    world.run(100)
    assert len(world.upstream.queries) == len(world.queue.published) == 50
    assert world.store.counters().get("reissued") is None


def test_s20_nothing_is_dispatched_before_its_time(world: World) -> None:
    watching(world)
    (call,) = world.store.calls()
    world.clock.move_to(call.due - 0.002)
    assert world.dispatch() == 0
    world.clock.move_to(call.due)
    assert world.dispatch() == 1
    assert world.dispatch() == 0, "it is leased"


def test_s20_calls_due_together_travel_in_one_message(world: World) -> None:
    watching(world, jobs=45)
    world.clock.sleep(10)
    assert world.dispatch() == 45
    assert [len(message["polls"]) for message in world.queue.published] == [20, 20, 5]
    dues = [one["due"] for message in world.queue.published for one in message["polls"]]
    assert dues == sorted(dues)
    assert world.poll(**world.queue.published[0]).count("poll 1") == 20


@pytest.mark.parametrize("world", [{"poll_batch": 1}], indirect=True)
def test_s38_batch_of_one_is_compatible_with_earlier_versions(world: World) -> None:
    watching(world, jobs=3)
    world.clock.sleep(10)
    world.dispatch()
    assert len(world.queue.published) == 3
    assert all({"job_id", "poll_no", "countdown", "due"} <= message.keys() for message in world.queue.published)


def test_each_call_of_a_message_is_judged_separately(world: World) -> None:
    """S38: an invalid poll, a duplicate and a call without a record delay none of the others."""
    watching(world, jobs=2)
    world.clock.sleep(10)
    world.dispatch()
    first, second = world.queue.published[0]["polls"]
    line = world.poll(polls=[{"job_id": 7}, first, first, "x", {"job_id": "none", "poll_no": 1}, second])
    assert line.count("poll 1") == 2
    assert [job for _, job in world.upstream.queries] == [first["job_id"], second["job_id"]]
    counters = world.store.counters()
    assert (counters["polls:fenced"], counters["polls:absent"], counters["polls:answer"]) == (1, 1, 2)


def test_dropped_poll_is_named_in_flower(world: World) -> None:
    watching(world)
    world.clock.sleep(10)
    world.dispatch()
    message = world.queue.published[0]
    absent = {"job_id": "none", "poll_no": 1}
    assert world.poll(polls=[absent, absent]) == "dropped: absent 2"
    watch = world.parts.poll_flow(lambda _news: None)
    asks: list[object] = []
    assert watch.begin(read_polls({"polls": [message, absent]}), asks.extend) == "begun: 1, dropped: absent"
    assert len(asks) == 1


def test_s20_early_message_is_dropped(world: World) -> None:
    """A worker of an earlier version published it; the dispatcher publishes the poll when it is due."""
    watching(world)
    assert world.poll(job_id=JOB, poll_no=1) == "dropped: early"
    assert world.upstream.queries == []
    world.run(11)
    assert len(world.upstream.queries) == 1


def test_s28_lost_message_is_reissued_when_its_lease_expires(world: World) -> None:
    watching(world)
    world.run(15)
    world.clock.move_to(START + 30)
    world.dispatch()
    world.queue.heap.clear()
    world.run(100)
    assert max(gaps(world)) <= 30
    first = world.upstream.queries[0][0]
    assert {round((at - first) % 10, 2) % 10 for at, _ in world.upstream.queries[-5:]} == {0.0}, "the cadence stays"


def test_s28_poll_of_a_dead_worker_is_reissued_after_its_lease_and_counts_as_failed(world: World) -> None:
    watching(world)
    world.run(15)
    asked = len(world.upstream.queries)
    world.clock.sleep(10)
    world.dispatch()
    (begun,) = world.store.begin_polls([(JOB, world.queue.published[-1]["poll_no"])])
    assert isinstance(begun, PollStarted)
    world.queue.heap.clear()
    world.run(2.2)
    assert len(world.upstream.queries) == asked + 1
    assert world.upstream.queries[-1][0] - begun.now == pytest.approx(2, abs=0.15)
    assert world.store.counters()["reissued"] == 1
    assert world.store.calls()[0].retry_count == 0, "a successful answer resets it"


def test_s28_s24_queries_that_outlast_their_leases_count_as_failures(world: World) -> None:
    """As with a silent upstream: the tenth in a row loses the watch and makes no query."""
    watching(world)
    for number in range(1, 11):
        world.clock.sleep(10)
        assert isinstance(world.store.begin_polls([(JOB, number)])[0], PollStarted)
    world.clock.sleep(10)
    assert world.dispatch() == 1
    lines = world.run(1)
    assert lines == ["拨号中 · lost after poll 11"]
    assert world.upstream.queries == []
    assert world.store.calls(job_id=JOB)[0].retry_count == 10


def test_s28_running_poll_is_not_dispatched_again_while_its_lease_is_renewed(world: World) -> None:
    watching(world)
    world.clock.sleep(10)
    (begun,) = world.store.begin_polls([(JOB, 1)])
    assert isinstance(begun, PollStarted)
    for _ in range(9):
        world.clock.sleep(1)
        world.store.renew_polls([(JOB, 2)])
        assert world.dispatch() == 0
    world.store.renew_polls([(JOB, 1)])  # another poll's process
    world.clock.sleep(2.1)
    world.store.renew_polls([(JOB, 1)])
    assert world.dispatch() == 1


def test_longest_overdue_poll_goes_first(world: World) -> None:
    """A call whose lease has expired precedes all calls that became due later."""
    watching(world, jobs=3)
    world.clock.sleep(10)
    order = [one.job_id for one in world.store.take_due(limit=1).polls]
    world.clock.sleep(2.1)
    taken = world.store.take_due(limit=3)
    assert taken.reissued == 1
    dues = [one.due for one in taken.polls]
    assert dues == sorted(dues)
    assert taken.polls[0].job_id == order[0]


def test_backlog_stays_in_redis(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The dispatcher takes only as many polls as queue and process have room for, so no lease expires in a queue."""
    caplog.set_level(logging.WARNING)
    world.upstream.dials = [[record(job_id(number)) for number in range(1, WAITING + 201)]]
    assert world.trigger()["outcome"] == "started"
    world.clock.sleep(10)
    dispatch = dispatcher(world)
    assert dispatch() == WAITING
    assert dispatch() == 0
    assert dispatcher(world, free=7)() == 0
    world.queue.heap.clear()
    assert dispatcher(world, free=7)() == 7
    assert dispatch() == 193
    world.queue.heap.clear()
    world.clock.sleep(2.1)
    assert dispatcher(world)() == WAITING
    assert caplog.messages == [f"reissued {WAITING + 200} polls whose lease had expired"]


def test_queue_is_measured_only_when_it_may_be_half_full(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other round sends one command, the take."""
    world.upstream.dials = [[record(job_id(number)) for number in range(1, WAITING)]]
    assert world.trigger()["outcome"] == "started"
    asked: list[float] = []
    queue = PollQueueOf(world.queue)
    waiting = queue.waiting

    def count() -> int:
        asked.append(time.time())
        return waiting()

    monkeypatch.setattr(queue, "waiting", count)
    dispatch = world.parts.dispatcher(queue, lambda: WAITING // 4)
    for _ in range(5):
        dispatch()
    assert len(asked) == 1, "at its start"
    world.clock.sleep(10)
    assert [dispatch() for _ in range(2)] == [WAITING // 4, WAITING // 4]
    assert len(asked) == 1
    for _ in range(3):
        dispatch()
    assert len(asked) == 4, "in each round, since it is half full"
    world.queue.heap.clear()
    for _ in range(3):
        dispatch()
    assert len(asked) == 5


def test_missing_records_leave_the_due_set(world: World) -> None:
    """A due time or a lease without a record is dropped instead of being dispatched for ever."""
    world.redis.zadd("t:due", {"gone": START, "leased": 10_000_000_000 + START})
    world.clock.sleep(60)
    assert world.dispatch() == 0
    assert world.redis.zcard("t:due") == 0


def failing(times: int, error: Exception, world: World) -> Callable[[], int]:
    calls = itertools.count()

    def act() -> int:
        if next(calls) < times:
            raise error
        return world.dispatch()

    return act


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ScheduleFailed("OSError"), "polls cannot be dispatched, retrying: ScheduleFailed: OSError"),
        (StoreUnavailable("Redis: gone"), "polls cannot be dispatched, retrying: StoreUnavailable: Redis: gone"),
        (KeyError("x"), "polls cannot be dispatched, retrying: KeyError: 'x'"),
    ],
    ids=["no broker", "no store", "a fault"],
)
def test_s28_dispatcher_retries_with_back_off(
    world: World, caplog: pytest.LogCaptureFixture, error: Exception, line: str
) -> None:
    """While Redis is away the intervals grow, and one log line reports it."""
    caplog.set_level(logging.WARNING)
    watching(world)
    world.clock.sleep(15)
    waits: list[float] = []
    done: list[int] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        world.clock.sleep(seconds)
        return len(waits) > 8

    dispatch_forever(failing(5, error, world), wait, lambda: done.append(len(waits)))  # type: ignore[arg-type]
    assert waits == [TICK, 0.2, 0.5, 1, 1, 1, TICK, TICK, TICK]
    assert caplog.messages == [line, "polls are dispatched again"]
    assert done == [6, 7, 8]
    assert [delivery.kwargs["job_id"] for delivery in world.queue.heap] == [JOB]


def test_s28_unpublished_poll_is_reissued(world: World) -> None:
    watching(world)
    world.clock.sleep(10)
    world.queue.broken = ConnectionResetError("broker away")
    with pytest.raises(ScheduleFailed):
        world.dispatch()
    world.queue.broken = None
    world.run(3)
    assert len(world.upstream.queries) == 1


def test_poll_refused_by_the_store_is_reported_and_repeated(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """S28: its lease expires; an invalid record affects no other."""
    watching(world)

    def break_the_history(_job: str, _age: float) -> str:
        world.redis.delete("t:history:C-1")
        world.redis.set("t:history:C-1", "no list", px=500)
        return "Paused"

    world.upstream.life = break_the_history
    world.clock.sleep(10)
    assert world.poll(job_id=JOB, poll_no=1) == "not written"
    assert any("poll not written" in line for line in caplog.messages)
    world.upstream.life = lambda _job, _age: "Paused"
    world.run(5)
    assert world.store.calls()[0].call_status == "Paused"

"""Run the tasks on fakeredis under a virtual clock, with a queue ordered by due time."""

import heapq
import itertools
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import time_machine

from api_client import CallStatus
from config.settings import Settings
from tests.fakeredisserver import fake_redis
from tests.fakes import ScriptedUpstream, VirtualClock, job_id, record
from worker.container import Container, terms
from worker.core.messages import PollMessage, TriggerResult, polls_kwargs, shown_polls
from worker.core.poll_model import PollInProgress
from worker.flows.dispatch import TICK
from worker.runtime.poll_executor import MAX_POLLS
from worker.store import Keys, RedisStore
from worker.store.keys import LEASED

T = TypeVar("T")


@dataclass(order=True)
class Delivery:
    """A message in transit to a task."""

    at: float
    number: int
    task: str = field(compare=False)
    kwargs: dict[str, Any] = field(compare=False)
    task_id: str = field(compare=False)


class VirtualQueue:
    """Replacement for `apply_async`: messages pass through JSON and are delivered by due time."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.heap: list[Delivery] = []
        self.broken: Exception | None = None
        self.published: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self.heap)

    def publisher(self, task: str) -> Callable[..., None]:
        """Return the replacement for a task's `apply_async`."""

        def publish(*, kwargs: dict[str, Any], countdown: float = 0, task_id: str = "", **options: Any) -> None:
            assert {"argsrepr", "kwargsrepr"} <= options.keys()
            if self.broken:
                raise self.broken
            message = json.loads(json.dumps(kwargs))
            self.published.append(message)
            heapq.heappush(self.heap, Delivery(time.time() + countdown, next(self._numbers), task, message, task_id))

        return publish

    def pop(self, until: float) -> Delivery | None:
        """Remove and return the next message that is due by `until` (epoch seconds), or None."""
        return heapq.heappop(self.heap) if self.heap and self.heap[0].at <= until else None


class PollQueueOf:
    """The dispatcher's view of the virtual queue."""

    def __init__(self, queue: VirtualQueue) -> None:
        self._queue = queue

    def waiting(self) -> int:
        """Return the number of due poll messages."""
        return sum(delivery.task == "outbound.poll" and delivery.at <= time.time() for delivery in self._queue.heap)

    def __call__(self, polls: Sequence[PollMessage]) -> None:
        """Publish the polls as one message."""
        from worker import tasks  # noqa: PLC0415 - after the application is configured

        with tasks.translated():
            tasks.poll.apply_async(
                kwargs=polls_kwargs(polls), argsrepr="()", kwargsrepr=shown_polls(polls), retry=False
            )


def run_through(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    raise AssertionError("the coroutine suspended")


class World:
    """The tasks on fakeredis under a virtual clock with a scripted upstream; sweeps every `sweeping` seconds.

    The dispatcher takes each poll at its due time. A poll that passes the fence is queried, judged and written
    immediately.
    """

    def __init__(self, traveller: time_machine.Traveller, settings: Settings, client: Any = None) -> None:
        self.settings = settings
        self.clock = VirtualClock(traveller)
        self.queue = VirtualQueue()
        self.upstream = ScriptedUpstream(self.clock)
        self.redis = client or fake_redis()
        self.keys = Keys(settings.key_prefix)
        self.store = RedisStore(self.redis, self.keys, terms(settings))
        self.parts = Container(settings, self.store, self.upstream, self.clock)
        self.sweeping = 0.0
        self.dispatching = True
        self.lines: list[str] = []
        self.shown: list[tuple[str, dict[str, Any]]] = []
        self._dispatched_at = 0.0

    def install(self, monkeypatch: Any) -> None:
        """Let the tasks use this world's container and queue."""
        from worker import tasks  # noqa: PLC0415 - after the application is configured

        monkeypatch.setattr(tasks, "container", lambda: self.parts)
        monkeypatch.setattr(tasks, "send_event", lambda kind, fields: self.shown.append((kind, fields)))
        monkeypatch.setattr(tasks.this_process, "poll_executor", lambda: self.execute)
        for task in (tasks.trigger, tasks.poll, tasks.look_up):
            monkeypatch.setattr(task, "apply_async", self.queue.publisher(task.name))

    def trigger(self, case_id: Any = "C-1", mediation_id: Any = "20", *, task_id: str = "task-1", **kwargs: Any) -> Any:
        """Deliver a trigger; return the task's result, or None for a duplicate delivery."""
        from worker import tasks  # noqa: PLC0415

        outcome = tasks.trigger.apply(
            kwargs={"case_id": case_id, "mediation_id": mediation_id, **kwargs}, task_id=task_id, throw=True
        )
        return outcome.result if isinstance(outcome.result, TriggerResult) else None

    def poll(self, **kwargs: Any) -> str:
        """Deliver a poll message; return the outcome of each poll, or the task's result if no poll started."""
        from worker import tasks  # noqa: PLC0415

        before = len(self.lines)
        line = str(tasks.poll.apply(kwargs=kwargs, throw=True).result)
        return ", ".join(self.lines[before:]) or line

    def execute(self, polls: Sequence[PollInProgress]) -> None:
        """Replacement for the poll executor: query, judge and write each poll in turn."""
        from worker import tasks  # noqa: PLC0415

        flow = self.parts.poll_flow(tasks.show_in_flower)
        for poll in polls:
            judged = flow.decide_end(poll, run_through(flow.query(poll, self._status, self._sleep)))
            self.lines += flow.write([judged])

    async def _status(self, **query: str) -> CallStatus:
        return self.upstream.status(**query)

    async def _sleep(self, seconds: float) -> None:
        self.clock.sleep(seconds)

    def dispatch(self) -> int:
        """Run the dispatcher once; return the number of published polls."""
        return self.parts.dispatcher(PollQueueOf(self.queue), lambda: MAX_POLLS)()

    def next_dispatch(self) -> float:
        """Return when the dispatcher next finds a due poll or expired lease, at least `TICK` after its last run."""
        entries: Any = self.redis.zrange(self.keys.due, 0, 0, withscores=True)
        leases: Any = self.redis.zrange(self.keys.due, LEASED, "+inf", byscore=True, offset=0, num=1, withscores=True)
        due = [float(score) % LEASED for _, score in (*entries, *leases)]
        return max(min(due, default=float("inf")), self._dispatched_at + TICK)

    def sweep(self) -> int:
        """Sweep once; return the number of published messages."""
        from worker import tasks  # noqa: PLC0415

        return self.parts.sweep(tasks.Publisher())()

    def deliver(self, delivery: Delivery) -> Any:
        """Deliver a message to its task."""
        from worker import tasks  # noqa: PLC0415

        if delivery.task == "outbound.poll":
            return self.poll(**delivery.kwargs)
        if delivery.task == "outbound.trigger":
            return self.trigger(task_id=delivery.task_id, **delivery.kwargs)
        return str(tasks.look_up.apply(kwargs=delivery.kwargs, throw=True).result)

    def run(self, seconds: float) -> list[Any]:
        """Advance the clock by `seconds`; return the results of all tasks."""
        end = time.time() + seconds
        returned: list[Any] = []
        while time.time() < end or seconds == 0:
            step = min(end, time.time() + self.sweeping) if self.sweeping else end
            self._work_until(step, returned)
            self.clock.move_to(step)
            if self.sweeping:
                self.sweep()
            if seconds == 0:
                break
        return returned

    def _work_until(self, step: float, returned: list[Any]) -> None:
        """Dispatch polls and deliver messages due by `step`, in order of time."""
        while True:
            due = self.next_dispatch() if self.dispatching else float("inf")
            first = min(due, self.queue.heap[0].at if self.queue.heap else float("inf"))
            if first > step:
                return
            self.clock.move_to(first)
            if due == first:
                self._dispatched_at = time.time()
                self.dispatch()
            while delivery := self.queue.pop(time.time()):
                returned.append(self.deliver(delivery))

    def events(self, case_id: str = "C-1") -> list[str]:
        """Return the kinds of events in a case's history."""
        return [event["kind"] for event in self.store.history(case_id)]


def watching(world: World, jobs: int = 1) -> None:
    """Watch calls that never end."""
    world.upstream.life = lambda _job, _age: "Executing"
    world.upstream.dials = [[record(job_id(number)) for number in range(1, jobs + 1)]]
    assert world.trigger()["outcome"] == "started"

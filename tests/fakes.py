"""Provide the fakes of the tests: a scripted upstream, a virtual clock, a queue ordered by due time."""

import heapq
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import fakeredis
import time_machine

from api_client import ApiError, CallRecord, CallRequest, CallStatus, ConversationLog, NotSent, ProtocolError
from config.settings import Settings
from worker.container import Container, terms
from worker.core.messages import PollMessage, TriggerResult, polls_kwargs, shown_polls
from worker.core.poll_model import PollInProgress
from worker.flows.dispatch import TICK
from worker.runtime.poll_executor import MAX_POLLS
from worker.store import Keys, RedisStore
from worker.store.keys import LEASED

START = 1_770_463_000.0  # epoch seconds: start of the virtual clock

Dial = list[CallRecord] | ApiError | Callable[[CallRequest], list[CallRecord]]
StatusAnswer = str | ApiError
T = TypeVar("T")


def record(
    job_id: str | None = None, *, code: int | None = 0, person: str | None = "P-0001", **fields: Any
) -> CallRecord:
    """Return a record of a dial response; with a job and code 0 it is a started call."""
    return CallRecord.model_validate({"errorCode": code, "jobId": job_id, "personId": person, **fields})


def job_id(number: int = 1, *, at: float = START) -> str:
    """Return a job id in the upstream's format."""
    return f"{round(at * 1000)}-447e-96ea-{number:012x}"


class VirtualClock:
    """A clock that moves on request; `time.time` and fakeredis follow it."""

    def __init__(self, traveller: time_machine.Traveller) -> None:
        self._traveller = traveller
        self.slept: list[float] = []

    def monotonic(self) -> float:
        """Return the seconds since `START`."""
        return time.time() - START

    def sleep(self, seconds: float) -> None:
        """Record the request and advance the clock by `seconds`."""
        self.slept.append(seconds)
        self._traveller.shift(seconds)

    def move_to(self, moment: float) -> None:
        """Advance to `moment` (epoch seconds); never move back."""
        if moment > time.time():
            self._traveller.move_to(moment)


@dataclass
class ScriptedUpstream:
    """Respond by script and record every request.

    Each dial consumes one entry of `dials`, and the last entry repeats; `life` returns the status of a job at a time in
    seconds since `START`.
    """

    clock: VirtualClock
    dials: list[Dial] = field(default_factory=list)
    life: Callable[[str, float], StatusAnswer] = lambda _job, _age: "Succeeded"
    slow: float = 0  # seconds per status query
    case_status: Callable[[str], CallStatus | ApiError] = lambda _case: ProtocolError("GET /status: data null")
    log_entries: list[ConversationLog] | ApiError = field(default_factory=list)
    requests: list[tuple[float, CallRequest]] = field(default_factory=list)
    queries: list[tuple[float, str]] = field(default_factory=list)
    before_connect: Callable[[], object] = lambda: None
    withins: list[float | None] = field(default_factory=list)
    """The connect budget of each dial, in seconds."""

    def dial(
        self, request: CallRequest, *, before_send: Callable[[], None], within: float | None = None
    ) -> list[CallRecord]:
        """Respond by script; raise a scripted `NotSent` before the request is recorded as sent."""
        script = self.dials.pop(0) if len(self.dials) > 1 else self.dials[0]
        self.withins.append(within)
        began = time.time()
        self.before_connect()
        if isinstance(script, NotSent):
            raise script
        if within is not None and time.time() - began > within:
            raise NotSent("POST /call-v2: ConnectTimeoutError")
        before_send()
        self.requests.append((time.time(), request))
        if isinstance(script, ApiError):
            raise script
        return script(request) if callable(script) else script

    def status(self, *, case_ref: str, job_id: str | None = None) -> CallStatus:
        """Return the status that `life` gives, or `case_status` for a query without a job."""
        if job_id is None:
            by_case = self.case_status(case_ref)
            if isinstance(by_case, ApiError):
                raise by_case
            return by_case
        self.queries.append((time.time(), job_id))
        if self.slow:
            self.clock.sleep(self.slow)
        answer = self.life(job_id, time.time() - START)
        if isinstance(answer, ApiError):
            raise answer
        return CallStatus.model_validate({"jobId": job_id, "callStatus": answer, "caseRef": case_ref})

    def conversations(self, *, case_id: str) -> list[ConversationLog]:  # noqa: ARG002 - a world has one case
        """Return `log_entries`, or raise it if it is an error."""
        if isinstance(self.log_entries, ApiError):
            raise self.log_entries
        return self.log_entries

    def calls_per_pair(self) -> Counter[tuple[str, str]]:
        """Return the number of dials of each pair."""
        return Counter((request.case_id, request.mediation_id) for _, request in self.requests)


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
        self.redis = client or fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=True)
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


@contextmanager
def virtual_time(start: float = START) -> Iterator[time_machine.Traveller]:
    """Stop the clock at `start`."""
    with time_machine.travel(start, tick=False) as traveller:
        yield traveller

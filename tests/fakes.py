"""The fakes that ship with the tests: a scripted upstream, a virtual clock, a queue ordered by due time."""

import heapq
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import fakeredis
import time_machine

from api_client import ApiError, CallRecord, CallRequest, CallStatus
from config.settings import Settings
from worker.messages import TriggerResult
from worker.store import Keys, RedisStore
from worker.wiring import Parts, terms

START = 1_770_463_000.0  # epoch seconds: where the virtual clock begins

Dial = list[CallRecord] | ApiError | Callable[[CallRequest], list[CallRecord]]
StatusAnswer = str | ApiError


def record(
    job_id: str | None = None, *, code: int | None = 0, person: str | None = "P-0001", **fields: Any
) -> CallRecord:
    """Return a record as an answer holds it; with a job and code 0 it is a started call."""
    return CallRecord.model_validate({"errorCode": code, "jobId": job_id, "personId": person, **fields})


def job_id(number: int = 1, *, at: float = START) -> str:
    """Return a job id as the upstream makes them."""
    return f"{round(at * 1000)}-447e-96ea-{number:012x}"


class VirtualClock:
    """A clock that moves when told: `time.time` and fakeredis follow it."""

    def __init__(self, traveller: time_machine.Traveller) -> None:
        self._traveller = traveller
        self.slept: list[float] = []

    def monotonic(self) -> float:
        """Seconds since the start."""
        return time.time() - START

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self.slept.append(seconds)
        self._traveller.shift(seconds)

    def move_to(self, moment: float) -> None:
        """Move forward to an epoch second; never back."""
        if moment > time.time():
            self._traveller.move_to(moment)


@dataclass
class ScriptedUpstream:
    """Answers as told and remembers what it was asked.

    `dials` are answered one after the other, the last one again and again; `life` answers status queries by job and
    by seconds since the start.
    """

    clock: VirtualClock
    dials: list[Dial] = field(default_factory=list)
    life: Callable[[str, float], StatusAnswer] = lambda _job, _age: "Succeeded"
    slow: float = 0  # seconds that each status query takes
    requests: list[tuple[float, CallRequest]] = field(default_factory=list)
    queries: list[tuple[float, str]] = field(default_factory=list)
    before_connect: Callable[[], None] = lambda: None

    def dial(self, request: CallRequest, *, before_send: Callable[[], None]) -> list[CallRecord]:
        """Answer as scripted; errors of the kind NotSent come before anything is sent."""
        script = self.dials.pop(0) if len(self.dials) > 1 else self.dials[0]
        self.before_connect()
        if isinstance(script, ApiError) and type(script).__name__ == "NotSent":
            raise script
        before_send()
        self.requests.append((time.time(), request))
        if isinstance(script, ApiError):
            raise script
        return script(request) if callable(script) else script

    def status(self, *, case_ref: str, job_id: str | None = None) -> CallStatus:
        """Answer as the call's life says."""
        assert case_ref
        assert job_id is not None
        self.queries.append((time.time(), job_id))
        if self.slow:
            self.clock.sleep(self.slow)
        answer = self.life(job_id, time.time() - START)
        if isinstance(answer, ApiError):
            raise answer
        return CallStatus.model_validate({"jobId": job_id, "callStatus": answer, "caseRef": case_ref})

    def calls_per_pair(self) -> Counter[tuple[str, str]]:
        """How often each pair was called."""
        return Counter((request.case_id, request.mediation_id) for _, request in self.requests)


@dataclass(order=True)
class Delivery:
    """A message on its way."""

    at: float
    number: int
    kwargs: dict[str, Any] = field(compare=False)


class VirtualQueue:
    """Takes the place of `apply_async`: messages pass through JSON and come in the order of their due times."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._numbers = itertools.count()
        self._heap: list[Delivery] = []
        self.broken: Exception | None = None
        self.published: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def publish(self, *, kwargs: dict[str, Any], countdown: float = 0, **options: Any) -> None:
        """Take a message as Celery does: through JSON, with every argument's display given."""
        assert {"argsrepr", "kwargsrepr"} <= options.keys()
        if self.broken:
            raise self.broken
        self.published.append(json.loads(json.dumps(kwargs)))
        heapq.heappush(self._heap, Delivery(time.time() + countdown, next(self._numbers), self.published[-1]))

    def deliver(self, handle: Callable[[dict[str, Any]], Any], *, until: float) -> Iterator[Any]:
        """Deliver all that is due by `until` (epoch seconds), moving the clock along, and yield what came back."""
        while self._heap and self._heap[0].at <= until:
            delivery = heapq.heappop(self._heap)
            self._clock.move_to(delivery.at)
            yield handle(delivery.kwargs)
        self._clock.move_to(until)


class World:
    """The tasks on fakeredis under a virtual clock, with a scripted upstream."""

    def __init__(self, traveller: time_machine.Traveller, settings: Settings, client: Any = None) -> None:
        self.settings = settings
        self.clock = VirtualClock(traveller)
        self.queue = VirtualQueue(self.clock)
        self.upstream = ScriptedUpstream(self.clock)
        self.redis = client or fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=True)
        self.keys = Keys(settings.key_prefix)
        self.store = RedisStore(self.redis, self.keys, terms(settings))
        self.parts = Parts(settings, self.store, self.upstream, self.clock)

    def trigger(self, case_id: Any = "C-1", mediation_id: Any = "20", *, task_id: str = "task-1", **kwargs: Any) -> Any:
        """Deliver a trigger; returns the task's result, None for a copy."""
        from worker import tasks  # noqa: PLC0415 - the application is configured by then

        outcome = tasks.trigger.apply(
            kwargs={"case_id": case_id, "mediation_id": mediation_id, **kwargs}, task_id=task_id, throw=True
        )
        return outcome.result if isinstance(outcome.result, TriggerResult) else None

    def poll(self, **kwargs: Any) -> str:
        """Deliver a poll."""
        from worker import tasks  # noqa: PLC0415

        return str(tasks.poll.apply(kwargs=kwargs, throw=True).result)

    def run(self, seconds: float) -> list[str]:
        """Let time pass; returns what the polls returned."""
        end = time.time() + seconds
        return list(self.queue.deliver(lambda kwargs: self.poll(**kwargs), until=end))

    def events(self, case_id: str = "C-1") -> list[str]:
        """The kinds of events in a case's history."""
        return [event["kind"] for event in self.store.history(case_id)]


@contextmanager
def virtual_time(start: float = START) -> Iterator[time_machine.Traveller]:
    """Stop the clock at `start`."""
    with time_machine.travel(start, tick=False) as traveller:
        yield traveller

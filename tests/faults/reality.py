"""Simulate the real upstream: the telephones that ring, with or without a record in callwatch.

A received request makes calls one after the other; each call has its own course, and its queries may fail.
"""

import itertools
from dataclasses import dataclass, field

from api_client import CallRecord
from tests.fakes import START, job_id, record
from worker.core.decision import TERMINAL
from worker.core.model import Pair

NEVER = 1e9  # seconds
TIME_OUT = 20  # seconds for which a sender waits for its answer

LIVES: tuple[tuple[tuple[float, str], ...], ...] = (
    ((0, "Scheduling"), (8, "Executing"), (25, "Succeeded")),
    ((0, "Scheduling"), (4, "Succeeded")),
    ((0, "Scheduling"), (12, "Executing"), (21, "Failed")),
    ((0, "Scheduling"), (10, "Executing"), (110, "Succeeded")),
    ((0, "Scheduling"),),
    ((0, "Drafted"), (6, "Paused"), (95, "Cancelled")),
    ((0, "Scheduling"), (7_200, "Executing"), (7_230, "Succeeded")),
    ((0, "Paused"), (100_000, "Cancelled")),
)
FOR_EVER, LASTING = 4, (4, 6, 7)  # the endless life, and those that outlast a look-up, its hold and a watch
MUTE = ((NEVER, NEVER), (NEVER, NEVER), (NEVER, NEVER), (4, 135), (30, 70), (0, NEVER))  # seconds: its queries fail
VISIBLE = (0, 0, 18, 60, NEVER)  # seconds after which a call appears in the conversation log
SELDOM = (3, 4, 0)  # of these, the ones that delay a call until the next request, and one that does not
GAPS = (0.3, 2.0, 5.0)  # seconds between two calls of one request
SPREADS = (0, 1, 4)  # variation between the calls of one request
CONNECTS = (0, 0, 0, 7.5, 12, 40)  # seconds that each attempt to connect takes, name resolution included
ENDINGS = (
    *("answered", "answered", "answered", "answered"),
    *("lost at once", "lost after a time-out", "lost before any call", "some refused", "all refused"),
    *("one without a job", "none has a job", "rejected", "not sent", "not sent at first"),
)


@dataclass(frozen=True)
class Plan:
    """Plan of one request: its ending, its calls, and the duration of each attempt to connect."""

    ending: str = "answered"
    persons: int = 1
    life: int = 0
    mute: int = 0
    visible: int = 0
    gap: float = GAPS[0]
    spread: int = 0
    connect: float = 0

    @classmethod
    def of(cls, number: int) -> "Plan":
        """Return one of the PLANS plans; 0 is the simplest."""
        parts = []
        for choices in CHOICES:
            number, part = divmod(number, choices)
            parts.append(part)
        ending, persons, life, mute, visible, gap, spread, connect = parts
        return cls(ENDINGS[ending], persons + 1, life, mute, visible, GAPS[gap], SPREADS[spread], CONNECTS[connect])


CHOICES = tuple(map(len, (ENDINGS, range(3), LIVES, MUTE, VISIBLE, GAPS, SPREADS, CONNECTS)))
PLANS = 1
for _choices in CHOICES:
    PLANS *= _choices


@dataclass(frozen=True)
class Job:
    """One call as upstream knows it; `created` in epoch seconds on the store's clock.

    `life`, `mute` and `visible` number its course; `task_id` is the trigger that requested it, empty for a foreign
    call.
    """

    job_id: str
    pair: Pair
    task_id: str
    person: str
    created: float
    life: int
    mute: int
    visible: int

    def status(self, now: float) -> str:
        """Return the status of the call."""
        return next(name for start, name in reversed(LIVES[self.life]) if now >= self.created + start)

    def active(self, now: float) -> bool:
        """Tell whether the call is running."""
        return now >= self.created and self.status(now) not in TERMINAL

    def mute_at(self, now: float) -> bool:
        """Tell whether its queries fail now."""
        begin, end = MUTE[self.mute]
        return self.created + begin <= now < self.created + end

    def visible_at(self, now: float) -> bool:
        """Tell whether it appears in the conversation log."""
        return now >= self.created + VISIBLE[self.visible]


@dataclass
class Received:
    """Result of one received request: its answer or one word for an error, and the time of its arrival."""

    jobs: list[Job]
    answer: list[CallRecord] | str
    ready_at: float


@dataclass
class Reality:
    """All calls of a run. `skew` is the lead of upstream's clock over the store's in seconds."""

    skew: float = 0
    jobs: dict[str, Job] = field(default_factory=dict)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def stranger(self, pair: Pair) -> None:
        """Make a foreign call of the case, long before the run."""
        self._create(pair, "", START - 500, Plan(life=FOR_EVER))

    def receive(self, pair: Pair, task_id: str, plan: Plan, now: float) -> Received:
        """Make the calls of a request, and return its sender's answer."""
        if plan.ending == "rejected":
            return Received([], "rejected", now + 0.2)
        made = 0 if plan.ending in ("lost before any call", "all refused") else plan.persons
        jobs = [self._create(pair, task_id, now + 0.1 + number * plan.gap, plan, number) for number in range(made)]
        ready_at = now + 0.2 + plan.persons * plan.gap
        if plan.ending.startswith("lost"):
            return Received(jobs, "lost", now + (0.5 if plan.ending == "lost at once" else TIME_OUT))
        records = [record(job.job_id, person=job.person, callStatus=None) for job in jobs]
        if plan.ending in ("some refused", "all refused"):
            records.append(record(None, code=1002, person="P-9999", message="已达上限"))
        elif plan.ending == "one without a job":
            records[-1] = record(None, person=jobs[-1].person)
        elif plan.ending == "none has a job":
            records = [record(None, person=job.person) for job in jobs]
        return Received(jobs, records, ready_at)

    def under_way(self, pair: Pair, now: float) -> list[Job]:
        """Return the running calls that the pair's requests have made."""
        return [job for job in self.jobs.values() if job.pair == pair and job.task_id and job.active(now)]

    def log(self, case_id: str, now: float) -> list[Job]:
        """Return the calls in a case's conversation log, the newest first."""
        seen = [job for job in self.of_case(case_id, now) if job.visible_at(now)]
        return sorted(seen, key=lambda job: job.created, reverse=True)

    def of_case(self, case_id: str, now: float) -> list[Job]:
        """Return the existing calls of a case; each case has at least one."""
        return [job for job in self.jobs.values() if job.pair.case_id == case_id and now >= job.created]

    def _create(self, pair: Pair, task_id: str, at: float, plan: Plan, person: int = 0) -> Job:
        number, apart = next(self._numbers), person * plan.spread
        job = Job(
            job_id=job_id(number, at=at + self.skew),
            pair=pair,
            task_id=task_id,
            person=f"P-{number:04}",
            created=at,
            life=(plan.life + apart) % len(LIVES),
            mute=(plan.mute + apart) % len(MUTE),
            visible=(plan.visible + apart) % len(VISIBLE),
        )
        self.jobs[job.job_id] = job
        return job

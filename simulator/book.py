"""The calls of the simulated upstream. Time is an argument."""

import uuid
from dataclasses import dataclass, field

from simulator.life import Life, LifeClock


@dataclass(slots=True)
class Call:
    """One call. `created_at` is in epoch seconds, `born` is the same moment on the life clock."""

    number: int
    request: int
    case_id: str
    mediation_id: str
    person_id: str
    person_type: int
    life: Life
    job_id: str
    job_group_id: str
    instance_id: str
    script_id: str
    phone_number: str
    created_at: float
    born: float


def make_job_id(now: float) -> str:
    """Return a new jobId: 13 digits of epoch milliseconds, then the rest of a UUIDv4."""
    return f"{int(now * 1000):013d}{str(uuid.uuid4())[13:]}"


@dataclass(slots=True)
class Book:
    """All calls by job id and by case, oldest first."""

    clock: LifeClock
    by_job: dict[str, Call] = field(default_factory=dict)
    by_case: dict[str, list[Call]] = field(default_factory=dict)

    def open(
        self, life: Life, *, case_id: str, mediation_id: str, person_id: str, person_type: int, request: int, now: float
    ) -> Call:
        """Make a call with this life now; `request` is the number of its request."""
        number = len(self.by_job) + 1
        call = Call(
            number=number,
            request=request,
            case_id=case_id,
            mediation_id=mediation_id,
            person_id=person_id,
            person_type=person_type,
            life=life,
            job_id=make_job_id(now),
            job_group_id=str(uuid.uuid4()),
            instance_id=str(uuid.uuid4()),
            script_id=str(uuid.uuid4()),
            phone_number=f"138{number % 100_000_000:08d}",
            created_at=now,
            born=self.clock.lived(now),
        )
        self.by_job[call.job_id] = call
        self.by_case.setdefault(case_id, []).append(call)
        return call

    def age(self, call: Call, now: float) -> float:
        """Return the age of the call in seconds of the life clock."""
        return self.clock.lived(now) - call.born

    def status(self, call: Call, now: float) -> str:
        """Return the call's status."""
        return call.life.status_at(self.age(call, now))

    def end(self, call: Call, status: str, now: float) -> None:
        """End the call now, with this status."""
        call.life = call.life.cut(status, self.age(call, now))

    def moment(self, call: Call, age: float, now: float) -> float:
        """Return the approximate time (epoch seconds) of an age, never later than `now` for an age already reached."""
        return now - (self.age(call, now) - age) / self.clock.speed

    def find(self, *, case_ref: str, job_id: str, phone_number: str) -> Call | None:
        """Return the newest call that matches all given values; None if no call matches or no value is given."""
        if job_id:
            known = self.by_job.get(job_id)
            calls = [known] if known else []
        elif case_ref:
            calls = self.by_case.get(case_ref, [])
        else:
            calls = list(self.by_job.values()) if phone_number else []
        matching = (
            call
            for call in reversed(calls)
            if case_ref in ("", call.case_id) and phone_number in ("", call.phone_number)
        )
        return next(matching, None)

    def select(self, *, case_id: str, person_id: str, job_id: str) -> list[Call]:
        """Return the calls that match all given values, newest first."""
        calls = self.by_case.get(case_id, []) if case_id else list(self.by_job.values())
        return [call for call in reversed(calls) if person_id in ("", call.person_id) and job_id in ("", call.job_id)]

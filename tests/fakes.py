"""Provide a scripted upstream and a virtual clock."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import time_machine

from api_client import ApiError, CallRecord, CallRequest, CallStatus, ConversationLog, NotSent, ProtocolError

PHONE = "138" + "0000" + "1111"  # in pieces: the source contains no phone number
START = 1_770_463_000.0  # epoch seconds: start of the virtual clock

Dial = list[CallRecord] | ApiError | Callable[[CallRequest], list[CallRecord]]
StatusAnswer = str | ApiError


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


@contextmanager
def virtual_time() -> Iterator[time_machine.Traveller]:
    """Stop the clock at `START`."""
    with time_machine.travel(START, tick=False) as traveller:
        yield traveller

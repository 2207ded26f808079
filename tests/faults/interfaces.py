"""Provide the interfaces of one process: every effect on the outside is a point at which a fault may strike."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from api_client import (
    CallRecord,
    CallRequest,
    CallStatus,
    ConversationLog,
    NotSent,
    OutcomeUnknown,
    ProtocolError,
    Rejected,
    Unavailable,
)
from tests.fakes import START
from tests.faults.endpoints import QUERY_TIME_OUT, Endpoint
from tests.faults.processes import Died, Process
from tests.faults.reality import Job, Plan
from worker.core.interfaces import StoreUnavailable
from worker.core.model import Pair

if TYPE_CHECKING:
    from tests.faults.simulation import Machine

T = TypeVar("T")

GATE = 2  # seconds from the connection to the first byte, beyond which a dial sends nothing (S18)


class StorePort:
    """The real store, one effect per method; the invariants see each reply, even a lost one."""

    def __init__(self, process: Process, machine: "Machine") -> None:
        self._process, self._machine = process, machine

    def __getattr__(self, name: str) -> Callable[..., Any]:
        step = getattr(self._machine.store, name)

        def port(*args: Any, **kwargs: Any) -> Any:
            def act() -> Any:
                self._machine.dirty = True
                self._machine.invariants.before(name, *args, **kwargs)
                reply = step(*args, **kwargs)
                self._machine.invariants.after(name, self._process, args, kwargs, reply)
                return reply

            return self._process.effect(name, act, lambda: StoreUnavailable("Redis: cut off"))

        return port


class UpstreamPort:
    """The upstream as seen by one process."""

    def __init__(self, process: Process, machine: "Machine") -> None:
        self._process, self._machine = process, machine
        self._tries = 0

    def dial(
        self, request: CallRequest, *, before_send: Callable[[], None], within: float | None = None
    ) -> list[CallRecord]:
        """Request calls in the order of the real client: connect, `sending`, the gate, the request, its answer.

        The connection must be established within `within` seconds; otherwise an attempt takes the drawn time.
        """
        process, machine = self._process, self._machine
        plan = machine.plan(process.task_id)
        self._connect(plan, within)
        started = time.time()
        before_send()
        order = process.point("send")
        if time.time() - started > GATE:
            raise NotSent("POST /call-v2: too late")
        if order == "fail":
            raise OutcomeUnknown("POST /call-v2: reset")
        pair = Pair(request.case_id, request.mediation_id)
        machine.invariants.on_request(process, pair)
        received = machine.reality.receive(pair, process.task_id, plan, time.time())
        if order == "die after":
            raise Died
        if order == "fail after" or not process.wait("answer", received.ready_at) or received.answer == "lost":
            raise OutcomeUnknown("POST /call-v2: no answer")
        if isinstance(received.answer, str):
            raise Rejected("POST /call-v2: HTTP 404")
        return received.answer

    def _connect(self, plan: Plan, within: float | None) -> None:
        """Resolve the name and connect; NotSent where that fails or takes too long."""
        process, machine = self._process, self._machine
        self._tries += 1
        refused = plan.ending == "not sent" or (plan.ending == "not sent at first" and self._tries == 1)
        in_time = within is None or plan.connect <= within
        began = time.time()
        stands = process.wait("connect", began + (plan.connect if in_time else within or 0))
        machine.invariants.on_connected(process, began)
        if not stands or refused or not in_time or machine.endpoints.is_("away", "call", time.time()):
            raise NotSent("POST /call-v2: refused")

    def status(self, *, case_ref: str, job_id: str | None = None) -> CallStatus:
        """Answer with the status at the time of the query; without a job, with that of one of the case's calls."""
        process, machine = self._process, self._machine
        endpoint: Endpoint = "status by case" if job_id is None else "status by job"
        asked = None if job_id is None else machine.reality.jobs[job_id]

        def read(now: float) -> CallStatus:
            if job_id is not None and process.kind == "poll":
                machine.invariants.on_query(process, job_id)
            job = machine.named(case_ref, now) if asked is None else asked
            return CallStatus.model_validate({"jobId": job.job_id, "callStatus": job.status(now), "caseRef": case_ref})

        try:
            status = self._query(endpoint, job_id or case_ref, read, asked)
        except ProtocolError:
            machine.invariants.on_answer(process, endpoint, {}, job_id or "")
            raise
        machine.invariants.on_answer(process, endpoint, {str(status.job_id): status.call_status})
        return status

    def conversations(self, *, case_id: str) -> list[ConversationLog]:
        """Answer with the conversation log at the time of the query."""

        def read(now: float) -> list[ConversationLog]:
            return [_entry(job, now) for job in self._machine.reality.log(case_id, now)]

        entries = self._query("log", f"for the log of {case_id}", read)
        shown = {str(entry.job_id): str(entry.call_status) for entry in entries}
        self._machine.invariants.on_answer(self._process, "log", shown)
        return entries

    def _query(self, endpoint: Endpoint, about: str, read: Callable[[float], T], job: Job | None = None) -> T:
        """Send one query; raise Unavailable or ProtocolError if it is not answered."""
        process, endpoints = self._process, self._machine.endpoints
        well = process.wait(f"ask {about}")
        now = time.time()
        answer, denied = read(now), endpoints.is_("denies", endpoint, now)
        away = endpoints.is_("away", endpoint, now) or self._machine.mute(job)
        latency = endpoints.latency(endpoint, now)
        answered = process.wait(f"answered by {endpoint}", now + min(latency, QUERY_TIME_OUT))
        if away or not well or not answered or latency > QUERY_TIME_OUT:
            raise Unavailable(f"{endpoint}: ReadTimeout")
        if denied:
            raise ProtocolError(f"{endpoint}: data null")
        return answer


def _entry(job: Job, now: float) -> ConversationLog:
    fields = {"jobId": job.job_id, "callStatus": job.status(now), "conversations": "[]"}
    return ConversationLog.model_validate(fields)


class ClockPort:
    """The process's own clock, which continues while the process is stopped."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def monotonic(self) -> float:
        """Seconds since the start."""
        return time.time() - START

    def sleep(self, seconds: float) -> None:
        """Wait for at least that long."""
        self._process.wait("sleep", time.time() + seconds)

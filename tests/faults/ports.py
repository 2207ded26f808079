"""The ports of one process: every effect on the world around it is a point at which anything may happen to it."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from api_client import (
    CallRecord,
    CallRequest,
    CallStatus,
    ConversationLog,
    NotSent,
    OutcomeUnknown,
    Rejected,
    Unavailable,
)
from tests.fakes import START
from tests.faults.processes import Died, Process
from tests.faults.reality import Job
from worker.ports import StoreUnavailable
from worker.values import Pair

if TYPE_CHECKING:
    from tests.faults.simulation import Machine

GATE = 2  # seconds from the connection to the first byte, above which a dial sends nothing (S18)


class StorePort:
    """The real store, one effect for each step; the invariants see each step's reply, even one that is lost."""

    def __init__(self, process: Process, machine: "Machine") -> None:
        self._process, self._machine = process, machine

    def __getattr__(self, name: str) -> Callable[..., Any]:
        step = getattr(self._machine.store, name)

        def port(*args: Any, **kwargs: Any) -> Any:
            def act() -> Any:
                self._machine.dirty = True
                self._machine.invariants.before(name, *args)
                reply = step(*args, **kwargs)
                self._machine.invariants.after(name, self._process, args, kwargs, reply)
                return reply

            return self._process.effect(name, act, lambda: StoreUnavailable("Redis: cut off"))

        return port


class UpstreamPort:
    """The upstream as one process sees it."""

    def __init__(self, process: Process, machine: "Machine") -> None:
        self._process, self._machine = process, machine
        self._tries = 0

    def dial(
        self,
        request: CallRequest,
        *,
        before_send: Callable[[], None],
        within: float | None = None,  # noqa: ARG002 - a connect is answered at once or refused
    ) -> list[CallRecord]:
        """Request calls, in the order of the real client: connect, `sending`, the gate, the request, its answer."""
        process, machine = self._process, self._machine
        plan = machine.plan(process.task_id)
        self._tries += 1
        refused = plan.ending == "not sent" or (plan.ending == "not sent at first" and self._tries == 1)
        if not process.wait("connect") or refused:
            raise NotSent("POST /call-v2: refused")
        started = time.time()
        before_send()
        order = process.point("send")
        if time.time() - started > GATE:
            raise NotSent("POST /call-v2: too late")
        if order == "fail":
            raise OutcomeUnknown("POST /call-v2: reset")
        pair = Pair(request.case_id, request.mediation_id)
        machine.invariants.on_request(process, pair)
        received = machine.reality.receive(pair, plan, time.time())
        if order == "die after":
            raise Died
        if order == "fail after" or not process.wait("answer", received.ready_at) or received.answer == "lost":
            raise OutcomeUnknown("POST /call-v2: no answer")
        if isinstance(received.answer, str):
            raise Rejected("POST /call-v2: HTTP 404")
        return received.answer

    def status(self, *, case_ref: str, job_id: str | None = None) -> CallStatus:
        """Answer as the call stands when the question comes; the answer may take its time."""
        process, machine = self._process, self._machine
        well = process.wait(f"ask {job_id or case_ref}")
        if job_id is not None and process.kind == "poll":
            machine.invariants.on_query(process, job_id)
        job = machine.reality.newest(case_ref, time.time()) if job_id is None else machine.reality.jobs[job_id]
        well = well and job is not None and not machine.mute("status", job if job_id else None)
        status = job.status(time.time()) if job is not None else ""
        told = process.wait(f"told {status}", time.time() + machine.latency)
        if not told or not well or job is None:
            raise Unavailable("GET /status: ReadTimeout")
        return CallStatus.model_validate({"jobId": job.job_id, "callStatus": status, "caseRef": case_ref})

    def conversations(self, *, case_id: str) -> list[ConversationLog]:
        """Answer with the calls that stand in the log when the question comes."""
        process, machine = self._process, self._machine
        well = process.wait(f"ask for the log of {case_id}") and not machine.mute("log", None)
        seen = machine.reality.log(case_id, time.time())
        entries = [_entry(job, job.status(time.time())) for job in seen]
        told = process.wait(f"told of {len(seen)} calls", time.time() + machine.latency)
        if not well or not told:
            raise Unavailable("GET /conversation-log: ReadTimeout")
        return entries


def _entry(job: Job, status: str) -> ConversationLog:
    return ConversationLog.model_validate({"jobId": job.job_id, "callStatus": status, "conversations": "[]"})


class ClockPort:
    """The process's own clock, which goes on while it is stopped."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def monotonic(self) -> float:
        """Seconds since the start."""
        return time.time() - START

    def sleep(self, seconds: float) -> None:
        """Wait for at least that long."""
        self._process.wait("sleep", time.time() + seconds)

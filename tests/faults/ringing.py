"""Rules of a request: no telephone rings twice, judged by the calls running in reality (S4, S5, S14, S16, S17)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from tests.faults.endpoints import Endpoint
from tests.faults.memory import DAY, ROUNDING, Memory, Request
from tests.faults.processes import Process
from tests.faults.reality import Job
from worker.core.model import Pair
from worker.store.keys import DIALLED_KEPT

if TYPE_CHECKING:
    from tests.faults.simulation import Machine


@dataclass
class Look:
    """Upstream's answers to one trigger before its request."""

    log: Mapping[str, str] | None = None
    """The conversation log; None if it was not read."""
    by_case: bool = False
    """The status by case was answered; a denial is an answer."""
    statuses: dict[str, str] = field(default_factory=dict)
    """Every status in them, by job."""
    denied: set[str] = field(default_factory=set)
    """The jobs that the status by job does not know."""

    def denies(self, job_id: str) -> bool:
        """Tell whether upstream was queried for the case's calls and did not name this one (S5)."""
        return self.log is not None and self.by_case and job_id not in self.statuses


class Ringing:
    """Judge each request at the moment when upstream receives it."""

    def __init__(self, machine: "Machine", memory: Memory) -> None:
        self._machine, self._memory = machine, memory
        self._owner: str | None = None
        self._sending_at: dict[Process, float] = {}
        self._looks: dict[Process, Look] = {}
        self._excused: dict[str, str] = {}
        """The running calls that were judged and did not stop a request of their pair, with its task id."""

    def before_begin_sending(self, pair: Pair, *_: object, **__: object) -> None:
        """Record the owner of the pair."""
        self._owner = cast("str | None", self._machine.redis.hget(self._machine.keys.ledger(pair), "token"))

    def after_begin_sending(self, process: Process, reply: object, pair: Pair, token: str, **_: object) -> None:
        """Only the pair's owner writes `sending`, and only while none of its calls is watched (S5, S16, S18)."""
        if self._owner != token:
            assert reply == "taken", f"{process} may call {pair}, which is another's"
            self._machine.counts["taken"] += 1
        if not isinstance(reply, float):
            return
        self._sending_at[process] = self._memory.sent_at[pair] = self._machine.now
        watched = [job for job in self._memory.watched if self._memory.calls[job].holds(pair)]
        assert not watched, f"{process} may call {pair} while {watched} are watched"
        assert not self._machine.store.paused(), f"{process} may call {pair} while new calls are stopped"

    def on_answer(self, process: Process, endpoint: Endpoint, statuses: Mapping[str, str], asked: str = "") -> None:
        """Record an answer to a trigger."""
        if process.kind != "trigger":
            return
        look = self._looks.setdefault(process, Look())
        look.statuses.update(statuses)
        if endpoint == "log":
            look.log = statuses
        elif endpoint == "status by case":
            look.by_case = True
        elif not statuses:
            look.denied.add(asked)

    def statuses(self, process: Process) -> dict[str, str]:
        """Return the statuses that a trigger has read."""
        return self._looks.get(process, Look()).statuses

    def on_request(self, process: Process, pair: Pair) -> None:
        """Judge a request for calls at the moment when upstream receives it."""
        memory, at = self._memory, self._sending_at[process]
        if before := memory.requests.get(process.task_id):  # a task id is remembered for a month (S18)
            assert memory.claimed_at[process] - before.at > DIALLED_KEPT, f"a second request of {process.task_id}"
        for earlier in memory.requests.values():
            assert earlier.pair != pair or memory.over(earlier, at), f"{pair} called again: {earlier} is not over"
        for job in self._machine.reality.under_way(pair, self._machine.now):
            if not self._is_excused(job):
                self._judge(process, pair, job)
                self._excused[job.job_id] = process.task_id
        for job_id, call in memory.calls.items():
            if call.holds(pair) and job_id not in self._excused:
                self._judge_record(process, pair, job_id)
        memory.requests[process.task_id] = memory.sent[process] = Request(pair, process.task_id, at)
        self._machine.counts["requests"] += 1

    def _is_excused(self, job: Job) -> bool:
        """Tell whether a request that did not stop for this call ended well, and no later one badly (S5)."""
        if (task_id := self._excused.get(job.job_id)) is None:
            return False
        first = self._memory.requests[task_id]
        later = [one for one in self._memory.requests.values() if one.pair == job.pair and one.at > first.at]
        return self._ended_well(first) and all(self._ended_well(one) or self._made_no_call(one) for one in later)

    def _ended_well(self, request: Request) -> bool:
        """Tell whether a request was answered for all persons, and its calls have ended."""
        jobs = [job.job_id for job in self._machine.reality.jobs.values() if job.task_id == request.task_id]
        ended = all(self._memory.calls[job_id].verdict == "ended" for job_id in jobs if job_id in self._memory.calls)
        return request.outcome == "started" and not request.look_up and ended

    def _made_no_call(self, request: Request) -> bool:
        return request.outcome in {"refused", "failed"}

    def _judge(self, process: Process, pair: Pair, job: Job) -> None:
        """A call of the pair is running: upstream was queried and denied it, or its failure is a day old."""
        memory, claimed = self._memory, self._memory.claimed_at[process]
        call, request = memory.calls.get(job.job_id), memory.requests[job.task_id]
        held = call is not None and call.holds(pair)
        bad_end = call.finished_at if call is not None and held else request.bad_end
        remembered = claimed - bad_end <= DAY - ROUNDING  # of a call that only another pair holds, nothing else is
        if call is not None and remembered and claimed - call.finished_at <= DAY + ROUNDING:
            self._judge_record(process, pair, job.job_id, own=True)
        look = self._looks.get(process, Look())
        excused = look.denies(job.job_id) or not remembered
        assert excused, f"{pair} called again: {job.job_id} is under way, and {process} has read {look}"
        self._machine.counts["denied" if look.denies(job.job_id) else "out of memory"] += 1

    def _judge_record(self, process: Process, pair: Pair, job_id: str, *, own: bool = False) -> None:
        """A call with a record is queried by its id: the pair may be called only if upstream denies that as well."""
        call, job = self._memory.calls[job_id], self._machine.reality.jobs[job_id]
        claimed = self._memory.claimed_at[process]
        known = call.finished_at < claimed if call.verdict else float(call.record["watched_at"]) < claimed
        denied = job_id in self._looks.get(process, Look()).denied
        under_way = known and claimed - call.finished_at <= DAY - ROUNDING and job.active(self._machine.now)
        why = "its own" if own else "held by the pair"
        assert denied or not under_way, f"{pair} called again: {job_id}, {why}, was {call.verdict} and is under way"

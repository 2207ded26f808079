"""Rules of answers: an answer is stored once, by its owner, and lost calls are found (S14, S18)."""

import json
from typing import TYPE_CHECKING, Any, cast

from tests.faults.memory import ROUNDING, TERMINAL, Memory
from tests.faults.processes import Process
from tests.faults.ringing import Ringing
from worker.core.model import Pair
from worker.core.trigger_model import LookUp, NewJob, Settled, Settlement

if TYPE_CHECKING:
    from tests.faults.simulation import Machine


class Answers:
    """Judge each stored answer and each adoption of a look-up."""

    def __init__(self, machine: "Machine", memory: Memory, ringing: Ringing) -> None:
        self._machine, self._memory, self._ringing = machine, memory, ringing
        self._owner, self._phase = "", ""
        self._recorded: str | None = None

    def before_settle(self, settlement: Settlement) -> None:
        """Record the owner of the pair and the trigger's stored result."""
        redis, keys = self._machine.redis, self._machine.keys
        found = cast("list[str | None]", redis.hmget(keys.ledger(settlement.pair), ["token", "phase"]))
        self._owner, self._phase = (value or "" for value in found)
        self._recorded = cast("str | None", redis.get(keys.task(settlement.task_id)))

    def after_settle(self, process: Process, reply: Settled | None, settlement: Settlement) -> None:
        """One owner stores an answer, and its calls are watched even if the pair has another owner meanwhile."""
        memory, counts = self._memory, self._machine.counts
        recorded = self._recorded is not None and _compared(json.loads(self._recorded)) == _compared(
            settlement.result.data
        )
        if self._owner != settlement.token and not settlement.jobs:
            assert reply is None or recorded, f"{process} settled {settlement.pair}, which is another's"
            counts["not settled"] += 1
        if reply is None:
            return
        if recorded and settlement.phase != "unknown":
            assert not reply.watched, f"{process} has settled twice, and watches {reply.watched} once more"
            return
        statuses = self._ringing.statuses(process)
        for job_id in (job_id for job_id in reply.watched if job_id in memory.calls):
            assert statuses.get(job_id) not in TERMINAL, f"{job_id} is watched again, though it was {statuses[job_id]}"
            memory.watched_again(job_id)
        for job in settlement.jobs:
            memory.look_at(job.job_id, step="settle")
            memory.calls[job.job_id].answers.add(settlement.pair)
        if request := memory.sent.get(process):
            request.outcome, request.look_up = settlement.result["outcome"], settlement.look_up
            open_one = self._machine.store.open_look_up(settlement.pair)
            own = open_one is not None and open_one.token == settlement.token
            if own and self._phase != "unknown":  # otherwise the window began before the answer arrived
                request.settled_at = self._machine.now

    def after_adopt(
        self, _process: Process, reply: Settled | None, pair: Pair, look_up: LookUp, jobs: list[NewJob], **_: object
    ) -> None:
        """An adopted call is watched once and holds each pair that may have made it (S14)."""
        memory, now = self._memory, self._machine.now
        if reply is None:
            return
        for job_id in reply.watched:
            assert job_id not in memory.calls, f"{job_id} adopted twice"
            memory.look_at(job_id, step="adopt")
            created = int(job_id.partition("-")[0]) / 1000
            asked = memory.sent_at[pair]
            assert created > asked - 60, f"{job_id} adopted for a request of {asked}"
            self._machine.counts["adopted"] += 1
            for holder in {request.pair for request in memory.requests.values()}:
                if memory.calls[job_id].holds(holder):
                    memory.adopted[holder].append(now)
        for job_id in (job.job_id for job in jobs if job.job_id in memory.calls and job.job_id not in reply.watched):
            held = memory.calls[job_id].holds(pair)
            memory.look_at(job_id, step="adopt")
            if memory.calls[job_id].holds(pair) and not held:  # found before, for another pair
                self._machine.counts["shared"] += 1
                if float(memory.calls[job_id].record["watched_at"]) >= memory.sent_at[pair] - ROUNDING:
                    memory.adopted[pair].append(now)
        if self._machine.store.open_look_up(pair) == look_up:
            unknown = [job.job_id for job in jobs if job.job_id not in memory.calls]
            assert not unknown, f"{unknown} found for {pair} and not watched"

    def on_release(self, pair: Pair) -> None:
        """Record that a person has released an unknown outcome."""
        self._memory.note_release(pair)
        for request in self._memory.requests.values():
            request.released |= request.pair == pair


def _compared(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result without its reason if the outcome is unknown: the reason of a lost answer is found later."""
    return {name: value for name, value in result.items() if result["outcome"] != "unknown" or name != "reason"}

"""Remember every request and every call of a run for the rules, also those that callwatch has forgotten."""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from tests.faults.processes import Process
from worker.core.model import Pair
from worker.store.keys import member

if TYPE_CHECKING:
    from tests.faults.simulation import Machine

INTERVAL, AGAIN = 10, 2  # an unfinished poll is dispatched again after its lease
FAILURES = 10
SENDING, LOOK_UP, HOLD = 20 + 3 + 15, 40, 90  # of the machine's settings
DIAL = 30  # seconds for all attempts of one dial (S18)
REPUBLISHED = 5  # most republications of a claim (S18)
DAY = 86_400  # seconds for which a failure is remembered (S5) and finished calls are kept (S36)
TERMINAL = ("Succeeded", "Failed", "Cancelled")
ROUNDING = 0.002  # seconds: the store's times have three digits


@dataclass
class Request:
    """One request for calls that upstream has received; times in epoch seconds."""

    pair: Pair
    task_id: str
    at: float
    outcome: str = ""
    settled_at: float = 0
    look_up: bool = False
    released: bool = False
    done_at: float = math.inf
    """Time of its pair's release."""
    bad_end: float = math.inf
    """Time at which its outcome became unknown; it is remembered for a day (S5)."""


@dataclass
class Known:
    """One call that has, or had, a record."""

    record: dict[str, str]
    begun: list[tuple[float, float]] = field(default_factory=list)
    """Time at which each of its polls passed the fence, and the due time of each."""
    reopened: int = 0
    answers: set[Pair] = field(default_factory=set)
    """The pairs of the answers that named it."""
    watches: int = 1
    """Number of records it has had: a forgotten call may be found again."""
    asked: bool = False
    """It was queried in the current watch, or an outage prevented the queries."""

    def holds(self, pair: Pair) -> bool:
        """Tell whether the call belongs to a pair or also holds it."""
        return pair in self.answers or self.owned(pair) or member(pair) in self.record.get("shared_with", "").split()

    def owned(self, pair: Pair) -> bool:
        """Tell whether the record names the pair."""
        return (self.record["case_id"], self.record["mediation_id"]) == (pair.case_id, pair.mediation_id)

    @property
    def verdict(self) -> str:
        """The current verdict; empty while the call is watched."""
        return self.record.get("verdict", "")

    @property
    def finished_at(self) -> float:
        """Time of the verdict in epoch seconds; infinity while the call is watched."""
        return float(self.record.get("finished_at", "inf"))


class Memory:
    """Memory shared by all rules of a machine."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self.calls: dict[str, Known] = {}
        self.requests: dict[str, Request] = {}
        self.adopted: defaultdict[Pair, list[float]] = defaultdict(list)
        self.claimed_at: dict[Process, float] = {}
        self.sent_at: dict[Pair, float] = {}
        self.sent: dict[Process, Request] = {}

    @property
    def watched(self) -> list[str]:
        """The calls without a verdict."""
        return [job_id for job_id, call in self.calls.items() if not call.verdict]

    def note_release(self, pair: Pair) -> None:
        """Record whether a script has released a pair."""
        keys, redis = self._machine.keys, self._machine.redis
        phase, done_at = cast("list[str | None]", redis.hmget(keys.ledger(pair), ["phase", "done_at"]))
        if phase != "done" or not done_at:
            return
        for request in self.requests.values():
            if request.pair == pair and request.at <= float(done_at):
                request.done_at = min(request.done_at, float(done_at))

    def unknown_requests(self, pair: Pair) -> list[Request]:
        """Return the requests of a pair with an unknown outcome, in whole or for some persons."""
        return [
            request
            for request in self.requests.values()
            if request.pair == pair and (request.outcome in ("", "unknown") or request.look_up)
        ]

    def over(self, request: Request, now: float) -> bool:
        """Tell whether the pair of an earlier request may be called again (its watched calls are judged elsewhere)."""
        if request.released or request.outcome in ("refused", "failed"):
            return True
        if request.outcome == "started" and not request.look_up:
            return True
        unknown_since = request.settled_at or request.at + SENDING
        found = any(at >= unknown_since - ROUNDING for at in self.adopted[request.pair])
        return now >= unknown_since + LOOK_UP + (0 if found else HOLD) - ROUNDING

    def look_at(self, job_id: str, *, step: str) -> None:
        """Compare a record with its state before a script."""
        machine = self._machine
        record = cast("dict[str, str]", machine.redis.hgetall(machine.keys.job(job_id)))
        call = self.calls.get(job_id)
        if call is None:
            assert record, f"{job_id} has no record"
            self.calls[job_id] = Known(record)
            return
        if not record:
            assert machine.now >= call.finished_at + DAY - ROUNDING, f"{job_id} has no record any more"
            return
        before, call.record = call.record, record
        moved = int(record["poll_no"]) - int(before["poll_no"])
        reopened = step == "settle" and "verdict" in before and "verdict" not in record
        assert moved == (1 if step == "begin_polls" or reopened else 0), f"{step} moved {job_id} on by {moved}"
        if "verdict" in before and not reopened:
            assert record["verdict"] == before["verdict"], f"{job_id}: {before['verdict']} became {record['verdict']}"
        assert not (reopened and before["verdict"] == "ended"), f"{job_id} is watched after its end"
        if before["call_status"] in TERMINAL:
            assert record["call_status"] == before["call_status"], f"{job_id} is watched after its verdict"
        if record.get("verdict") == "ended":
            now = machine.reality.jobs[job_id].status(machine.now)
            assert record["call_status"] == now, f"{job_id} is {now}"

    def watched_again(self, job_id: str) -> None:
        """Record that the watch of a call was reopened; a forgotten record begins anew (S5, S27)."""
        call, machine = self.calls[job_id], self._machine
        assert call.verdict, f"{job_id} is watched twice"
        assert call.verdict != "ended", f"{job_id} has ended and is watched again"
        call.reopened, call.asked, call.begun = call.reopened + 1, False, []
        record = cast("dict[str, str]", machine.redis.hgetall(machine.keys.job(job_id)))
        if record["watched_at"] != call.record["watched_at"]:
            assert machine.now >= call.finished_at + DAY - ROUNDING, f"{job_id} has a new record already"
            call.record, call.watches = record, call.watches + 1
            machine.counts["forgotten and found"] += 1
        machine.counts["watched again"] += 1

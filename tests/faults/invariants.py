"""What must hold whatever goes wrong, checked at every effect; the figures are those of docs/rules.md."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from tests.faults.processes import Process
from worker.decision import Finish, Next, Poll
from worker.values import (
    Begun,
    Change,
    Claimed,
    Dropped,
    LookUp,
    NewJob,
    Pair,
    PollEnd,
    Settled,
    Settlement,
    Taken,
)

if TYPE_CHECKING:
    from tests.faults.simulation import Machine

INTERVAL, AGAIN = 10, 2  # a poll that is begun and not ended comes again after its lease
FAILURES = 10
SENDING, LOOK_UP, HOLD, SLACK = 20 + 3 + 15, 40, 90, 60  # of the machine's settings
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


@dataclass
class Known:
    """What the invariants remember of one call that has a record."""

    record: dict[str, str]
    begun: list[tuple[float, float]] = field(default_factory=list)
    """When each of its polls passed the fence, and the due time of each."""
    reopened: int = 0
    answers: set[Pair] = field(default_factory=set)
    """The pairs of the answers that named it."""

    def holds(self, pair: Pair) -> bool:
        """Tell whether the call belongs to a pair, or holds it as well."""
        return (
            pair in self.answers
            or self.owned(pair)
            or f"{pair.case_id}:{pair.mediation_id}" in self.record.get("also", "").split()
        )

    def owned(self, pair: Pair) -> bool:
        """Tell whether the record names the pair."""
        return (self.record["case_id"], self.record["mediation_id"]) == (pair.case_id, pair.mediation_id)

    @property
    def verdict(self) -> str:
        """The verdict that stands; empty while the call is watched."""
        return self.record.get("verdict", "")


class Invariants:
    """Follows a machine; every method raises AssertionError where a rule is broken."""

    def __init__(self, machine: "Machine") -> None:
        self.machine = machine
        self.calls: dict[str, Known] = {}
        self.requests: dict[str, Request] = {}
        self.adopted: defaultdict[Pair, list[float]] = defaultdict(list)
        self.tokens: set[str] = set()
        self._claimed_at: dict[Process, float] = {}
        self._sending_at: dict[Process, float] = {}
        self._sent_at: dict[Pair, float] = {}
        self._sent: dict[Process, Request] = {}
        self._polling: dict[tuple[Process, str], int] = {}
        self._asked: set[tuple[str, int]] = set()
        self._owner: str | None = None
        self._phase = ""
        self._recorded: str | None = None
        self._looks_since: dict[Process, float] = {}
        self._idle_since: dict[Pair, float] = {}

    def before(self, step: str, *args: Any) -> None:
        """Look at what a step of the store will find: whose pair it is, and the trigger's recorded result."""
        if step in ("begin_sending", "settle"):
            pair: Pair = args[0].pair if step == "settle" else args[0]
            ledger = cast("dict[str, str]", self.machine.redis.hgetall(self.machine.keys.ledger(pair)))
            self._owner, self._phase = ledger.get("token"), ledger.get("phase", "")
        if step == "settle":
            self._recorded = cast("str | None", self.machine.redis.get(self.machine.keys.task(args[0].task_id)))

    def after(self, step: str, process: Process, args: tuple[Any, ...], kwargs: dict[str, Any], reply: Any) -> None:
        """Look at what a step of the store has done."""
        check = getattr(self, f"_after_{step}", None)
        if check is not None:
            check(process, reply, *args, **kwargs)

    # -- ringing twice -------------------------------------------------------------------------------------------------

    def _after_claim(self, process: Process, reply: object, *_: object, **__: object) -> None:
        if isinstance(reply, Claimed) and process not in self._claimed_at:  # a look that goes on claims once more
            self._claimed_at[process] = self.machine.now
            if reply.look_since is not None:
                self._looks_since[process] = reply.look_since

    def _after_begin_sending(self, process: Process, reply: object, pair: Pair, token: str, **_: object) -> None:
        if self._owner != token:
            assert reply == "taken", f"{process} may call {pair}, which is another's"
            self.machine.counts["taken"] += 1
        if not isinstance(reply, float):
            return
        self._sending_at[process] = self._sent_at[pair] = self.machine.now
        watched = [job for job, call in self.calls.items() if call.holds(pair) and not call.verdict]
        assert not watched, f"{process} may call {pair} while {watched} are watched"
        assert not self.machine.store.paused(), f"{process} may call {pair} while new calls are stopped"

    def on_request(self, process: Process, pair: Pair) -> None:
        """Judge a request for calls at the moment at which upstream receives it (S4, S5, S14, S17)."""
        at = self._sending_at[process]
        assert process.task_id not in self.requests, f"a second request of {process.task_id}"
        for earlier in self.requests.values():
            assert earlier.pair != pair or self._over(earlier, at), f"{pair} called again: {earlier} is not over"
        for job_id, call in self.calls.items():
            bad = call.holds(pair) and call.verdict in ("lost", "expired")
            told = bad and float(call.record["finished_at"]) < self._claimed_at[process]
            under_way = told and self.machine.reality.jobs[job_id].active(self.machine.now)
            assert not under_way, f"{pair} called again: {job_id} was {call.verdict} and is still under way"
            made = self.machine.reality.jobs[job_id]
            known = float(call.record["watched_at"]) < self._claimed_at[process]
            looked = made.created >= self._looks_since.get(process, math.inf) - ROUNDING
            own = made.pair == pair and known and looked and made.active(self.machine.now)
            assert not own, f"{pair} called again: {job_id} is its own, whoever holds it, and under way"
        self.requests[process.task_id] = self._sent[process] = Request(pair, process.task_id, at)
        self.machine.counts["requests"] += 1

    def _over(self, request: Request, now: float) -> bool:
        """Tell whether the pair of an earlier request may be called again (its watched calls are judged elsewhere)."""
        if request.released or request.outcome in ("refused", "failed"):
            return True
        if request.outcome == "started" and not request.look_up:
            return True
        unknown_since = request.settled_at or request.at + SENDING
        found = any(at >= unknown_since - ROUNDING for at in self.adopted[request.pair])
        return now >= unknown_since + LOOK_UP + (0 if found else HOLD) - ROUNDING

    def _after_settle(self, process: Process, reply: Settled | None, settlement: Settlement) -> None:
        recorded = self._recorded is not None and json.loads(self._recorded) == settlement.result.data
        if self._owner != settlement.token and not settlement.jobs:
            assert reply is None or recorded, f"{process} settled {settlement.pair}, which is another's"
            self.machine.counts["not settled"] += 1
        if reply is None:
            return
        if recorded and settlement.phase != "unknown":  # sent twice: the polls of the first time, if nobody began them
            assert all(poll.poll_no == 1 for poll in reply.polls.values())
            assert not any(self.calls[job_id].begun for job_id in reply.polls)
            return
        for job_id, poll in reply.polls.items():
            if job_id in self.calls:
                self.calls[job_id].reopened += 1
                assert poll.poll_no == int(self.calls[job_id].record["poll_no"]) + 1
                self.machine.counts["watched again"] += 1
        for job in settlement.jobs:
            self._look_at(job.job_id, step="settle")
            self.calls[job.job_id].answers.add(settlement.pair)
        if request := self._sent.get(process):
            request.outcome, request.look_up = settlement.result["outcome"], settlement.look_up
            open_one = self.machine.store.open_look_up(settlement.pair)
            own = open_one is not None and open_one.token == settlement.token
            if own and self._phase != "unknown":  # else the window has begun before the answer came
                request.settled_at = self.machine.now

    def on_release(self, pair: Pair) -> None:
        """A person has let an unknown outcome go."""
        for request in self.requests.values():
            request.released |= request.pair == pair

    def _after_adopt(
        self, _process: Process, reply: Settled | None, pair: Pair, look_up: LookUp, jobs: list[NewJob], **_: object
    ) -> None:
        if reply is None:
            return
        for job_id in reply.polls:
            assert job_id not in self.calls, f"{job_id} adopted twice"
            self._look_at(job_id, step="adopt")
            created = int(job_id.partition("-")[0]) / 1000
            asked = self._sent_at[pair]
            assert created > asked - 60, f"{job_id} adopted for a request of {asked}"
            self.machine.counts["adopted"] += 1
            for holder in {request.pair for request in self.requests.values()}:
                if self.calls[job_id].holds(holder):
                    self.adopted[holder].append(self.machine.now)
        for job_id in (job.job_id for job in jobs if job.job_id in self.calls and job.job_id not in reply.polls):
            held = self.calls[job_id].holds(pair)
            self._look_at(job_id, step="adopt")
            if self.calls[job_id].holds(pair) and not held:  # found before, for another pair
                self.machine.counts["shared"] += 1
                if float(self.calls[job_id].record["watched_at"]) >= self._sent_at[pair] - ROUNDING:
                    self.adopted[pair].append(self.machine.now)
        if self.machine.store.open_look_up(pair) == look_up:
            unknown = [job.job_id for job in jobs if job.job_id not in self.calls]
            assert not unknown, f"{unknown} found for {pair} and not watched"

    # -- one chain a call ----------------------------------------------------------------------------------------------

    def _after_begin_polls(
        self, process: Process, reply: list[Begun | Dropped], polls: Sequence[tuple[str, int]]
    ) -> None:
        for (job_id, poll_no), start in zip(polls, reply, strict=True):
            if isinstance(start, Begun):
                self._begun(process, job_id, poll_no, start)

    def _begun(self, process: Process, job_id: str, poll_no: int, start: Begun) -> None:
        call, now, due = self.calls[job_id], self.machine.now, start.poll.due
        assert poll_no == int(call.record["poll_no"]), f"{process} passed the fence of {job_id} with {poll_no}"
        assert now >= due - ROUNDING, f"{process} began early"
        # The last one asks nobody.
        last = due >= float(call.record["deadline"]) - ROUNDING
        if call.begun and not last:
            before, last_due = call.begun[-1]
            if abs(due - last_due) < ROUNDING:
                assert now - before >= AGAIN - ROUNDING, f"{process} was begun {now - before} s after its like"
                self.machine.counts["begun again"] += 1
            elif not call.reopened:
                assert due - last_due >= INTERVAL - ROUNDING, f"{job_id} is due at {last_due} and {due}"
        call.begun.append((now, due))
        self._polling[process, job_id] = poll_no
        self._look_at(job_id, step="begin_polls")

    def on_query(self, process: Process, job_id: str) -> None:
        """Judge a query of a poll at the moment at which upstream receives it (S28)."""
        asked = (job_id, self._polling[process, job_id])
        assert asked not in self._asked, f"{job_id} asked for twice as poll {asked[1]}"
        self._asked.add(asked)
        self.machine.counts["queries"] += 1

    def _after_take_due(self, _process: Process, reply: Taken, **_: object) -> None:
        self.machine.counts["reissued"] += reply.reissued
        for message in reply.polls:
            number = int(self.calls[message.job_id].record["poll_no"])
            assert message.poll_no == number, f"{message} taken with a number other than {number}"
            self._look_at(message.job_id, step="take_due")

    def _after_write_polls(self, process: Process, reply: list[Change | Exception | None], ends: list[PollEnd]) -> None:
        for change, end in zip(reply, ends, strict=True):
            assert not isinstance(change, Exception), f"{end} cannot be written"
            if isinstance(end.follows, Next):
                self._continued(process, change, end.job_id, end.follows.poll)
            else:
                self._finished(process, change, end.job_id, end.poll_no, end.follows)

    def _continued(self, process: Process, reply: Change | None, job_id: str, poll: Poll) -> None:
        number = int(self.calls[job_id].record["poll_no"])
        if reply is not None:
            assert poll.poll_no == number, f"{process} wrote {job_id} under {poll.poll_no}, it is at {number}"
            assert poll.retry_count < FAILURES, f"{job_id} watched on after {poll.retry_count} failures"
        else:
            self.machine.counts["fenced at the end"] += 1
        self._look_at(job_id, step="write_polls")

    def _finished(self, process: Process, reply: Change | None, job_id: str, poll_no: int, end: Finish) -> None:
        call, verdict = self.calls[job_id], end.verdict
        number, stood = int(call.record["poll_no"]), call.verdict
        self._look_at(job_id, step="write_polls")
        if reply is None:
            self.machine.counts["fenced at the end"] += 1
            assert verdict != "ended" or stood, f"{process} brought news of {job_id} that nobody took"
            return
        assert not stood, f"{process} put {verdict} over {stood} of {job_id}"
        assert verdict != "lost" or poll_no == number, f"{process} gave {job_id} up, which is at {number}"
        assert verdict != "lost" or end.retry_count == FAILURES
        assert verdict != "expired" or self.machine.now >= float(call.record["deadline"]) - ROUNDING
        self.machine.counts[verdict] += 1
        for pair, request in {request.pair: request for request in self.requests.values()}.items():
            if call.holds(pair) and not self._over(request, self.machine.now):
                assert self.machine.redis.exists(self.machine.keys.lock(pair)), (
                    f"{pair} let go before {request} is over"
                )

    def _look_at(self, job_id: str, *, step: str) -> None:
        """Compare a record with what it was before a step."""
        record = cast("dict[str, str]", self.machine.redis.hgetall(self.machine.keys.job(job_id)))
        assert record, f"{job_id} has no record"
        if job_id not in self.calls:
            self.calls[job_id] = Known(record)
            return
        call = self.calls[job_id]
        before, call.record = call.record, record
        moved = int(record["poll_no"]) - int(before["poll_no"])
        reopened = step == "settle" and "verdict" in before and "verdict" not in record
        assert moved == (1 if step == "begin_polls" or reopened else 0), f"{step} moved {job_id} on by {moved}"
        if "verdict" in before and not reopened:
            assert record["verdict"] == before["verdict"], f"{job_id}: {before['verdict']} became {record['verdict']}"
        assert not (reopened and before["verdict"] == "ended"), f"{job_id} is watched after its end"
        if before["call_status"] in TERMINAL:
            assert record["call_status"] == before["call_status"], f"{job_id} came back to life"
        if record.get("verdict") == "ended":
            now = self.machine.reality.jobs[job_id].status(self.machine.now)
            assert record["call_status"] == now, f"{job_id} is {now}"

    # -- when nothing goes wrong any more ------------------------------------------------------------------------------

    def on_calm(self) -> None:
        """Watch the locks go: none outlives what it stands for by more than the look-up and the hold (S5, S14)."""
        pairs = {request.pair for request in self.requests.values()}
        for pair in pairs:
            busy = any(call.holds(pair) and not call.verdict for call in self.calls.values())
            if busy or not self.machine.redis.exists(self.machine.keys.lock(pair)):
                self._idle_since.pop(pair, None)
                continue
            idle = self.machine.now - self._idle_since.setdefault(pair, self.machine.now)
            assert idle <= SENDING + LOOK_UP + HOLD + SLACK, f"{pair} is locked for {idle} s without a call"

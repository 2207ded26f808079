"""Rules of a watch: one chain of polls per call, one verdict, and no lost call (S20, S24, S25, S27, S28)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.faults.memory import AGAIN, FAILURES, INTERVAL, ROUNDING, Memory
from tests.faults.processes import Process
from worker.core.decision import Finish, Next, Poll
from worker.core.poll_model import DuePolls, OutageChange, PollDropped, PollEnd, PollStarted

if TYPE_CHECKING:
    from tests.faults.simulation import Machine


class Watching:
    """Judge the polls of each call."""

    def __init__(self, machine: "Machine", memory: Memory) -> None:
        self._machine, self._memory = machine, memory
        self._polling: dict[tuple[Process, str], int] = {}
        self._asked: set[tuple[str, int, int]] = set()

    def after_take_due(self, _process: Process, reply: DuePolls, **_: object) -> None:
        """A poll is dispatched with the number that its record expects (S28)."""
        self._machine.counts["reissued"] += reply.reissued
        for message in reply.polls:
            number = int(self._memory.calls[message.job_id].record["poll_no"])
            assert message.poll_no == number, f"{message} taken with a number other than {number}"
            self._memory.look_at(message.job_id, step="take_due")

    def after_begin_polls(
        self, process: Process, reply: list[PollStarted | PollDropped], polls: Sequence[tuple[str, int]]
    ) -> None:
        """Of all deliveries of a poll only one passes the fence, and on time (S20, S28)."""
        for (job_id, poll_no), start in zip(polls, reply, strict=True):
            if isinstance(start, PollStarted):
                self._begun(process, job_id, poll_no, start)
            elif start.why == "absent":
                assert self._memory.calls[job_id].verdict, f"{job_id} is watched and has no record"

    def _begun(self, process: Process, job_id: str, poll_no: int, start: PollStarted) -> None:
        call, now, due = self._memory.calls[job_id], self._machine.now, start.poll.due
        assert poll_no == int(call.record["poll_no"]), f"{process} passed the fence of {job_id} with {poll_no}"
        assert now >= due - ROUNDING, f"{process} began early"
        # The last one sends no query.
        last = due >= float(call.record["deadline"]) - ROUNDING
        if call.begun and not last:
            before, last_due = call.begun[-1]
            if abs(due - last_due) < ROUNDING:
                assert now - before >= AGAIN - ROUNDING, f"{process} began {now - before} s after the previous poll"
                self._machine.counts["begun again"] += 1
            elif not call.reopened:
                assert due - last_due >= INTERVAL - ROUNDING, f"{job_id} is due at {last_due} and {due}"
        call.begun.append((now, due))
        self._polling[process, job_id] = poll_no
        self._memory.look_at(job_id, step="begin_polls")

    def on_query(self, process: Process, job_id: str) -> None:
        """Judge a poll's query at the moment when upstream receives it (S28)."""
        asked = (job_id, self._memory.calls[job_id].watches, self._polling[process, job_id])
        assert asked not in self._asked, f"{job_id} queried twice as poll {asked[-1]}"
        self._asked.add(asked)
        self._memory.calls[job_id].asked = True
        self._machine.counts["queries"] += 1

    def after_write_polls(
        self, process: Process, reply: list[OutageChange | Exception | None], ends: list[PollEnd]
    ) -> None:
        """A poll writes only under the number that it moved the record to (S28)."""
        for change, end in zip(reply, ends, strict=True):
            assert not isinstance(change, Exception), f"{end} cannot be written"
            if isinstance(end.follows, Next):
                self._continued(process, change, end.job_id, end.follows.poll)
            else:
                self._finished(process, change, end.job_id, end.poll_no, end.follows)

    def _continued(self, process: Process, reply: OutageChange | None, job_id: str, poll: Poll) -> None:
        number = int(self._memory.calls[job_id].record["poll_no"])
        if reply is not None:
            assert poll.poll_no == number, f"{process} wrote {job_id} under {poll.poll_no}, it is at {number}"
            assert poll.retry_count < FAILURES, f"{job_id} watched on after {poll.retry_count} failures"
        else:
            self._machine.counts["fenced at the end"] += 1
        self._memory.look_at(job_id, step="write_polls")

    def _finished(self, process: Process, reply: OutageChange | None, job_id: str, poll_no: int, end: Finish) -> None:
        """Each call gets one verdict with its own reason, and its pairs are free only when their requests are over."""
        memory, machine = self._memory, self._machine
        call, verdict = memory.calls[job_id], end.verdict
        number, stood, asked = int(call.record["poll_no"]), call.verdict, call.asked
        memory.look_at(job_id, step="write_polls")
        if reply is None:
            machine.counts["fenced at the end"] += 1
            assert verdict != "ended" or stood, f"{process} read a new status of {job_id} that was not stored"
            return
        assert not stood, f"{process} put {verdict} over {stood} of {job_id}"
        assert verdict != "lost" or poll_no == number, f"{process} gave {job_id} up, which is at {number}"
        assert verdict != "lost" or end.retry_count == FAILURES
        assert verdict != "expired" or machine.now >= float(call.record["deadline"]) - ROUNDING
        assert verdict != "expired" or asked, f"{job_id} expired without one query"
        machine.counts[verdict] += 1
        for pair, request in {request.pair: request for request in memory.requests.values()}.items():
            if call.holds(pair) and not memory.over(request, machine.now):
                assert machine.redis.exists(machine.keys.lock(pair)), f"{pair} released before {request} is over"

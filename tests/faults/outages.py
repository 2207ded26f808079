"""Rules of an outage: one event of at least five calls; with fewer, each call counts its failures (S24, S29)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.faults.memory import Memory
from tests.faults.processes import Process
from worker.core.decision import OUTAGE_CALLS
from worker.core.poll_model import OutageChange, PollDropped, PollEnd, PollStarted

if TYPE_CHECKING:
    from tests.faults.simulation import Machine


class Outages:
    """Judge which failures are not counted."""

    def __init__(self, machine: "Machine", memory: Memory) -> None:
        self._machine, self._memory = machine, memory
        self._on = False

    def after_begin_polls(
        self, _process: Process, reply: list[PollStarted | PollDropped], polls: Sequence[tuple[str, int]]
    ) -> None:
        """No poll begins within an outage while fewer than five calls are watched."""
        for (job_id, _), start in zip(polls, reply, strict=True):
            if not isinstance(start, PollStarted) or not start.outage:
                continue
            self._memory.calls[job_id].asked = True  # an outage may delay it until its end
            self._machine.counts["within an outage"] += 1
            watched = len(self._memory.watched)
            assert watched >= OUTAGE_CALLS, f"{job_id} is polled within an outage of {watched} calls"

    def after_write_polls(
        self, _process: Process, reply: list[OutageChange | Exception | None], _ends: list[PollEnd]
    ) -> None:
        """An outage begins once and ends once."""
        for change in reply:
            if change in ("outage_began", "outage_ended"):
                assert self._on != (change == "outage_began"), f"{change}, twice"
                self._on = not self._on
                self._machine.counts[str(change)] += 1

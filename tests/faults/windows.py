"""Rules of a look-up's window: it closes only after upstream answered, and its pair is not free earlier (S14)."""

from collections import defaultdict
from typing import TYPE_CHECKING, cast

from tests.faults.endpoints import Endpoint
from tests.faults.memory import DAY, HOLD, LOOK_UP, ROUNDING, SENDING, Memory
from tests.faults.processes import Process
from worker.core.decision import Finish
from worker.core.model import Pair
from worker.core.poll_model import PollEnd
from worker.core.trigger_model import Settlement

if TYPE_CHECKING:
    from tests.faults.simulation import Machine

SLACK = 200  # seconds by which a lock may outlast its purpose, including all waits between two tries


class Windows:
    """Judge when the look-up for an unknown outcome is complete."""

    def __init__(self, machine: "Machine", memory: Memory) -> None:
        self._machine, self._memory = machine, memory
        self._answered: defaultdict[Pair, list[float]] = defaultdict(list)
        self._queried: defaultdict[Process, set[Endpoint]] = defaultdict(set)
        self._idle_since: dict[Pair, float] = {}
        self._before: tuple[str, bool, float] = ("", False, 0)

    def before_attend(self, pair: Pair, **_: object) -> None:
        """Record the pair's window."""
        self._before = self._state(pair)

    def after_attend(self, _process: Process, _reply: object, pair: Pair, **_: object) -> None:
        """Judge a closing window, and record an outcome that becomes unknown."""
        (was, was_open, since), (phase, is_open) = self._before, self._state(pair)[:2]
        now = self._machine.now
        self._memory.note_release(pair)
        if was == "sending" and phase == "unknown":
            self._ended_badly(pair, now)
        if not was_open or is_open:
            return
        answers = [at for at in self._answered[pair] if at >= since - ROUNDING]
        if not answers:
            assert now >= since + DAY - ROUNDING, f"{pair}: the window closed after {now - since} s without an answer"
            self._machine.counts["never answered"] += 1
            self._ended_badly(pair, now)
            return
        begins = since if answers[0] <= since + LOOK_UP else answers[0]
        assert now >= min(begins + LOOK_UP, since + DAY) - ROUNDING, f"{pair}: the window closed too early"
        for request in self._memory.unknown_requests(pair):
            request.bad_end = min(request.bad_end, now)

    def after_postpone(self, process: Process, *_: object, **__: object) -> None:
        """A sweep postpones a pair only where the store has failed."""
        assert process.disturbed, f"{process} could not attend to a pair"

    def after_settle(self, process: Process, _reply: object, settlement: Settlement) -> None:
        """Record an unknown outcome."""
        self._memory.note_release(settlement.pair)
        request = self._memory.sent.get(process)
        if request is not None and request.outcome == "unknown":
            request.bad_end = min(request.bad_end, self._machine.now)

    def after_write_polls(self, _process: Process, _reply: object, ends: list[PollEnd]) -> None:
        """Record the pairs that a verdict has released."""
        if any(isinstance(end.follows, Finish) for end in ends):
            for pair in {request.pair for request in self._memory.requests.values()}:
                self._memory.note_release(pair)

    def on_answer(self, process: Process, endpoint: Endpoint) -> None:
        """Record an answer to a look-up."""
        if process.kind == "lookup":
            self._queried[process].add(endpoint)

    def after_adopt(self, process: Process, reply: object, pair: Pair, *_: object, **__: object) -> None:
        """A look-up is answered if the log was read and the status was answered (S5)."""
        if reply is not None and self._queried[process] == {"log", "status by case"}:
            self._answered[pair].append(self._machine.now)

    def on_calm(self) -> None:
        """No lock outlives its purpose by more than the look-up and the hold (S5, S14)."""
        memory, machine = self._memory, self._machine
        for pair in {request.pair for request in memory.requests.values()}:
            busy = any(memory.calls[job_id].holds(pair) for job_id in memory.watched)
            if busy or not machine.redis.exists(machine.keys.lock(pair)):
                self._idle_since.pop(pair, None)
                continue
            idle = machine.now - self._idle_since.setdefault(pair, machine.now)
            assert idle <= SENDING + LOOK_UP + HOLD + SLACK, f"{pair} is locked for {idle} s without a call"

    def _ended_badly(self, pair: Pair, now: float) -> None:
        """Remember the pair's unknown outcomes for another day, except those that were forgotten before (S5)."""
        for request in self._memory.unknown_requests(pair):
            if now - request.bad_end <= DAY:
                request.bad_end = now

    def _state(self, pair: Pair) -> tuple[str, bool, float]:
        """Return the pair's phase, whether its look-up is open, and its start."""
        names = ["phase", "lookup", "held_until", "lookup_from"]
        found = cast("list[str | None]", self._machine.redis.hmget(self._machine.keys.ledger(pair), names))
        phase, look_up, held_until, since = found
        return phase or "", bool(look_up and not held_until), float(since or 0)

"""Rules of a claim: one sender each, which keeps it while it is at work, and an end (S17, S18)."""

from collections import Counter
from typing import TYPE_CHECKING, cast

from tests.faults.memory import DIAL, REPUBLISHED, ROUNDING, Memory
from tests.faults.processes import Process
from worker.core.model import AbandonedClaim, Claimed, Pair

if TYPE_CHECKING:
    from tests.faults.simulation import Machine


class Claims:
    """Judges the owner of a claim and its length."""

    def __init__(self, machine: "Machine", memory: Memory) -> None:
        self._machine, self._memory = machine, memory
        self._holders: dict[str, Process] = {}
        self._began: dict[Process, float] = {}
        self._republished: Counter[str] = Counter()
        self._token = self._phase = ""

    def before_claim(self, pair: Pair, **_: object) -> None:
        """Look at whose claim it is."""
        names = ["token", "phase"]
        found = self._machine.redis.hmget(self._machine.keys.ledger(pair), names)
        self._token, self._phase = (str(value or "") for value in cast("list[str | None]", found))

    before_attend = before_claim

    def after_claim(self, process: Process, reply: object, pair: Pair, *, token: str, **_: object) -> None:
        """A claim passes to another owner only when its sender is dead, or was stopped (S18)."""
        if not isinstance(reply, Claimed):
            return
        if self._phase == "claimed" and self._token != token:
            self._judge_taken(pair)
        self._holders[token] = process
        self._memory.claimed_at.setdefault(process, self._machine.now)  # it may be sent twice

    def after_attend(self, _process: Process, reply: object, pair: Pair, **_: object) -> None:
        """The same where a sweep replaces its token; and a claim is not published again for ever (S18)."""
        if not isinstance(reply, AbandonedClaim) or self._phase != "claimed":
            return
        self._judge_taken(pair)
        self._republished[reply.task_id] += 1
        times = self._republished[reply.task_id]
        assert times <= REPUBLISHED, f"{reply.task_id} published again {times} times without reaching `sending`"

    def after_begin_sending(self, process: Process, reply: object, *_: object, **__: object) -> None:
        """A trigger that has sent starts a new count."""
        if isinstance(reply, float):
            del self._republished[process.task_id]

    def on_connected(self, process: Process, began: float) -> None:
        """All attempts of one dial together are bounded, name resolution included (S18)."""
        took = self._machine.now - self._began.setdefault(process, began)
        assert process.disturbed or took <= DIAL + ROUNDING, f"{process} has been connecting for {took:.1f} s"

    def _judge_taken(self, pair: Pair) -> None:
        holder = self._holders.get(self._token)
        at_work = holder is not None and not holder.done and not holder.disturbed
        assert not at_work, f"the claim of {pair} was taken from {holder}, which is at work"

"""Rules of claims: one sender each, which keeps its claim while it works, and a bounded length (S17, S18)."""

from collections import Counter
from typing import TYPE_CHECKING, cast

from tests.faults.memory import DIAL, REPUBLISHED, ROUNDING, Memory
from tests.faults.processes import Process
from worker.core.model import Pair
from worker.core.trigger_model import AbandonedClaim, Claimed

if TYPE_CHECKING:
    from tests.faults.simulation import Machine


class Claims:
    """Judge the owner and the length of each claim."""

    def __init__(self, machine: "Machine", memory: Memory) -> None:
        self._machine, self._memory = machine, memory
        self._holders: dict[str, Process] = {}
        self._began: dict[Process, float] = {}
        self._republished: Counter[str] = Counter()
        self._token = self._phase = ""

    def before_claim(self, pair: Pair, **_: object) -> None:
        """Record the owner of the claim."""
        names = ["token", "phase"]
        found = self._machine.redis.hmget(self._machine.keys.ledger(pair), names)
        self._token, self._phase = (str(value or "") for value in cast("list[str | None]", found))

    before_attend = before_claim

    def after_claim(self, process: Process, reply: object, pair: Pair, *, token: str, **_: object) -> None:
        """A claim passes to another owner only if its sender is dead or was stopped (S18)."""
        if not isinstance(reply, Claimed):
            return
        if self._phase == "claimed" and self._token != token:
            self._judge_taken(pair)
        self._holders[token] = process
        self._memory.claimed_at.setdefault(process, self._machine.now)  # the client may resend it

    def after_attend(self, _process: Process, reply: object, pair: Pair, **_: object) -> None:
        """The same rule where a sweep replaces the token; and republications of a claim are bounded (S18)."""
        if not isinstance(reply, AbandonedClaim) or self._phase != "claimed":
            return
        self._judge_taken(pair)
        self._republished[reply.task_id] += 1
        times = self._republished[reply.task_id]
        assert times <= REPUBLISHED, f"{reply.task_id} published again {times} times without reaching `sending`"

    def after_begin_sending(self, process: Process, reply: object, *_: object, **__: object) -> None:
        """Reset the count of republications of a trigger that has sent."""
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

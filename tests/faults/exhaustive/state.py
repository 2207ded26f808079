"""The state of the search as one value: store, processes, messages, reality, and what may still go wrong."""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

from tests.fakes import job_id
from tests.faults.exhaustive.flows import SETTINGS, Message, Process
from tests.faults.exhaustive.snapshots import Snapshot
from worker.core.model import Pair
from worker.store import Keys

CASE = "C"
KEYS = Keys(SETTINGS.key_prefix)
FAULTS = ("crash", "stop", "lost", "expiry", "copy")


class Budget(NamedTuple):
    """How often each thing may still go wrong; `faults` bounds the next five together."""

    faults: int = 0
    crash: int = 0  # a process dies between two effects
    stop: int = 0  # a process stands still while time passes
    lost: int = 0  # a step was taken, and its reply is lost, or the client takes it once more
    expiry: int = 0  # the system stands still for days, and keys expire
    copy: int = 0  # a trigger is delivered once more
    silent: int = 0  # a look-up's question has no answer
    hidden: int = 0  # a look-up's question is answered as if no call were under way
    refused: int = 0  # a connection for a dial is refused
    bypass: int = 0  # a dial's request leaves without `sending` having been written
    unwatched: int = 0  # ten polls of a call fail in a row
    release: int = 0  # a person releases a pair whose outcome is unknown

    @functools.cache  # noqa: B019 - there are few budgets
    def without(self, kind: str) -> "Budget | None":
        """Return what is left after one more of a kind; None where it may not happen any more."""
        number = getattr(self, kind)
        if not number:
            return None
        if kind not in FAULTS:
            return self._replace(**{kind: number - 1})
        return self._replace(**{kind: number - 1, "faults": self.faults - 1}) if self.faults else None


class Scope(NamedTuple):
    """What a search explores.

    `triggers` may be delivered at any time, `days` are the hours for which everything may stand still, `rings` how many
    telephones a request may make ring, `endings` how it may end: it is answered, or its answer is lost. Calls are made
    `opens` seconds after the beginning at the earliest. `before` are triggers whose calls ring and whose answers were
    lost before the search begins.
    """

    triggers: tuple[str, ...]
    left: Budget
    days: tuple[int, ...] = (27,)
    rings: tuple[int, ...] = (0, 1)
    endings: tuple[str, ...] = ("answered", "lost")
    opens: float | None = None
    before: tuple[str, ...] = ()


class Call(NamedTuple):
    """One call as it is in reality; it is under way until a look or a poll has seen its end.

    `told` once its watch has ended with its end; `given_up` when its watch ended without, or when its pair was released
    before it was found (epoch seconds).
    """

    number: int
    pair: Pair
    task_id: str
    created: float
    ended: bool = False
    told: bool = False
    given_up: float | None = None

    @property
    def job_id(self) -> str:
        """The id that upstream has given it."""
        return job_id(self.number, at=self.created)

    @property
    def status(self) -> str:
        """How upstream says that it stands."""
        return "Succeeded" if self.ended else "Executing"


class Request(NamedTuple):
    """A request that a task has made; `forgotten` once its pair was done and days have passed (S17)."""

    task_id: str
    forgotten: bool = False


class State(NamedTuple):
    """All that is.

    `later` holds messages that may come at any time, `waiting` those whose back ends were told that they wait; `opens`
    is when calls may be made (epoch seconds).
    """

    store: Snapshot
    processes: tuple[Process, ...]
    stopped: Process | None
    queue: tuple[Message, ...]
    later: tuple[Message, ...]
    calls: tuple[Call, ...]
    requests: tuple[Request, ...]
    waiting: tuple[Message, ...]
    opens: float
    left: Budget

    @property
    def at_rest(self) -> bool:
        """Nothing happens any more by itself."""
        return not (self.processes or self.queue or self.later) and self.store.quiet

    def spend(self, kind: str) -> "State | None":
        """Return the state with one fault less to come; None where it may not happen any more."""
        left = self.left.without(kind)
        return None if left is None else self._replace(left=left)

    def with_process(self, process: Process) -> "State":
        """Return the state with one more process."""
        return self._replace(processes=in_order((*self.processes, process)))

    def without_process(self, process: Process) -> "State":
        """Return the state without a process."""
        stopped = None if self.stopped is process else self.stopped
        return self._replace(processes=without(self.processes, process), stopped=stopped)

    def with_message(self, message: Message, *, later: bool = False) -> "State":
        """Return the state with one more message; a second look-up would do nothing that the first does not."""
        if later:
            return self._replace(later=sorted_messages((*self.later, message)))
        if message.task == "lookup" and message in self.queue:
            return self
        return self._replace(queue=sorted_messages((*self.queue, message)))

    def with_call(self, call: Call) -> "State":
        """Return the state with a call as it is now."""
        return self._replace(calls=tuple(call if call.number == one.number else one for one in self.calls))


def message_of(trigger: str) -> Message:
    """Return the message of a trigger: `20:1:P` is the first one of mediation 20, for person P alone."""
    mediation_id, _, person = [*trigger.split(":"), ""][:3]
    return Message("trigger", Pair(CASE, mediation_id), trigger, person)


def in_order(processes: Iterable[Process]) -> tuple[Process, ...]:
    """Return processes in the one order in which a state holds them."""
    return tuple(sorted(processes, key=lambda process: process.number))


def sorted_messages(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Return messages in the one order in which a state holds them."""
    return tuple(sorted(messages, key=lambda message: (message.task, message.task_id, message.pair.mediation_id)))


def without(items: tuple[Any, ...], one: Any) -> tuple[Any, ...]:
    """Return a tuple without one of its items."""
    place = items.index(one)
    return items[:place] + items[place + 1 :]

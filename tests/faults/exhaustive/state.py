"""Represent the state of the search as one value: store, processes, messages, reality and the remaining faults."""

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
    """Number of remaining faults of each kind; `faults` bounds the next five kinds together."""

    faults: int = 0
    crash: int = 0  # a process dies between two effects
    stop: int = 0  # a process stands still while time passes
    lost: int = 0  # a script ran, and its reply is lost, or the client resends it
    expiry: int = 0  # the system stands still for days, and keys expire
    copy: int = 0  # a trigger is delivered a second time
    silent: int = 0  # a look-up's query has no answer
    hidden: int = 0  # a look-up's query is answered as if no call were running
    refused: int = 0  # a connection for a dial is refused
    bypass: int = 0  # a dial's request leaves without a written `sending`
    unwatched: int = 0  # ten polls of a call fail in a row
    release: int = 0  # a person releases a pair whose outcome is unknown

    @functools.cache  # noqa: B019 - there are few budgets
    def without(self, kind: str) -> "Budget | None":
        """Return the budget after one more fault of a kind; None if none is left."""
        number = getattr(self, kind)
        if not number:
            return None
        if kind not in FAULTS:
            return self._replace(**{kind: number - 1})
        return self._replace(**{kind: number - 1, "faults": self.faults - 1}) if self.faults else None


class Scope(NamedTuple):
    """Scope of a search.

    `triggers` may be delivered at any time, `days` are possible hours of standstill, `rings` possible numbers of
    telephones that a request rings, `endings` possible ends of a request: it is answered, or its answer is lost. Calls
    are made `opens` seconds after the beginning at the earliest. `before` are triggers whose calls ring and whose
    answers were lost before the search begins.
    """

    triggers: tuple[str, ...]
    left: Budget
    days: tuple[int, ...] = (27,)
    rings: tuple[int, ...] = (0, 1)
    endings: tuple[str, ...] = ("answered", "lost")
    opens: float | None = None
    before: tuple[str, ...] = ()


class Call(NamedTuple):
    """One real call; it is running until a look-up or a poll has seen its end.

    `published` is set once its watch has ended with its end; `given_up` (epoch seconds) is set when its watch ended
    otherwise, or when its pair was released before the call was found.
    """

    number: int
    pair: Pair
    task_id: str
    created: float
    ended: bool = False
    published: bool = False
    given_up: float | None = None

    @property
    def job_id(self) -> str:
        """The job id from upstream."""
        return job_id(self.number, at=self.created)

    @property
    def status(self) -> str:
        """The call's status at upstream."""
        return "Succeeded" if self.ended else "Executing"


class Request(NamedTuple):
    """A request of a task."""

    task_id: str


class State(NamedTuple):
    """The whole state.

    `later` holds messages that may arrive at any time, `waiting` those whose back ends got `deferred`; `opens` is the
    start of calling hours (epoch seconds).
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
        """Whether nothing more happens without an external event."""
        return not (self.processes or self.queue or self.later) and self.store.quiet

    def spend(self, kind: str) -> "State | None":
        """Return the state with one fault less to come; None if none is left."""
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
        """Return the state with one more message; a second look-up would repeat the first one."""
        if later:
            return self._replace(later=sorted_messages((*self.later, message)))
        if message.task == "lookup" and message in self.queue:
            return self
        return self._replace(queue=sorted_messages((*self.queue, message)))

    def with_call(self, call: Call) -> "State":
        """Return the state with the updated call."""
        return self._replace(calls=tuple(call if call.number == one.number else one for one in self.calls))


def message_of(trigger: str) -> Message:
    """Return the message of a trigger: `20:1:P` is the first one of mediation 20, for person P alone."""
    mediation_id, _, person = [*trigger.split(":"), ""][:3]
    return Message("trigger", Pair(CASE, mediation_id), trigger, person)


def in_order(processes: Iterable[Process]) -> tuple[Process, ...]:
    """Return processes in the canonical order of a state."""
    return tuple(sorted(processes, key=lambda process: process.number))


def sorted_messages(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Return messages in the canonical order of a state."""
    return tuple(sorted(messages, key=lambda message: (message.task, message.task_id, message.pair.mediation_id)))


def without(items: tuple[Any, ...], one: Any) -> tuple[Any, ...]:
    """Return a tuple without one of its items."""
    place = items.index(one)
    return items[:place] + items[place + 1 :]

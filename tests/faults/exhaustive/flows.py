"""Run the real flows effect by effect: a process is the list of the replies that it has received so far.

The next effect of a process is found by running its flow from the beginning. The interfaces return the earlier replies
and suspend the flow at the first effect without one. A process can therefore be stored, compared and continued in
several ways, like the content of the store, and a flow runs once for each list of replies.
"""

import dataclasses
import io
import json
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from api_client import CallRecord, CallRequest, CallStatus, ConversationLog, NotSent, OutcomeUnknown
from config.calling_hours import Window
from config.settings import Settings
from tests.fakes import START, record
from tests.faults.exhaustive.snapshots import moved
from worker.container import Container
from worker.core.interfaces import ScheduleFailed, StoreUnavailable
from worker.core.model import Pair
from worker.core.trigger_model import AbandonedClaim

GATE = 2  # seconds from writing `sending` to the first byte, beyond which a dial sends nothing (S18)
OPEN_FOR = 1e6  # seconds

# One look-up in its window: each further one repeats the same steps.
SETTINGS = Settings(key_prefix="t", call_timeout=20, unknown_lookup=10, unknown_hold=90)

AT_ONCE: dict[str, Any] = {"acquire_sweep_lock": True, "trim": None, "count": None, "reserve_query": 0}
"""Methods of the store that are outside the search, and their replies."""


class Message(NamedTuple):
    """A message for a task; `task` is trigger, lookup or sweep (without a message)."""

    task: str
    pair: Pair
    task_id: str = ""
    person: str = ""
    expires: float | None = None

    def __str__(self) -> str:
        return f"{self.task} {self.task_id or self.pair.mediation_id}"


class Raised(NamedTuple):
    """A reply that is an error."""

    error: type[Exception]


class Effect(NamedTuple):
    """The next effect of a process: `where` is `store`, `upstream` or `queue`."""

    where: str
    name: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()


class Reply(NamedTuple):
    """A reply to an effect, and the epoch second of its arrival if the flow has read its clock before the next one."""

    value: Any
    at: float | None


class Ended(NamedTuple):
    """A process has ended; `again` if its message must be redelivered."""

    outcome: str
    again: bool = False


class Suspended(BaseException):
    """The next effect has no reply yet; error handlers cannot catch this."""

    def __init__(self, effect: Effect) -> None:
        super().__init__(effect)
        self.effect = effect


class Process:
    """One execution of a task; equal histories share one object. `key` stands for the next effect."""

    def __init__(self, message: Message, token: str, past: tuple[Reply, ...], *, hours: bool) -> None:
        self.message, self.token, self.past = message, token, past
        self.number, self.key = 0, b""
        self.after: dict[Any, Process] = {}
        replay = Replay(past)
        self.next: Effect | Ended
        try:
            self.next = _carry_out(message, token, replay, hours=hours)
        except Suspended as suspended:
            self.next, self.key = suspended.effect, as_bytes(suspended.effect)
        except (ScheduleFailed, StoreUnavailable):
            self.next = Ended("given up", again=message.task == "trigger")
        self.read = frozenset(replay.read)

    def __str__(self) -> str:
        return f"{self.message} [{self.token}]"


class Replay:
    """The clock of one process and the replies to its effects."""

    def __init__(self, past: tuple[Reply, ...]) -> None:
        self._past = past
        self._position = 1
        self.read: set[int] = set()

    def effect(self, effect: Effect) -> Any:
        """Return the earlier reply to an effect; raise Suspended if there is none."""
        if self._position == len(self._past):
            raise Suspended(effect)
        reply = self._past[self._position].value
        self._position += 1
        if isinstance(reply, Raised):
            raise reply.error("injected")
        return reply

    def monotonic(self) -> float:
        """Return the time of the last reply: until its next effect a process takes no time."""
        self.read.add(self._position - 1)
        return self._past[self._position - 1].at or 0.0

    def sleep(self, seconds: float) -> None:
        """Return at once: the process may stand still at its next effect instead."""

    def window(self, now: float) -> Window:
        """Return the calling hours at this time."""
        opens = self.effect(Effect("upstream", "hours", (now,)))
        return Window(opens, opens + OPEN_FOR)


class StorePort:
    """The store; each method is an effect."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in AT_ONCE:
            return lambda *_, **__: AT_ONCE[name]
        return lambda *args, **kwargs: self._replay.effect(Effect("store", name, args, tuple(sorted(kwargs.items()))))


class UpstreamPort:
    """The upstream: connecting, sending and the answer are separate effects, and replies are plain values."""

    def __init__(self, replay: Replay, message: Message) -> None:
        self._replay, self._message = replay, message

    def dial(
        self, request: CallRequest, *, before_send: Callable[[], None], within: float | None = None
    ) -> list[CallRecord]:
        """Request calls in the order of the real client: connect, `sending`, the gate, the request, its answer."""
        if within is not None and within <= 0:
            raise NotSent("POST /call-v2: no time is left to connect")
        past_the_gate = self._replay.effect(Effect("upstream", "connect"))
        if not past_the_gate:
            before_send()
        opened = self._replay.monotonic()
        message = self._message._replace(pair=Pair(request.case_id, request.mediation_id))
        sent = self._replay.effect(Effect("upstream", "send", (message, opened + GATE)))
        if sent is None:
            raise NotSent("POST /call-v2: too late")
        answer = self._replay.effect(Effect("upstream", "answer", (sent, opened)))
        records = [record(job_id, code=code) for job_id, code in answer]
        if past_the_gate:
            raise OutcomeUnknown("POST /call-v2: answered although the gate was never asked", records=records)
        return records

    def status(self, *, case_ref: str, job_id: str | None = None) -> CallStatus:
        """Query the status of one call."""
        found, status = self._replay.effect(Effect("upstream", "status", (job_id,)))
        return CallStatus.model_validate({"jobId": found, "callStatus": status, "caseRef": case_ref})

    def conversations(self, *, case_id: str) -> list[ConversationLog]:  # noqa: ARG002 - there is one case
        """Query the conversation log of the case."""
        entries = self._replay.effect(Effect("upstream", "log"))
        return [ConversationLog.model_validate({"jobId": job, "callStatus": status}) for job, status in entries]


class Publisher:
    """The queues as the sweep uses them."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    def trigger(self, abandoned: AbandonedClaim) -> None:
        """Publish a trigger again, unchanged."""
        sent = json.loads(abandoned.arguments)
        pair = Pair(sent["case_id"], sent["mediation_id"])
        message = Message("trigger", pair, abandoned.task_id, sent["call_person_id"], abandoned.expires)
        self._replay.effect(Effect("queue", "publish", (message,)))

    def look_up(self, pair: Pair, *, expires: float) -> None:  # noqa: ARG002 - the world lets it expire
        """Publish a look-up."""
        self._replay.effect(Effect("queue", "publish", (Message("lookup", pair),)))


class Cast:
    """All processes seen so far; `hours` if calls are made within calling hours only."""

    def __init__(self, *, hours: bool) -> None:
        self._hours = hours
        self._known: dict[bytes, Process] = {}
        self._begun: dict[tuple[Message, str], Process] = {}

    def begin(self, message: Message, token: str) -> Process:
        """Return a process that has not begun."""
        process = self._begun.get((message, token))
        if process is None:
            process = self._begun[message, token] = self._get(message, token, (Reply(None, START),))
        return process

    def go_on(self, process: Process, reply: Any) -> Process:
        """Return the process after one more reply, received now."""
        key: Any = reply
        try:
            after = process.after.get(key)
        except TypeError:  # it holds a list
            after = process.after.get(key := as_bytes(reply))
        if after is None:
            after = self._get(process.message, process.token, (*process.past, Reply(reply, START)))
            process.after[key] = after
        return after

    def later(self, process: Process, seconds: int) -> Process:
        """Return the process after time has passed."""
        return self._get(moved(process.message, seconds), process.token, moved(process.past, seconds))

    def _get(self, message: Message, token: str, past: tuple[Reply, ...]) -> Process:
        process = self._known.get(key := as_bytes((message, token, past)))
        if process is None:
            process = Process(message, token, past, hours=self._hours)
            read = tuple(one if number in process.read else one._replace(at=None) for number, one in enumerate(past))
            if read != past:
                process = self._get(message, token, read)
            process.number = process.number or len(self._known) + 1
            self._known[key] = process
        return process


def as_bytes(value: Any) -> bytes:
    """Return equal bytes for equal values, independent of shared objects."""
    pickler = pickle.Pickler(buffer := io.BytesIO())
    pickler.fast = True
    pickler.dump(value)
    return buffer.getvalue()


def _carry_out(message: Message, token: str, replay: Replay, *, hours: bool) -> Ended:
    """Run a flow like worker.tasks."""
    store, upstream = cast("Any", StorePort(replay)), cast("Any", UpstreamPort(replay, message))
    parts = Container(SETTINGS, store, upstream, cast("Any", replay))
    if message.task == "lookup":
        return Ended(parts.look_up_flow()(message.pair))
    if message.task == "sweep":
        sweep = dataclasses.replace(parts.sweep(cast("Any", Publisher(replay))), new_token=lambda: token)
        return Ended(str(sweep()))
    hours_port = cast("Any", replay) if hours else None
    trigger = parts.trigger_flow()
    dial = dataclasses.replace(trigger.dial, hours=hours_port)
    trigger = dataclasses.replace(trigger, dial=dial, new_token=lambda: token)
    pair = message.pair
    kwargs = {"case_id": pair.case_id, "mediation_id": pair.mediation_id, "call_person_id": message.person}
    result = trigger(kwargs, task_id=message.task_id, expires=message.expires)
    return Ended("copy" if result is None else str(result["outcome"]))

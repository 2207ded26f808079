"""What the flows need from the world, as protocols, and the values that pass through them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from api_client import CallRecord, CallRequest, CallStatus
from config.redaction import mask_person
from worker.decision import Phase, Poll, Verdict
from worker.messages import PollMessage, TriggerResult

EventKind = Literal["started", "status_changed", "ended", "expired", "lost", "refused", "dial_failed", "unknown"]


class ScheduleFailed(Exception):  # noqa: N818 - named for what it is
    """The broker did not take a message. What is due stands in the store, so nothing is lost."""


class StoreUnavailable(Exception):  # noqa: N818
    """The store did not answer; whether the step was taken is not known."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What a lock stands for: one mediation of one case."""

    case_id: str
    mediation_id: str


@dataclass(frozen=True, slots=True)
class Event:
    """One change, as the stream of lookers-on and the case's history hold it. Without personal data."""

    kind: EventKind
    case_id: str
    mediation_id: str
    job_id: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claimed:
    """The pair is ours under the token; nobody else may call."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The claim already has its result: handled before, or the pair is taken, or new calls are stopped."""

    why: Literal["handled", "skipped", "disabled"]
    result: TriggerResult


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a trigger whose first delivery may still be at work."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A started call to be kept and watched; `first_delay` is the seconds to its first poll (S20)."""

    job_id: str
    person_id: str
    call_status: str
    first_delay: float

    def __repr__(self) -> str:
        return f"NewJob({self.job_id}, {mask_person(self.person_id)}, {self.call_status})"


@dataclass(frozen=True, slots=True)
class Settlement:
    """All that one dial came to, stored in one step (S18): `sent_at` is None where nothing was sent."""

    pair: Pair
    token: str
    task_id: str
    result: TriggerResult
    phase: Phase
    sent_at: float | None
    jobs: Sequence[NewJob]
    events: Sequence[Event]


@dataclass(frozen=True, slots=True)
class Settled:
    """A settlement was stored at `now` (epoch seconds); `polls` are the first polls of the calls that it started."""

    now: float
    polls: dict[str, Poll]


@dataclass(frozen=True, slots=True)
class Begun:
    """A poll that passed the fence: the record's state, which rules over the message's, and the store's time."""

    now: float
    pair: Pair
    poll: Poll
    call_status: str


@dataclass(frozen=True, slots=True)
class Early:
    """A poll that came over a second before its time: to be put back with its number."""

    now: float
    poll: Poll


@dataclass(frozen=True, slots=True)
class Dropped:
    """A poll that must not run: another one has its number, a verdict stands, or there is no record."""

    why: Literal["fenced", "finished", "absent"]


@dataclass(frozen=True, slots=True)
class Call:
    """The record of a call (S11). Times are epoch seconds; `verdict` is None while it is watched."""

    job_id: str
    case_id: str
    mediation_id: str
    person_id: str
    call_status: str
    verdict: Verdict | None
    retry_count: int
    poll_no: int
    started_at: float
    watched_at: float
    deadline: float
    due: float
    executing_since: float | None = None
    last_polled_at: float | None = None
    finished_at: float | None = None

    def __repr__(self) -> str:
        return f"Call({self.job_id}, {mask_person(self.person_id)}, {self.call_status}, {self.verdict})"


@dataclass(frozen=True, slots=True)
class PairState:
    """How the last trigger of a pair stands."""

    pair: Pair
    phase: Phase


class Store(Protocol):
    """The state that all processes share. Every method is one atomic step; all raise StoreUnavailable."""

    def claim(
        self, pair: Pair, *, token: str, task_id: str, arguments: str, enabled: bool
    ) -> Claimed | Answered | Copy:
        """Take the pair for a new call, or say why not (S4, S16, S17)."""
        ...

    def begin_sending(self, pair: Pair, token: str) -> float | Literal["paused", "taken"]:
        """Write `sending` and return the store's time, or say why nothing may be sent (S16, S18)."""
        ...

    def settle(self, settlement: Settlement) -> Settled | None:
        """Store what a dial came to; None where the claim has passed to another owner and no call was started."""
        ...

    def begin_poll(self, job_id: str, poll_no: int) -> Begun | Early | Dropped:
        """Pass the fence and move its number on, or say why not (S28)."""
        ...

    def continue_poll(
        self, pair: Pair, job_id: str, poll: Poll, *, call_status: str | None, event: Event | None
    ) -> bool:
        """Write the record and its successor `poll`; False where another poll has moved the number on (S28).

        `call_status` None leaves the status as it is (a failed query).
        """
        ...

    def finish_poll(
        self,
        pair: Pair,
        job_id: str,
        poll_no: int,
        *,
        verdict: Verdict,
        retry_count: int,
        call_status: str | None,
        event: Event,
    ) -> bool:
        """Write the verdict and let the pair go after its last call (S5); False where a verdict stands or the fence."""
        ...


class Upstream(Protocol):
    """The outbound-bot API."""

    def dial(self, request: CallRequest, *, before_send: Callable[[], None]) -> list[CallRecord]:
        """Request calls: NotSent, Rejected or OutcomeUnknown where no list came."""
        ...

    def status(self, *, case_ref: str, job_id: str | None = None) -> CallStatus:
        """Ask how a call stands, in one request: Unavailable or ProtocolError where that did not work."""
        ...


class Schedule(Protocol):
    """The queue of polls."""

    def __call__(self, message: PollMessage) -> None:
        """Publish a poll to be delivered after its countdown; raises ScheduleFailed."""
        ...


class Clock(Protocol):
    """Time that only goes forward, and waiting."""

    def monotonic(self) -> float:
        """Return seconds since any fixed moment."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

"""The values that pass between the flows and what they need of the world."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from config.redaction import mask_person
from worker.core import texts
from worker.core.decision import Finish, Next, Phase, Poll, Verdict
from worker.core.messages import PollMessage, TriggerResult

EventKind = Literal[
    "started",
    "status_changed",
    "ended",
    "expired",
    "lost",
    "refused",
    "dial_failed",
    "unknown",
    "adopted",
    "nothing_found",
    "released",
    "deferred",
    "outage_began",
    "outage_ended",
    "disabled",
    "paused",
    "resumed",
    "erased",
]


QueryResult = Literal["answer", "unavailable", "unreadable", "nothing"]
"""What a poll heard of the upstream: a good answer, none, one that says nothing, or it did not ask."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How late a poll began after its due time, and how long its query took (None: it sent none), in seconds."""

    late: float
    took: float | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """What a lock stands for: one mediation of one case."""

    case_id: str
    mediation_id: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Who stopped new calls, why, and when (epoch seconds; None where an earlier release stopped them) (S16)."""

    by: str
    why: str
    at: float | None


@dataclass(frozen=True, slots=True)
class Event:
    """One change, as the stream of lookers-on and the case's history hold it. Without personal data."""

    kind: EventKind
    case_id: str
    mediation_id: str
    job_id: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """An event on its way to back ends: `position` in the outbox of its channel, `notice_id` wherever it goes."""

    position: str
    notice_id: str
    event: dict[str, Any]

    @property
    def pair(self) -> Pair:
        """The pair that it is about: its letters go in order."""
        return Pair(str(self.event.get("case_id", "")), str(self.event.get("mediation_id", "")))


@dataclass(frozen=True, slots=True)
class Claimed:
    """The pair is ours under the token; nobody else may call.

    `query_since` is set where the pair's last trigger ended badly within a day: upstream is looked at first, for calls
    created after that trigger's `sending` (epoch seconds) (S5).
    """

    query_since: float | None = None


@dataclass(frozen=True, slots=True)
class ClaimAnswered:
    """The claim already has its result: handled before, or the pair is taken, or new calls are stopped."""

    why: Literal["handled", "skipped", "disabled", "deferred"]
    result: TriggerResult


@dataclass(frozen=True, slots=True)
class DuplicateDelivery:
    """A copy of a trigger whose first delivery may still be at work."""


@dataclass(frozen=True, slots=True)
class RetryAt:
    """A request that found no token at `now`: it may try again from `at` on (epoch seconds)."""

    now: float
    at: float


@dataclass(frozen=True, slots=True)
class NewJob:
    """A started call to be kept and watched; `first_delay` is the seconds to its first poll (S20).

    `watch_again` opens the record of a call whose watch was lost or expired once more (S5).
    """

    job_id: str
    person_id: str
    call_status: str
    first_delay: float
    watch_again: bool = False

    def __repr__(self) -> str:
        return f"NewJob({self.job_id}, {mask_person(self.person_id)}, {self.call_status})"


@dataclass(frozen=True, slots=True)
class Settlement:
    """All that one dial came to, stored in one step (S18): `sent_at` is None where nothing was sent.

    `look_up` opens a look-up beside the watch: a record of the answer told of no job (S7).
    """

    pair: Pair
    token: str
    task_id: str
    result: TriggerResult
    phase: Phase
    sent_at: float | None
    jobs: Sequence[NewJob]
    events: Sequence[Event]
    look_up: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """A step that was stored; `watched` are the job ids whose watch it began, or began again."""

    watched: Sequence[str]


@dataclass(frozen=True, slots=True)
class PollStarted:
    """A poll that passed the fence: the record's state, which rules over the message's, and the store's time.

    `outage` says that the upstream is known to be away: a failure is then not counted (S29). `root` is the trigger's
    task id.
    """

    now: float
    pair: Pair
    poll: Poll
    call_status: str
    outage: bool = False
    root: str = ""


@dataclass(frozen=True, slots=True)
class StartedPoll:
    """A poll that has passed the fence at `begun_at` (monotonic seconds of its process), and is to be carried out."""

    message: PollMessage
    start: PollStarted
    begun_at: float

    @property
    def lease(self) -> tuple[str, int]:
        """The job and the number that the fence moved on to."""
        return self.message.job_id, self.start.poll.poll_no + 1


@dataclass(frozen=True, slots=True)
class StatusUpdate:
    """What a poll has changed of a call, for observers: a line on how it stands, and its verdict, if it has one.

    `deadline` (epoch seconds) and `root`, the trigger's task id, are the record's.
    """

    message: PollMessage
    line: str
    verdict: Verdict | None
    deadline: float
    root: str


@dataclass(frozen=True, slots=True)
class PollDropped:
    """A poll that must not run: another one has its number, a verdict stands, there is no record, or it is not due."""

    why: Literal["fenced", "finished", "absent", "early"]


@dataclass(frozen=True, slots=True)
class PollEnd:
    """The end of one poll, to be written: what it heard, and the successor or the verdict that follows.

    `poll_no` is the number that the fence moved on to; the end is written only while the record still has it (S28).
    `call_status` None leaves the status as it is (a failed query); `timing` is counted.
    """

    pair: Pair
    job_id: str
    poll_no: int
    follows: Next | Finish
    heard: QueryResult
    call_status: str | None = None
    event: Event | None = None
    timing: Timing | None = None


OutageChange = Literal["no_change", "outage_began", "outage_ended"]
"""What the end of a poll changed for all calls (S29)."""


@dataclass(frozen=True, slots=True)
class DuePolls:
    """Polls that came due and were leased to a dispatcher; `reissued` leases had ended without an answer (S28)."""

    polls: Sequence[PollMessage]
    reissued: int = 0


@dataclass(frozen=True, slots=True)
class AbandonedClaim:
    """A claim whose owner must be dead: its trigger is published again as it was (S18); `expires` in epoch seconds."""

    task_id: str
    arguments: str
    expires: float | None


@dataclass(frozen=True, slots=True)
class LookUp:
    """An open look-up of a pair, under its owner's token; `sending_at` in epoch seconds (S14)."""

    token: str
    sending_at: float


@dataclass(frozen=True, slots=True)
class Call:
    """The record of a call (S11). Times are epoch seconds; `verdict` is None while it is watched.

    `due` is when the next poll is to come.
    `shared_with` are the other pairs that the call holds: any of their lost answers may have started it (S14).
    """

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
    shared_with: tuple[Pair, ...] = ()

    @property
    def since(self) -> float:
        """Since when a call's duration counts: it was first seen Executing, else its trigger (S31)."""
        return self.started_at if self.executing_since is None else self.executing_since

    def seconds(self, now: float) -> float:
        """Return for how many seconds a call has gone on at `now` (epoch seconds); a finished call stands still."""
        return (now if self.finished_at is None else self.finished_at) - self.since

    @property
    def person_shown(self) -> str:
        """How the call's person may be shown (S32, S37)."""
        return mask_person(self.person_id) if self.person_id else texts.UNKNOWN_CONTACT

    def holds(self, pair: Pair) -> bool:
        """Tell whether a pair is locked while this call is watched."""
        return pair == Pair(self.case_id, self.mediation_id) or pair in self.shared_with

    def __repr__(self) -> str:
        return f"Call({self.job_id}, {mask_person(self.person_id)}, {self.call_status}, {self.verdict})"


@dataclass(frozen=True, slots=True)
class PairState:
    """How the last trigger of a pair stands."""

    pair: Pair
    phase: Phase

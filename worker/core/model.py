"""Values that flows exchange with the store, upstream and each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from api_client import Reason
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
"""Result of a poll's query, for the outage detection: a readable answer, none, an unreadable one, or no query."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds from a poll's due time to its query, and from the query to its answer (None: no query)."""

    late: float
    took: float | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """One mediation of one case: the unit of a lock and its ledger."""

    case_id: str
    mediation_id: str


@dataclass(frozen=True, slots=True)
class Pause:
    """The author, the reason and the time of a pause of new calls (S16).

    `at` in epoch seconds; None if an earlier release of callwatch set the pause.
    """

    by: str
    why: str
    at: float | None


@dataclass(frozen=True, slots=True)
class Event:
    """One change, as the live stream and the case's history contain it. Without personal data.

    `task_id` names the trigger that caused it; scripts add it where they alone know it.
    """

    kind: EventKind
    case_id: str
    mediation_id: str
    job_id: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    task_id: str = ""


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """An event to deliver to a back end: `position` in the outbox of its channel, `notice_id` the same everywhere."""

    position: str
    notice_id: str
    event: dict[str, Any]

    @property
    def pair(self) -> Pair:
        """The pair of the event; its entries are delivered in order."""
        return Pair(str(self.event.get("case_id", "")), str(self.event.get("mediation_id", "")))


@dataclass(frozen=True, slots=True)
class Claimed:
    """The pair is claimed under the owner token; no other trigger may dial.

    `query_since` is set if the pair's last trigger ended badly within a day: query upstream first, for calls created
    after that trigger's `sending` (epoch seconds) (S5).
    """

    query_since: float | None = None


@dataclass(frozen=True, slots=True)
class ClaimAnswered:
    """The trigger ends without a dial: handled before, pair in use, new calls paused, or still deferred."""

    why: Literal["handled", "skipped", "disabled", "deferred"]
    result: TriggerResult


@dataclass(frozen=True, slots=True)
class DuplicateDelivery:
    """The trigger was delivered before, and its first delivery may still be in progress."""


@dataclass(frozen=True, slots=True)
class RetryAt:
    """A request was throttled at `now`: it may be retried at `at` (both epoch seconds)."""

    now: float
    at: float


@dataclass(frozen=True, slots=True)
class NewJob:
    """A call to store and watch; `first_delay` is the seconds to its first poll (S20).

    `watch_again` reopens the record of a call whose watch was lost or expired (S5).
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
    """The end of one dial, stored by one script (S18); `sent_at` in epoch seconds, None if no request was sent.

    `look_up` opens a look-up in addition to the watch: a record of the answer named no job (S7).
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
    """The script has written; `watched` are the job ids whose watch it started or restarted."""

    watched: Sequence[str]


@dataclass(frozen=True, slots=True)
class PollStarted:
    """The store's answer to a poll that passed the fence: the record's state and the store's time.

    The record's state takes precedence over the message's. During an `outage` a failure is not counted (S29). `root` is
    the trigger's task id. `queried` tells whether a poll of this call has written the result of a query before.
    """

    now: float
    pair: Pair
    poll: Poll
    call_status: str
    outage: bool = False
    root: str = ""
    queried: bool = False


@dataclass(frozen=True, slots=True)
class PollInProgress:
    """A poll in progress: its message, and the store's answer.

    `begun_at` is when the answer arrived, in monotonic seconds of this process; the record's field `begun_at` is the
    store's time instead.
    """

    message: PollMessage
    start: PollStarted
    begun_at: float

    @property
    def lease(self) -> tuple[str, int]:
        """Job id and the fencing token that the fence set: the arguments that renew the lease."""
        return self.message.job_id, self.start.poll.poll_no + 1


@dataclass(frozen=True, slots=True)
class StatusUpdate:
    """A change of a call by a poll, for observers: one line of text, and the verdict if the watch has ended.

    `deadline` (epoch seconds) and `root`, the trigger's task id, are the record's.
    """

    message: PollMessage
    line: str
    verdict: Verdict | None
    deadline: float
    root: str


@dataclass(frozen=True, slots=True)
class PollDropped:
    """A poll that must not run: a newer fencing token, a verdict, no record, or not yet due."""

    why: Literal["fenced", "finished", "absent", "early"]


@dataclass(frozen=True, slots=True)
class PollEnd:
    """The end of one poll, to be written: the result of its query, and the next poll or the verdict.

    `poll_no` is the fencing token that the fence set; the script writes only while the record still has it (S28).
    `call_status` None leaves the status unchanged (a failed query); `timing` and the `reason` of a failed query go to
    the metrics.
    """

    pair: Pair
    job_id: str
    poll_no: int
    follows: Next | Finish
    result: QueryResult
    call_status: str | None = None
    event: Event | None = None
    timing: Timing | None = None
    reason: Reason | None = None


OutageChange = Literal["no_change", "outage_began", "outage_ended"]
"""Effect of a poll's end on the outage state of all calls (S29)."""


@dataclass(frozen=True, slots=True)
class DuePolls:
    """Due polls leased to a dispatcher; `reissued` counts leases that had expired without an answer (S28)."""

    polls: Sequence[PollMessage]
    reissued: int = 0


@dataclass(frozen=True, slots=True)
class AbandonedClaim:
    """A claim whose owner died: the sweep publishes its trigger again, unchanged (S18); `expires` in epoch seconds."""

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
    """The record of a call (S11). Times are epoch seconds; `verdict` is None while the call is watched.

    `due` is the due time of the next poll. `shared_with` are the other pairs that the call keeps locked: the lost
    request of any of them may have started it (S14).
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
        """The start of the call's duration: when it was first seen Executing, else its trigger's time (S31)."""
        return self.started_at if self.executing_since is None else self.executing_since

    def seconds(self, now: float) -> float:
        """Return a call's duration in seconds at `now` (epoch seconds), or at its end if it is finished."""
        return (now if self.finished_at is None else self.finished_at) - self.since

    @property
    def person_shown(self) -> str:
        """The call's person, masked for display (S32, S37)."""
        return mask_person(self.person_id) if self.person_id else texts.UNKNOWN_CONTACT

    def holds(self, pair: Pair) -> bool:
        """Return whether this call keeps a pair locked while it is watched."""
        return pair == Pair(self.case_id, self.mediation_id) or pair in self.shared_with

    def __repr__(self) -> str:
        return f"Call({self.job_id}, {mask_person(self.person_id)}, {self.call_status}, {self.verdict})"


@dataclass(frozen=True, slots=True)
class PairState:
    """The phase of a pair's last trigger.

    `since` and `until` in epoch seconds: the begin of the phase and its end at the latest, None where it has none or
    another event decides. `looking` is true during the look-up of an unknown outcome, and `found` its number of calls.
    """

    pair: Pair
    phase: Phase
    since: float | None = None
    until: float | None = None
    looking: bool = False
    found: int = 0

"""Values that the whole product shares: a pair, its phase, its calls and its events."""

from dataclasses import dataclass, field
from typing import Any, Literal

from config.redaction import mask_person
from worker.core import texts
from worker.core.decision import Phase, Verdict

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

"""Values that the flow of a trigger exchanges with the store: claims, settlements and look-ups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from config.redaction import mask_person
from worker.core.decision import Phase
from worker.core.messages import TriggerResult
from worker.core.model import Event, Pair


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

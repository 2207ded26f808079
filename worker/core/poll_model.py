"""Values that the flow of a poll exchanges with the store and its observers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from api_client import Reason
from worker.core.decision import Finish, Next, Poll, Verdict
from worker.core.messages import PollMessage
from worker.core.model import Event, Pair

QueryResult = Literal["answer", "unavailable", "unreadable", "nothing"]
"""Result of a poll's query, for the outage detection: a readable answer, none, an unreadable one, or no query."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds from a poll's due time to its query, and from the query to its answer (None: no query)."""

    late: float
    took: float | None = None


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

"""Interfaces of the flows to store, upstream, queues and clock: protocols, and the errors they raise."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from api_client import CallRecord, CallRequest, CallStatus, ConversationLog
from worker.core.messages import PollMessage
from worker.core.model import Call, Event, OutboxEntry, Pair, PairState
from worker.core.notice import Notice, NoticeChannel
from worker.core.poll_model import (
    DuePolls,
    OutageChange,
    PollDropped,
    PollEnd,
    PollInProgress,
    PollStarted,
    StatusUpdate,
)
from worker.core.trigger_model import (
    AbandonedClaim,
    ClaimAnswered,
    Claimed,
    DuplicateDelivery,
    LookUp,
    NewJob,
    RetryAt,
    Settled,
    Settlement,
)


class ScheduleFailed(Exception):  # noqa: N818 - the name states the condition
    """The broker did not accept a message. The store keeps due work, so it is published again."""


class StoreUnavailable(Exception):  # noqa: N818
    """The store did not answer; the script may or may not have run."""


class StoreRefused(StoreUnavailable):
    """The store answered with an error: a wrong type, a missing permission, a value that it cannot hold.

    A retry does not help. Loops that repeat in any case treat it like any other StoreUnavailable.
    """


class StoreUnconfirmed(StoreUnavailable):
    """The store has written, but too few replicas or no disk confirmed it in time: a failover may lose it (S41)."""


class NotDelivered(Exception):  # noqa: N818
    """A back end did not confirm a notice; it may have received it."""


class Store(Protocol):
    """The state that all processes share. Every method is one atomic script or read; all raise StoreUnavailable."""

    def claim(
        self,
        pair: Pair,
        *,
        token: str,
        task_id: str,
        arguments: str,
        expires: float | None,
        enabled: bool,
    ) -> Claimed | ClaimAnswered | DuplicateDelivery:
        """Claim the pair for a new call, or return why the trigger must not call (S4, S16, S17).

        A task id whose request was sent within the last 31 days does not dial again (S18).
        """
        ...

    def renew(self, pair: Pair, token: str) -> bool:
        """Restart the 30 s of a claim in progress; return False if the token does not own the claim (S18)."""
        ...

    def begin_sending(
        self, pair: Pair, token: str, *, closes: float | None = None
    ) -> float | RetryAt | Literal["paused", "taken", "watched", "closed"]:
        """Write `sending` and return the store's time, or return why no request may leave (S16, S18).

        No request may leave at `closes` (epoch seconds) or later, or while throttled by the rate limit of requests.
        """
        ...

    def now(self) -> float:
        """Return the store's time in epoch seconds."""
        ...

    def defer(self, pair: Pair, token: str, *, until: float, event: Event) -> bool:
        """Defer a claimed trigger until `until` (epoch seconds); return False if the token does not own the claim."""
        ...

    def settle(self, settlement: Settlement) -> Settled | None:
        """Store the end of a dial; return None if another owner has the claim and no call was started."""
        ...

    def take_due(self, *, limit: int) -> DuePolls:
        """Take at most `limit` due polls under a lease each, the longest overdue first (S28)."""
        ...

    def begin_polls(self, polls: Sequence[tuple[str, int]]) -> list[PollStarted | PollDropped]:
        """Check polls, given as job id and fencing token, against the fence; advance it for those that pass (S28)."""
        ...

    def renew_polls(self, polls: Sequence[tuple[str, int]]) -> None:
        """Renew the leases of polls in progress, given as `PollInProgress.lease` (S28)."""
        ...

    def write_polls(self, ends: Sequence[PollEnd]) -> list[OutageChange | Exception | None]:
        """Write the ends of polls, each with the next poll or the verdict; return the effect of each on the outage.

        None if a later poll has advanced the fencing token, or the watch has a verdict (S28); an exception if this end
        could not be written. The last call of a pair releases the pair (S5).
        """
        ...

    def calls(self, *, case_id: str | None = None, job_id: str | None = None, finished: bool = False) -> list[Call]:
        """Return the watched calls, with `finished` also the others, oldest first."""
        ...

    def pairs(self, *, case_id: str | None = None, finished: bool = False) -> list[PairState]:
        """Return the pairs whose last trigger is not in phase `done`, with `finished` also the others."""
        ...

    def acquire_sweep_lock(self, owner: str, interval: float) -> bool:
        """Take the leader lock of the sweep for `interval` seconds; return False if another owner has it (S28)."""
        ...

    def pairs_due(self, *, limit: int) -> list[Pair]:
        """Return the pairs for which a step of the sweep is due (S18)."""
        ...

    def attend(self, pair: Pair, *, token: str) -> AbandonedClaim | Literal["look", "none"]:
        """Take the step that is due for a pair; return the message to publish: a trigger or a look-up (S14, S18)."""
        ...

    def postpone(self, pair: Pair, *, seconds: float) -> None:
        """Make a pair due again for the sweep after `seconds`."""
        ...

    def count(self, field: str) -> None:
        """Increment a counter of the metrics that no other script writes."""
        ...

    def trim(self) -> None:
        """Delete data older than the history's retention (S36)."""
        ...

    def open_look_up(self, pair: Pair) -> LookUp | None:
        """Return the pair's open look-up, or None."""
        ...

    def reserve_query(self, *, longest: float) -> float | None:
        """Reserve a status query outside a poll; return the seconds to wait for it, None if more than `longest`."""
        ...

    def adopt(self, pair: Pair, look_up: LookUp, jobs: Sequence[NewJob], *, answered: bool) -> Settled | None:
        """Watch jobs without a record; return None if another mediation's request must end first (S14).

        `answered` says that upstream answered the queries: the window starts at the first look-up with answers.
        """
        ...


class Upstream(Protocol):
    """The outbound-bot API."""

    def dial(
        self, request: CallRequest, *, before_send: Callable[[], None], within: float | None = None
    ) -> list[CallRecord]:
        """Request calls; raise NotSent, Rejected or OutcomeUnknown without a readable list of records.

        The connection must be established `within` seconds, name resolution included; otherwise NotSent (S18).
        """
        ...

    def status(self, *, case_ref: str, job_id: str | None = None) -> CallStatus:
        """Query the status of a call in one request; raise Unavailable or ProtocolError."""
        ...

    def conversations(self, *, case_id: str) -> list[ConversationLog]:
        """Return the conversation log of a case, newest call first; raise Unavailable or ProtocolError."""
        ...


class Notify(Protocol):
    """An observer of calls, for example Flower."""

    def __call__(self, update: StatusUpdate, /) -> None:
        """Show a change of a call; never raises, because a watch must not depend on its observers."""
        ...


class SubmitPolls(Protocol):
    """The executor of polls that have passed the fence."""

    def __call__(self, polls: Sequence[PollInProgress], /) -> None:
        """Accept polls and return at once; query upstream for each call and write the ends later."""
        ...


class PublishPolls(Protocol):
    """The queue of polls for the dispatcher; both methods raise ScheduleFailed."""

    def waiting(self) -> int:
        """Return how many messages wait in the queue."""
        ...

    def __call__(self, polls: Sequence[PollMessage]) -> None:
        """Publish one message of these polls."""
        ...


class Publish(Protocol):
    """The queues for the sweep; both methods raise ScheduleFailed."""

    def trigger(self, abandoned: AbandonedClaim) -> None:
        """Publish a trigger again, unchanged and under its own task id."""
        ...

    def look_up(self, pair: Pair, *, expires: float) -> None:
        """Publish a look-up of a pair; the message expires after `expires` seconds."""
        ...


class Outbox(Protocol):
    """The undelivered notices of one channel. All methods raise StoreUnavailable."""

    channel: NoticeChannel

    def acquire_leader_lock(self, token: str, seconds: float) -> bool:
        """Take or renew the leader lock of the channel for `seconds`; return False if another token has it."""
        ...

    def read(self, after: str, *, limit: int) -> list[OutboxEntry]:
        """Return entries after a position (`-`: from the beginning), oldest first."""
        ...

    def look(self, entry: OutboxEntry, token: str) -> Literal["here", "gone", "not ours"]:
        """Check, right before a delivery, that the entry still exists and `token` still has the leader lock."""
        ...

    def delivered(self, entry: OutboxEntry) -> None:
        """Delete a delivered entry."""
        ...

    def give_up(self, entry: OutboxEntry, reason: str) -> bool:
        """Move an entry to the dead letters if it is too old; return False if it must be retried."""
        ...


class Deliver(Protocol):
    """Delivery of notices to a back end."""

    def __call__(self, notice: Notice) -> None:
        """Deliver a notice; raise NotDelivered, whose text contains no address."""
        ...


class Clock(Protocol):
    """A monotonic clock."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment."""
        ...

    def sleep(self, seconds: float) -> None:
        """Block the thread for `seconds`."""
        ...

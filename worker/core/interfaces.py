"""What the flows need of the world, as protocols, and how each says that it cannot."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from api_client import CallRecord, CallRequest, CallStatus, ConversationLog
from worker.core.messages import PollMessage
from worker.core.model import (
    AbandonedClaim,
    Call,
    ClaimAnswered,
    Claimed,
    DuePolls,
    DuplicateDelivery,
    Event,
    LookUp,
    NewJob,
    OutageChange,
    OutboxEntry,
    Pair,
    PairState,
    PollDropped,
    PollEnd,
    PollStarted,
    RetryAt,
    Settled,
    Settlement,
    StartedPoll,
    StatusUpdate,
)
from worker.core.notice import Notice, NoticeChannel


class ScheduleFailed(Exception):  # noqa: N818 - named for what it is
    """The broker did not take a message. What is due stands in the store, so nothing is lost."""


class StoreUnavailable(Exception):  # noqa: N818
    """The store did not answer; whether the step was taken is not known."""


class StoreRefused(StoreUnavailable):
    """The store answered and refused the step: a wrong type, a missing right, a value that it cannot hold.

    To try again does not help. Loops that come round anyway treat it as any other StoreUnavailable.
    """


class NotDelivered(Exception):  # noqa: N818
    """A back end did not take a notice, or did not say so; it may have it all the same."""


class Store(Protocol):
    """The state that all processes share. Every method is one atomic step; all raise StoreUnavailable."""

    def claim(
        self,
        pair: Pair,
        *,
        token: str,
        task_id: str,
        arguments: str,
        expires: float | None,
        enabled: bool,
        redelivered: bool = False,
    ) -> Claimed | ClaimAnswered | DuplicateDelivery:
        """Take the pair for a new call, or say why not (S4, S16, S17).

        A `redelivered` message whose request left within the last 31 days dials no more (S18).
        """
        ...

    def renew(self, pair: Pair, token: str) -> bool:
        """Let a claim begin anew, for its owner is at work; False where its owner is another one or none (S18)."""
        ...

    def begin_sending(
        self, pair: Pair, token: str, *, closes: float | None = None
    ) -> float | RetryAt | Literal["paused", "taken", "watched", "closed"]:
        """Write `sending` and return the store's time, or say why nothing may be sent (S16, S18).

        Nothing is sent from `closes` (epoch seconds) on, nor without a token of the limit of requests.
        """
        ...

    def now(self) -> float:
        """Return the store's time in epoch seconds."""
        ...

    def defer(self, pair: Pair, token: str, *, until: float, event: Event) -> bool:
        """Let a claimed trigger wait until then (epoch seconds); False where the claim is another owner's."""
        ...

    def settle(self, settlement: Settlement) -> Settled | None:
        """Store what a dial came to; None where the claim has passed to another owner and no call was started."""
        ...

    def take_due(self, *, limit: int) -> DuePolls:
        """Take at most `limit` polls that are due, the longest overdue first, each under a lease (S28)."""
        ...

    def begin_polls(self, polls: Sequence[tuple[str, int]]) -> list[PollStarted | PollDropped]:
        """Let polls, given by job and number, pass the fence, or say for each why not (S28)."""
        ...

    def renew_polls(self, polls: Sequence[tuple[str, int]]) -> None:
        """Renew the leases of polls at work, given by job and by the number that the fence moved on to (S28)."""
        ...

    def write_polls(self, ends: Sequence[PollEnd]) -> list[OutageChange | Exception | None]:
        """Write the ends of polls, each with its successor or its verdict, and say for each what it changed.

        None where another poll has moved the number on, or a verdict stands (S28); an exception where it could not be
        written at all. The last call of a pair releases it (S5).
        """
        ...

    def calls(self, *, case_id: str | None = None, job_id: str | None = None, finished: bool = False) -> list[Call]:
        """Return the watched calls, and the finished ones if asked, the oldest first."""
        ...

    def pairs(self, *, case_id: str | None = None, finished: bool = False) -> list[PairState]:
        """Return the pairs whose last trigger is not done, and the done ones if asked."""
        ...

    def acquire_sweep_lock(self, owner: str, interval: float) -> bool:
        """Take the turn to sweep for at most `interval` seconds; False where somebody else has it (S28)."""
        ...

    def pairs_due(self, *, limit: int) -> list[Pair]:
        """Return the pairs at which somebody has to look by now (S18)."""
        ...

    def attend(self, pair: Pair, *, token: str) -> AbandonedClaim | Literal["look", "none"]:
        """Take the step that is due for a pair, and say what remains to be done for it (S14, S18)."""
        ...

    def postpone(self, pair: Pair, *, seconds: float) -> None:
        """Move a pair back in the order of the sweep, behind those that can be attended to."""
        ...

    def count(self, field: str) -> None:
        """Count one of something that no other step tells of."""
        ...

    def trim(self) -> None:
        """Drop what is older than the history (S36)."""
        ...

    def open_look_up(self, pair: Pair) -> LookUp | None:
        """Return the pair's open look-up, None where none is open."""
        ...

    def reserve_query(self, *, longest: float) -> float | None:
        """Take a token for a status query outside a poll: the seconds to wait for it; None if more than `longest`."""
        ...

    def adopt(self, pair: Pair, look_up: LookUp, jobs: Sequence[NewJob], *, answered: bool) -> Settled | None:
        """Watch jobs that have no record; None where that must wait for another mediation's request (S14).

        `answered` says that upstream could be asked: the window counts from the first look-up that was answered.
        """
        ...


class Upstream(Protocol):
    """The outbound-bot API."""

    def dial(
        self, request: CallRequest, *, before_send: Callable[[], None], within: float | None = None
    ) -> list[CallRecord]:
        """Request calls: NotSent, Rejected or OutcomeUnknown where no list came.

        The connection must stand `within` so many seconds, name resolution included, or else NotSent (S18).
        """
        ...

    def status(self, *, case_ref: str, job_id: str | None = None) -> CallStatus:
        """Ask how a call stands, in one request: Unavailable or ProtocolError where that did not work."""
        ...

    def conversations(self, *, case_id: str) -> list[ConversationLog]:
        """Return what was said in the calls of a case, newest first: Unavailable or ProtocolError."""
        ...


class Notify(Protocol):
    """The observers of calls, Flower for one."""

    def __call__(self, news: StatusUpdate) -> None:
        """Show what has changed of a call; never raises, for watching does not depend on its observers."""
        ...


class SubmitPolls(Protocol):
    """What carries polls out that have passed the fence."""

    def __call__(self, asks: Sequence[StartedPoll], /) -> None:
        """Ask about each call and write what it heard; returns at once."""
        ...


class PublishPolls(Protocol):
    """The queue of polls, as the dispatcher sees it; each raises ScheduleFailed."""

    def waiting(self) -> int:
        """Return how many messages wait in the queue."""
        ...

    def __call__(self, polls: Sequence[PollMessage]) -> None:
        """Publish one message of these polls."""
        ...


class Publish(Protocol):
    """What the sweep sends to the queues; each raises ScheduleFailed."""

    def trigger(self, abandoned: AbandonedClaim) -> None:
        """Publish a trigger again as it was, under its own task id."""
        ...

    def look_up(self, pair: Pair, *, expires: float) -> None:
        """Publish a look-up of a pair that is worth nothing after `expires` seconds."""
        ...


class Outbox(Protocol):
    """What has still to be told over one channel. All but `channel` raise StoreUnavailable."""

    channel: NoticeChannel

    def acquire_leader_lock(self, token: str, seconds: float) -> bool:
        """Take or keep the turn to deliver for so long; False where another one has it."""
        ...

    def read(self, after: str, *, limit: int) -> list[OutboxEntry]:
        """Return letters after a position (`-`: from the beginning), the oldest first."""
        ...

    def look(self, letter: OutboxEntry, token: str) -> Literal["here", "gone", "not ours"]:
        """Tell, right before it is sent, whether a letter still has to be delivered, and by this turn."""
        ...

    def delivered(self, letter: OutboxEntry) -> None:
        """Strike a letter out."""
        ...

    def give_up(self, letter: OutboxEntry, reason: str) -> bool:
        """Put a letter that is too old with the dead ones; False where it is to be tried again."""
        ...


class Deliver(Protocol):
    """The way to a back end."""

    def __call__(self, notice: Notice) -> None:
        """Hand a notice over; raises NotDelivered, which quotes no address."""
        ...


class Clock(Protocol):
    """Time that only goes forward, and waiting."""

    def monotonic(self) -> float:
        """Return seconds since any fixed moment."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

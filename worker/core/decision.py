"""Decide every step of a trigger and of a watch. Pure: no clock, no Redis, no Celery, no logging."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Outcome = Literal["started", "skipped", "refused", "failed", "unknown", "invalid", "disabled", "deferred"]
Phase = Literal["claimed", "sending", "watching", "unknown", "waiting", "done"]
Verdict = Literal["ended", "expired", "lost"]
RecordKind = Literal["started", "refused", "fault"]
Answer = Literal["running", "ended", "silent", "outage"]

ACTIVE = frozenset({"Scheduling", "Executing", "Paused", "Drafted"})
TERMINAL = frozenset({"Succeeded", "Failed", "Cancelled"})
FIRST_STATUS = "Scheduling"  # S10: what a started record means that names no status

EPOCH_MS_DIGITS = 13
LEAST_GAP = 0.25  # of an interval between the beginnings of two polls of a call
OUTAGE_CALLS = 5  # with fewer failing calls the tenth failure alone ends a watch (S29)
ADOPTION_SLACK = 60  # seconds by which upstream's clock may be behind the store's (S14)
DIAL_BACKOFF = (0.5, 1.0, 2.0)  # seconds before the 2nd, 3rd and 4th try (S12): all within the 30 s of a claim (S18)


# -- a trigger ---------------------------------------------------------------------------------------------------------


def judge_record(error_code: int | None, job_id: str | None) -> RecordKind:
    """Return what one record of an answer says (S7, S9): started, refused, or a fault of the protocol.

    A code of 0 without a job, or a job without a code, may be a telephone that rings: a fault, to be looked up.
    """
    if error_code == 0 and job_id:
        return "started"
    return "fault" if not error_code else "refused"


def judge_answer(kinds: Sequence[RecordKind]) -> Outcome:
    """Return the outcome of a readable answer (S7, S8).

    One started call makes the trigger `started`. Where nothing started, one record that says neither (or an answer
    that names nobody) leaves the outcome `unknown`: a person's telephone may be ringing.
    """
    if "started" in kinds:
        return "started"
    return "refused" if kinds and all(kind == "refused" for kind in kinds) else "unknown"


def phase_after(outcome: Outcome) -> Phase:
    """Return the ledger's phase once a trigger has come to `outcome` (S18): only what may ring keeps the pair."""
    if outcome in ("started", "skipped"):  # skipped after a look: calls of the pair are still under way (S5)
        return "watching"
    return "unknown" if outcome == "unknown" else "done"


def created_at(job_id: str) -> float | None:
    """Return when a job was created, in epoch seconds, or None where its id does not begin with 13 digits (S14)."""
    head, dash, _ = job_id.partition("-")
    return int(head) / 1000 if dash and len(head) == EPOCH_MS_DIGITS and head.isascii() and head.isdigit() else None


def may_belong_to(job_id: str, sending_at: float) -> bool:
    """Tell whether a job may come of a request whose answer was lost: created after `sending` less 60 s (S14)."""
    created = created_at(job_id)
    return created is not None and created > sending_at - ADOPTION_SLACK


# -- a watch -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Policy:
    """How calls are watched: `interval` seconds from due to due, `max_retry_count` failed queries in a row (S20)."""

    interval: float
    max_retry_count: int


@dataclass(frozen=True, slots=True)
class Poll:
    """One poll of a call: its number (the fence), when it is due, when the watch ends, failures so far (S20).

    `due` and `deadline` are epoch seconds on the store's clock.
    """

    poll_no: int
    due: float
    deadline: float
    retry_count: int


@dataclass(frozen=True, slots=True)
class Next:
    """The watch goes on with `poll`."""

    poll: Poll


@dataclass(frozen=True, slots=True)
class Finish:
    """The watch is over with `verdict`, after `retry_count` failures in a row."""

    verdict: Verdict
    retry_count: int


def first_delay(job_id: str, interval: float) -> float:
    """Return the seconds from storing a job to its first poll: spread over one interval, the same for the same job."""
    return interval * (zlib.crc32(job_id.encode()) % 1000 + 1) / 1000


def read_status(call_status: str) -> Answer:
    """Return whether a status ends a call; a status outside both sets is treated as active (S19)."""
    return "ended" if call_status in TERMINAL else "running"


def may_query(poll: Poll, policy: Policy, *, began: float) -> bool:
    """Return whether a poll asks upstream (S25); `began` and the poll's times are epoch seconds.

    The one that is due at the deadline only ends the watch. If it comes late by an interval, or is the call's first,
    it looks once more: no poll has asked for as long. None asks after as many failures as may be: those were queries
    that outlasted their leases (S24, S28).
    """
    if poll.retry_count >= policy.max_retry_count:
        return False
    return poll.due < poll.deadline or poll.poll_no == 1 or began - poll.due >= policy.interval


def decide(
    answer: Answer, poll: Poll, policy: Policy, *, began: float, now: float, not_before: float = 0
) -> Next | Finish:
    """Return the next poll, or the verdict that ends the watch (S20, S22-S25, S29).

    `began` is when this poll asked, `now` when it was answered, `not_before` what a `Retry-After` asked for: the due
    times before it are left out. All are epoch seconds.
    """
    if answer == "ended":  # first: news that arrives late is still news
        return Finish("ended", 0)
    failures = {"running": 0, "silent": poll.retry_count + 1, "outage": poll.retry_count}[answer]
    if now >= poll.deadline:
        return Finish("expired", failures)
    if answer != "running" and failures >= policy.max_retry_count:
        return Finish("lost", failures)
    due = next_due(poll.due, policy.interval, began=began)
    due = min(due + policy.interval * max(0, math.ceil((not_before - due) / policy.interval)), poll.deadline)
    return Next(replace(poll, poll_no=poll.poll_no + 1, due=due, retry_count=failures))


def next_due(due: float, interval: float, *, began: float) -> float:
    """Return the next due time: a whole number of intervals after `due`, so that lateness shifts nothing (S20).

    A poll that began late leaves out the due times that it has made up for, those less than a quarter of an interval
    after its beginning included: a worker that was away does not catch up in a burst.
    """
    return due + interval * max(1, math.ceil((began - due) / interval + LEAST_GAP))

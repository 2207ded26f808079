"""Decide every step of a trigger and of a watch. Pure: no clock, no Redis, no Celery, no logging."""

import math
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from api_client import Reason

Outcome = Literal["started", "skipped", "refused", "failed", "unknown", "invalid", "disabled", "deferred"]
Phase = Literal["claimed", "sending", "watching", "unknown", "waiting", "done"]
Verdict = Literal["ended", "expired", "lost"]
RecordKind = Literal["started", "refused", "fault"]

Answer = Literal["running", "ended", "silent", "outage"]
"""Result of a poll for the decision: an active status, a terminal one, or a failed query (`silent`).

`outage` leaves the failures in a row unchanged: the query failed during an outage (S29), or the poll made none (S25).
"""

ACTIVE = frozenset({"Scheduling", "Executing", "Paused", "Drafted"})
TERMINAL = frozenset({"Succeeded", "Failed", "Cancelled"})
FIRST_STATUS = "Scheduling"  # S10: the status of a started record without one

REFUSAL_REASONS: Mapping[int | None, Reason] = {1001: "must_wait", 1002: "limit_reached"}  # S9

EPOCH_MS_DIGITS = 13
LEAST_GAP = 0.25  # of an interval: the minimum between the starts of two polls of a call
OUTAGE_CALLS = 5  # calls that must fail before an outage is declared (S29)
ADOPTION_SLACK = 60  # seconds by which upstream's clock may be behind the store's (S14)
DIAL_BACKOFF = (0.5, 1.0, 2.0)  # seconds before the 2nd, 3rd and 4th attempt (S12), within the 30 s of a claim (S18)


# -- a trigger ---------------------------------------------------------------------------------------------------------


def judge_record(error_code: int | None, job_id: str | None) -> RecordKind:
    """Classify one record of an answer (S7, S9): started, refused, or a fault of the protocol.

    A code of 0 without a job, or a job without a code, may belong to a call that was placed: it is a fault, and a
    look-up follows.
    """
    if error_code == 0 and job_id:
        return "started"
    return "fault" if not error_code else "refused"


def judge_answer(kinds: Sequence[RecordKind]) -> Outcome:
    """Return the outcome of a readable answer (S7, S8).

    One started call makes the trigger `started`. Without a started call, one faulty record or an empty answer makes the
    outcome `unknown`, because a call may have been placed.
    """
    if "started" in kinds:
        return "started"
    return "refused" if kinds and all(kind == "refused" for kind in kinds) else "unknown"


def reason_of_refusals(error_codes: Collection[int | None]) -> Reason:
    """Return the reason of an answer in which every person is refused: the one that all share, else `refused` (S9)."""
    reasons = {REFUSAL_REASONS.get(code, "refused") for code in error_codes}
    return reasons.pop() if len(reasons) == 1 else "refused"


def phase_after(outcome: Outcome) -> Phase:
    """Return the ledger's phase after `outcome` (S18): the pair stays locked only while calls are or may be active."""
    if outcome in ("started", "skipped"):  # skipped by the query before a new call: calls are still active (S5)
        return "watching"
    return "unknown" if outcome == "unknown" else "done"


def created_at(job_id: str) -> float | None:
    """Return when a job was created, in epoch seconds, or None if its id does not start with 13 digits (S14)."""
    head, dash, _ = job_id.partition("-")
    return int(head) / 1000 if dash and len(head) == EPOCH_MS_DIGITS and head.isascii() and head.isdigit() else None


def may_belong_to(job_id: str, sending_at: float) -> bool:
    """Return whether a job may belong to a request at `sending_at` (epoch seconds) whose answer was lost (S14).

    The job was created after it, or at most 60 s before it, by upstream's clock.
    """
    created = created_at(job_id)
    return created is not None and created > sending_at - ADOPTION_SLACK


# -- a watch -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits of a watch: `interval` seconds between due times, `max_retry_count` failures in a row (S20)."""

    interval: float
    max_retry_count: int


@dataclass(frozen=True, slots=True)
class Poll:
    """One poll of a call: its fencing token, due time, the watch's deadline, and failures in a row so far (S20).

    `due` and `deadline` are epoch seconds on the store's clock.
    """

    poll_no: int
    due: float
    deadline: float
    retry_count: int


@dataclass(frozen=True, slots=True)
class Next:
    """The watch continues with `poll`."""

    poll: Poll


@dataclass(frozen=True, slots=True)
class Finish:
    """The watch ends with `verdict`, after `retry_count` failures in a row."""

    verdict: Verdict
    retry_count: int


def first_delay(job_id: str, interval: float) -> float:
    """Return the seconds from storing a job to its first poll: spread over one interval, fixed for each job id."""
    return interval * (zlib.crc32(job_id.encode()) % 1000 + 1) / 1000


def read_status(call_status: str) -> Answer:
    """Return `ended` for a terminal status, else `running`; an unknown status counts as active (S19)."""
    return "ended" if call_status in TERMINAL else "running"


def may_query(poll: Poll, policy: Policy, *, began: float, queried: bool) -> bool:
    """Return whether a poll queries upstream (S25); `began` is the time at which it passed the fence (epoch seconds).

    A poll due at the deadline ends the watch without a query, unless it starts an interval late or no earlier poll of
    the call has `queried`. A poll with `max_retry_count` failures does not query either: queries that outlasted their
    leases counted as failures (S24, S28).
    """
    if poll.retry_count >= policy.max_retry_count:
        return False
    return poll.due < poll.deadline or not queried or began - poll.due >= policy.interval


def decide(
    answer: Answer, poll: Poll, policy: Policy, *, began: float, now: float, not_before: float = 0
) -> Next | Finish:
    """Return the next poll, or the verdict that ends the watch (S20, S22-S25, S29).

    In epoch seconds: `began` is the time of this poll's query, `now` the time of its answer, `not_before` the end of
    upstream's `Retry-After`; due times before that are skipped.
    """
    if answer == "ended":  # checked first: a terminal status counts after the deadline too
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
    """Return the next due time: a whole number of intervals after `due`, so that a late poll does not shift it (S20).

    A poll that began late skips the due times up to a quarter of an interval after `began`, so that a worker that was
    away does not repeat the missed polls in a burst.
    """
    return due + interval * max(1, math.ceil((began - due) / interval + LEAST_GAP))

"""The flow of a look-up: query upstream for a case's calls → select those of the lost request → watch them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from api_client import ProtocolError, Reason, Unavailable
from worker.core.decision import FIRST_STATUS, first_delay, may_belong_to, read_status
from worker.core.interfaces import Store, Upstream
from worker.core.model import Call, Pair
from worker.core.trigger_model import NewJob

NO_SUCH_CALL = ("no_status", "inner_code")
"""The reasons of an answer to a status query that upstream gives for a call it does not know."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class CaseAnswers:
    """Upstream's answers about a case: the status of each job, and which of the two queries were answered.

    `failure` is the reason of the first query without an answer. A ProtocolError of the status query counts as an
    answer: upstream knows no such call. A ProtocolError of the conversation log does not.
    """

    statuses: dict[str, str] = field(default_factory=dict)
    log_read: bool = False
    status_answered: bool = False
    failure: Reason | None = None

    @property
    def answered(self) -> bool:
        """Whether both queries were answered, so that a call missing from them is not active (S5).

        The status query alone does not suffice: it names only the newest call.
        """
        return self.log_read and self.status_answered


def query_case(upstream: Upstream, case_id: str, *, renew_claim: Callable[[], None] = lambda: None) -> CaseAnswers:
    """Query the case's conversation log and the status of its newest call; either may fail (S14).

    `renew_claim` is called between the two queries.
    """
    seen = CaseAnswers()
    try:
        for entry in upstream.conversations(case_id=case_id):
            if entry.job_id:
                seen.statuses[entry.job_id] = entry.call_status or FIRST_STATUS
        seen.log_read = True
    except (Unavailable, ProtocolError) as error:
        seen.failure = error.reason
        log.info("conversation log: %s", error, extra={"case_id": case_id, "reason": error.reason})
    try:
        renew_claim()
        status = upstream.status(case_ref=case_id)
        if status.job_id:
            seen.statuses[status.job_id] = status.call_status
        seen.status_answered = True
    except (Unavailable, ProtocolError) as error:
        log.info("status by case: %s", error, extra={"case_id": case_id, "reason": error.reason})
        seen.status_answered = isinstance(error, ProtocolError)
        if not seen.status_answered:
            seen.failure = seen.failure or error.reason
    return seen


def still_active(
    store: Store, upstream: Upstream, pair: Pair, *, since: float, interval: float, renew_claim: Callable[[], None]
) -> list[NewJob]:
    """Return the pair's calls that are still active, including calls without a record (S5).

    The trigger calls it before a new call if the last trigger, sent at `since` (epoch seconds), ended badly.
    `renew_claim` is called before each query but the first, and may raise to stop the queries. Unavailable or
    ProtocolError if the state of a call remains unknown.
    """
    seen = query_case(upstream, pair.case_id, renew_claim=renew_claim)
    if not seen.answered:
        text = "the conversation log was not read" if not seen.log_read else "the status was not answered"
        raise Unavailable(text, reason=seen.failure)
    # Before the records: a request whose answer is stored between the two reads counts as under way.
    others = [one.phase for one in store.pairs(case_id=pair.case_id) if one.pair != pair]
    known = {call.job_id: call for call in store.calls(case_id=pair.case_id, finished=True)}
    jobs = [
        NewJob(job_id, "", call_status, first_delay(job_id, interval))
        for job_id, call_status in seen.statuses.items()
        if job_id not in known and may_belong_to(job_id, since) and read_status(call_status) == "running"
    ]
    if jobs and "sending" in others:  # those calls may belong to that request (S14)
        raise Unavailable("another mediation's request is under way", reason="other_request")
    for call in known.values():
        may_be = not call.person_id and may_belong_to(call.job_id, since)  # adopted by another pair's look-up
        if call.verdict == "ended" or not (call.holds(pair) or may_be):
            continue
        if call.verdict is None:
            jobs.append(known_job(call, interval))
            continue
        renew_claim()
        status = _status_of(call, upstream, seen)
        if status is not None and read_status(status) == "running":
            jobs.append(replace(known_job(call, interval), call_status=status, watch_again=True))
    return jobs


def _status_of(call: Call, upstream: Upstream, seen: CaseAnswers) -> str | None:
    """Query the status of a call whose watch ended without one; None if upstream knows no such call (S5).

    Then the conversation log decides: an upstream that has lost a call must not block its pair for a day.
    """
    try:
        return upstream.status(case_ref=call.case_id, job_id=call.job_id).call_status
    except ProtocolError as error:
        if error.reason not in NO_SUCH_CALL:
            raise
        return seen.statuses.get(call.job_id)


def known_job(call: Call, interval: float) -> NewJob:
    """Return a call that has a record as a job to be watched for a pair."""
    return NewJob(call.job_id, call.person_id, call.call_status, first_delay(call.job_id, interval))


@dataclass(frozen=True, slots=True)
class LookUpFlow:
    """Carry look-ups out; `interval` in seconds spreads the first polls (S20)."""

    store: Store
    upstream: Upstream
    interval: float

    def __call__(self, pair: Pair) -> str:
        """Carry one look-up out; return one line for Flower with its findings."""
        names = {"case_id": pair.case_id, "mediation_id": pair.mediation_id}
        look_up = self.store.open_look_up(pair)
        if look_up is None:
            return "closed: nothing to look up"
        seen = query_case(self.upstream, pair.case_id)
        jobs = [
            NewJob(job_id, "", call_status, first_delay(job_id, self.interval))
            for job_id, call_status in seen.statuses.items()
            if may_belong_to(job_id, look_up.sending_at)
        ]
        adopted = self.store.adopt(pair, look_up, jobs, answered=seen.answered)
        if adopted is None:
            return "waiting: another mediation's request is under way"
        for job_id in adopted.watched:
            log.warning("adopted jobId: %s", job_id, extra=names | {"job_id": job_id})
        answered = "answered" if seen.answered else "not answered"
        return f"looked up: {answered}, {len(jobs)} candidates, {len(adopted.watched)} adopted"

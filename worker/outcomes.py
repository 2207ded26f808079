"""Turn what came of a dial into what is stored and said: the result, the calls to watch, the events. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from api_client import CallRecord
from config.redaction import mask_person, redact
from worker import texts
from worker.decision import FIRST_STATUS, Outcome, first_delay, judge_answer, judge_record
from worker.messages import TriggerResult
from worker.values import Event, EventKind, NewJob, Pair

MOST_NAMED = 100  # refusals and faulty records of one answer that are named; a case has some dozen people


@dataclass(frozen=True, slots=True)
class DialEnd:
    """What one dial came to. `warnings` are lines for the log, with persons masked; `look_up` as in Settlement."""

    outcome: Outcome
    result: TriggerResult
    jobs: Sequence[NewJob] = ()
    events: Sequence[Event] = ()
    warnings: Sequence[str] = ()
    look_up: bool = False


def nobody_called(outcome: Outcome, pair: Pair, message: str, kind: EventKind | None = None) -> DialEnd:
    """Return the end of a dial that started no call, or of which nothing is known (S12, S13, S16)."""
    events = [Event(kind, pair.case_id, pair.mediation_id, detail={"message": message})] if kind else []
    return DialEnd(outcome, TriggerResult.of(outcome, pair.case_id, pair.mediation_id, message=message), events=events)


def read_answer(records: Sequence[CallRecord], pair: Pair, *, interval: float) -> DialEnd:
    """Return what a readable answer came to (S7-S10); `interval` in seconds spreads the first polls (S20)."""
    kinds = [judge_record(record.error_code, record.job_id) for record in records]
    outcome = judge_answer(kinds)
    jobs = [_job(record, interval) for record, kind in zip(records, kinds, strict=True) if kind == "started"]
    refused = [record for record, kind in zip(records, kinds, strict=True) if kind == "refused"][:MOST_NAMED]
    faulty = [record for record, kind in zip(records, kinds, strict=True) if kind == "fault"][:MOST_NAMED]

    events = [_started(pair, job) for job in jobs] + [_refused(pair, record) for record in refused]
    message = _refusals(refused, some_started=bool(jobs), masked=False)
    warnings = [_refusals(refused, some_started=bool(jobs), masked=True)] if refused else []
    if faulty:
        warnings.append(texts.records_without_job(mask_person(record.person_id) for record in faulty))
    if outcome == "unknown":
        message = texts.OUTCOME_UNKNOWN
        events.append(Event("unknown", pair.case_id, pair.mediation_id, detail={"message": message}))
    result = TriggerResult.of(
        outcome,
        pair.case_id,
        pair.mediation_id,
        jobs=[{"job_id": job.job_id, "person_id": job.person_id, "call_status": job.call_status} for job in jobs],
        refused=[_refusal(record) for record in refused],
        message=message,
    )
    return DialEnd(outcome, result, jobs, events, warnings, look_up=bool(faulty))


def found_again(pair: Pair, jobs: Sequence[NewJob]) -> DialEnd:
    """Return the end of a trigger that found its pair's calls still under way and called nobody (S5)."""
    result = TriggerResult.of(
        "skipped",
        pair.case_id,
        pair.mediation_id,
        jobs=[{"job_id": job.job_id, "person_id": job.person_id, "call_status": job.call_status} for job in jobs],
        message=texts.ALREADY_ACTIVE,
    )
    events = [Event("adopted", pair.case_id, pair.mediation_id, job.job_id) for job in jobs]
    return DialEnd("skipped", result, jobs, events)


def deferred(pair: Pair, until: float) -> TriggerResult:
    """Return the result of a trigger that waits `until` (epoch seconds) at the least before it calls anybody."""
    result = TriggerResult.of("deferred", pair.case_id, pair.mediation_id, message=texts.DEFERRED)
    result["deferred_until"] = until
    return result


def _job(record: CallRecord, interval: float) -> NewJob:
    job_id = record.job_id or ""
    return NewJob(
        job_id,
        record.person_id or "",
        record.call_status or FIRST_STATUS,
        first_delay(job_id, interval),
    )


def _refusal(record: CallRecord) -> dict[str, Any]:
    """Return a refusal as a back end gets it, with what it names of the next round (S9)."""
    refusal: dict[str, Any] = {
        "person_id": record.person_id or "",
        "error_code": record.error_code,
        "message": record.message or texts.UNKNOWN_ERROR,
    }
    if record.start_time is not None:
        refusal["start_time"] = record.start_time
    if record.call_interval is not None:
        refusal["call_interval"] = record.call_interval
    return refusal


def _refusals(refused: Sequence[CallRecord], *, some_started: bool, masked: bool) -> str:
    if not refused:
        return ""
    persons = (mask_person(one.person_id) if masked and one.person_id else one.person_id or "" for one in refused)
    lines = zip(persons, (one.message or "" for one in refused), strict=True)
    return texts.refusals(lines, some_started=some_started)


def _started(pair: Pair, job: NewJob) -> Event:
    detail = {
        "call_status": job.call_status,
        "label": texts.label(job.call_status),
        "person": mask_person(job.person_id),
    }
    return Event("started", pair.case_id, pair.mediation_id, job.job_id, detail)


def _refused(pair: Pair, record: CallRecord) -> Event:
    detail = _refusal(record) | {
        "person": mask_person(record.person_id),
        "message": redact(record.message or texts.UNKNOWN_ERROR),
    }
    del detail["person_id"]
    return Event("refused", pair.case_id, pair.mediation_id, detail=detail)

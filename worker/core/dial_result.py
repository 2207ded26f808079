"""Build the end of a dial: the trigger's result, the calls to watch, the events, the log lines. Pure."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from api_client import CallRecord, Reason
from config.redaction import mask_person, redact, redact_value
from worker.core import texts
from worker.core.decision import (
    FIRST_STATUS,
    REFUSAL_REASONS,
    Outcome,
    first_delay,
    judge_answer,
    judge_record,
    reason_of_refusals,
)
from worker.core.messages import TriggerResult
from worker.core.model import Event, EventKind, Pair
from worker.core.trigger_model import NewJob

MOST_REFUSALS = 500  # refusals of one answer that are reported one by one; the others are counted (S38)
MOST_NAMED = 50  # persons that one line names
TEXT_LENGTH = 200  # characters of an upstream message that are kept
_TOKEN = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class DialEnd:
    """The end of one dial. `warnings` are log lines with masked persons; `look_up` as in `Settlement`."""

    outcome: Outcome
    result: TriggerResult
    jobs: Sequence[NewJob] = ()
    events: Sequence[Event] = ()
    warnings: Sequence[str] = ()
    look_up: bool = False


def not_called(outcome: Outcome, pair: Pair, message: str, kind: EventKind, reason: Reason) -> DialEnd:
    """Return the end of a dial without a started call, or with an unknown outcome (S12, S13, S16)."""
    event = Event(kind, pair.case_id, pair.mediation_id, detail={"message": message, "reason": reason})
    result = TriggerResult.of(outcome, pair.case_id, pair.mediation_id, message=message, reason=reason)
    return DialEnd(outcome, result, events=[event])


def read_answer(records: Sequence[CallRecord], pair: Pair, *, interval: float) -> DialEnd:
    """Return the end of a dial with a readable answer (S7-S10); `interval` in seconds spreads the first polls (S20)."""
    kinds = [judge_record(record.error_code, record.job_id) for record in records]
    outcome = judge_answer(kinds)
    jobs = [_job(record, interval) for record, kind in zip(records, kinds, strict=True) if kind == "started"]
    refused = [record for record, kind in zip(records, kinds, strict=True) if kind == "refused"]
    faulty = [record for record, kind in zip(records, kinds, strict=True) if kind == "fault"]

    persons = {record.person_id for record in records if record.person_id}
    reported = [_refusal(record, persons) for record in refused[:MOST_REFUSALS]]
    more = len(refused) - len(reported)

    events = [_started(pair, job) for job in jobs]
    events += [_refused(pair, index, refusal) for index, refusal in enumerate(reported)]
    if more:
        detail = {"message": texts.more_refused(more), "reason": "refused"}
        events.append(Event("refused", pair.case_id, pair.mediation_id, detail=detail))
    message = _refusals(refused, [refusal["message"] for refusal in reported], some_started=bool(jobs))
    warnings = [_logged_refusals(refused, some_started=bool(jobs))] if refused else []
    if faulty:
        named = [mask_person(record.person_id) for record in faulty[:MOST_NAMED]]
        warnings.append(texts.records_without_job(named, more=len(faulty) - len(named)))
    reason: Reason | None = None
    if outcome == "refused":
        reason = reason_of_refusals([record.error_code for record in refused])
    if outcome == "unknown":
        message, reason = texts.OUTCOME_UNKNOWN, "no_job_id" if records else "no_records"
        warnings.append(texts.unknown_outcome(reason))
        detail = {"message": message, "reason": reason}
        events.append(Event("unknown", pair.case_id, pair.mediation_id, detail=detail))
    result = TriggerResult.of(
        outcome,
        pair.case_id,
        pair.mediation_id,
        jobs=_listed(jobs),
        refused=reported,
        message=message,
        reason=reason,
    )
    if more:
        result["more_refused"] = more
    return DialEnd(outcome, result, jobs, events, warnings, look_up=bool(faulty))


def found_again(pair: Pair, jobs: Sequence[NewJob]) -> DialEnd:
    """Return the end of a trigger that placed no call, because calls of its pair are still active (S5)."""
    result = TriggerResult.of(
        "skipped",
        pair.case_id,
        pair.mediation_id,
        jobs=_listed(jobs),
        message=texts.ALREADY_ACTIVE,
        reason="active_call",
    )
    events = [Event("adopted", pair.case_id, pair.mediation_id, job.job_id) for job in jobs]
    return DialEnd("skipped", result, jobs, events)


def deferred(pair: Pair, until: float, reason: Reason) -> TriggerResult:
    """Return the result of a trigger that may call at `until` (epoch seconds) or later."""
    result = TriggerResult.of("deferred", pair.case_id, pair.mediation_id, message=texts.DEFERRED, reason=reason)
    result["deferred_until"] = until
    return result


def _job(record: CallRecord, interval: float) -> NewJob:
    job_id = record.job_id or ""
    return NewJob(job_id, record.person_id or "", record.call_status or FIRST_STATUS, first_delay(job_id, interval))


def _listed(jobs: Sequence[NewJob]) -> list[dict[str, str]]:
    """Return the calls as the trigger's result lists them."""
    return [{"job_id": job.job_id, "person_id": job.person_id, "call_status": job.call_status} for job in jobs]


def _refusal(record: CallRecord, persons: Collection[str]) -> dict[str, Any]:
    """Return a refusal for the result: upstream's own text, and its start time and interval of the next round (S9)."""
    refusal: dict[str, Any] = {
        "person_id": record.person_id or "",
        "error_code": record.error_code,
        "message": _without_persons(record.message or texts.UNKNOWN_ERROR, record.person_id, persons),
    }
    for name, value in (("start_time", record.start_time), ("call_interval", record.call_interval)):
        if value is not None:
            refusal[name] = redact_value(value[:TEXT_LENGTH] if isinstance(value, str) else value)
    return refusal


def _without_persons(text: str, own: str | None, persons: Collection[str]) -> str:
    """Shorten an upstream text, mask the person ids of the answer in it, and redact it (S37).

    The final cut follows the masking, so that no part of a number remains at the end. Each text is searched once for
    all persons.
    """
    text = text[: 2 * TEXT_LENGTH]
    if own:
        text = text.replace(own, mask_person(own))
    masked = _TOKEN.sub(lambda token: mask_person(token[0]) if token[0] in persons else token[0], text)
    return redact(masked)[:TEXT_LENGTH]


def _refusals(refused: Sequence[CallRecord], messages: Sequence[str], *, some_started: bool) -> str:
    """Return the message about refusals for the result: with whole person ids and upstream's own texts (S8)."""
    if not refused:
        return ""
    named = zip((one.person_id or "" for one in refused), messages[:MOST_NAMED], strict=False)
    return texts.refusals(named, some_started=some_started, more=max(0, len(refused) - MOST_NAMED))


def _logged_refusals(refused: Sequence[CallRecord], *, some_started: bool) -> str:
    """Return the log line about refusals: with masked person ids and callwatch's own texts (S8, S38)."""
    persons = [mask_person(one.person_id) if one.person_id else "" for one in refused[:MOST_NAMED]]
    lines = zip(persons, (texts.refusal(one.error_code) for one in refused), strict=False)
    return texts.refusals(lines, some_started=some_started, more=len(refused) - len(persons))


def _started(pair: Pair, job: NewJob) -> Event:
    detail = {
        "call_status": job.call_status,
        "label": texts.label(job.call_status),
        "person": mask_person(job.person_id),
    }
    return Event("started", pair.case_id, pair.mediation_id, job.job_id, detail)


def _refused(pair: Pair, index: int, refusal: dict[str, Any]) -> Event:
    """Return the event of a refusal, with callwatch's own text (S38), for history, notices and the live stream.

    `index` is its place in the list `refused` of the trigger's result, which alone names the person.
    """
    detail = refusal | {
        "refused_index": index,
        "reason": REFUSAL_REASONS.get(refusal["error_code"], "refused"),
        "person": mask_person(refusal["person_id"]),
        "error_code": texts.shown_code(refusal["error_code"]),
        "message": texts.refusal(refusal["error_code"]),
    }
    del detail["person_id"]
    return Event("refused", pair.case_id, pair.mediation_id, detail=detail)

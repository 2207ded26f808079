"""Show or erase the data of one case or call: `callwatch history`, `conversation` and `erase`."""

import json
import re
from collections.abc import Iterator
from typing import Any, cast

import redis

from api_client import ConversationLog, ProtocolError, Unavailable
from cli.connect import connect, no_answer, open_store, read_settings
from cli.malformed import delete_entries, read_entries
from cli.ui.formatting import PHASES, event_line, moment, time_of_day
from cli.ui.output import DONE, FAILED, WRONG_USAGE, Failure, complain, no_record, printable, say, say_json
from config.settings import Settings
from worker.container import build_upstream
from worker.core import texts
from worker.store import NotErased

SPEAKERS = {"Robot": "智能体", "Contact": "联系人"}
RESULT_PREFIX = "celery-task-meta-"
BATCH = 500


def history(case_id: str, *, as_json: bool) -> int:
    """Print every event of a case; return the exit code, 1 if it has none (S36)."""
    case_id = _id(case_id, "CASE_ID")
    with open_store(read_settings()) as store:
        events = store.history(case_id)
    if as_json:
        say_json({"case_id": case_id, "events": events})
    for event in () if as_json else with_persons(events):
        say(event_line(event, dated=True))
    return DONE if events else no_record(f"case {case_id}")


def with_persons(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events; those of a call have the masked person that its start names (S37)."""
    persons = {event["job_id"]: event["person"] for event in events if "job_id" in event and event.get("person")}
    return [
        event | {"person": persons.get(event["job_id"], texts.UNKNOWN_CONTACT)} if "job_id" in event else event
        for event in events
    ]


def conversation(job_id: str, *, links: bool, as_json: bool) -> int:
    """Query upstream for the transcript and the recording of a call; return the exit code (S36).

    A signed link opens the recording without a password, also from the scroll-back of a terminal: it needs `links`.
    """
    job_id = _id(job_id, "JOB_ID")
    settings = read_settings()
    with open_store(settings) as store:
        call = next(iter(store.calls(job_id=job_id)), None)
    logs = [log for log in _ask(settings, job_id, call.case_id if call else None) if log.job_id == job_id]
    if as_json:
        say_json(
            {
                "job_id": job_id,
                "case_id": call and call.case_id,
                "conversations": [_log_json(log, links=links) for log in logs],
            }
        )
    for log in () if as_json else logs:
        for line in _log_lines(log, links=links):
            say(printable(line))
    if not logs:
        complain(f"upstream has no conversation of {printable(job_id)}")
        return FAILED
    return DONE


def erase(case_id: str, *, anyway: bool, as_json: bool) -> int:
    """Erase the data of a case and print the numbers; return the exit code, 1 if the data must stay."""
    case_id = _id(case_id, "CASE_ID")
    settings = read_settings()
    with open_store(settings) as store:
        erased = store.erase(case_id, anyway=anyway)
    if isinstance(erased, NotErased):
        if as_json:
            say_json({"case_id": case_id, "erased": False, "removed": {}})
        complain(f"{printable(case_id)} is not erased: {_why_not(erased)}")
        return FAILED
    removed = {
        "history_events": erased.events,
        "calls": erased.calls,
        "pairs": erased.pairs,
        "live_events": erased.live_events,
        "triggers": erased.triggers,
        "notices": erased.notices,
        "results": _forget_results(settings, case_id),
        "malformed_messages": _forget_malformed(settings, case_id),
    }
    if as_json:
        say_json({"case_id": case_id, "erased": True, "removed": removed})
    elif any(removed.values()):
        counts = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in removed.items() if number)
        say(f"{printable(case_id)} is erased: {counts}")
    return DONE if any(removed.values()) else no_record(f"case {case_id}")


def _id(text: str, name: str) -> str:
    if not text.strip():
        raise Failure(f"{name}: empty, should be an id", exit_code=WRONG_USAGE)
    return text.strip()


def _ask(settings: Settings, job_id: str, case_id: str | None) -> list[ConversationLog]:
    try:
        upstream = build_upstream(settings)
    except ValueError as error:
        raise Failure(str(error), exit_code=WRONG_USAGE) from None
    try:
        return upstream.conversations(case_id=case_id, job_id=job_id)
    except (Unavailable, ProtocolError) as error:
        raise Failure(f"upstream did not answer: {error}") from None
    finally:
        upstream.close()


def _log_json(log: ConversationLog, *, links: bool) -> dict[str, Any]:
    return {
        "call_type": log.call_type,
        "call_status": log.call_status,
        "label": log.call_status and texts.label(log.call_status),
        "lines": [
            {
                "at": line.timestamp and line.timestamp / 1000,
                "speaker": line.speaker,
                "action": line.action,
                "text": line.script,
            }
            for line in log.conversations
        ],
        "unreadable": log.conversations_unreadable,
        "record_url": log.record_url if links else None,
        "record_expires_at": log.record_expires,
    }


def _log_lines(log: ConversationLog, *, links: bool) -> Iterator[str]:
    yield "  ".join(filter(None, (log.job_id, log.call_type, texts.label(log.call_status or ""))))
    if log.conversations_unreadable:
        yield "the transcript cannot be read"
    for line in log.conversations:
        if line.script:
            at = time_of_day(line.timestamp / 1000) if line.timestamp else "--:--:--"
            yield f"{at}  {SPEAKERS.get(line.speaker or '', line.speaker or '')}: {line.script}"
    if log.record_url:
        expiry = "expiry unknown"
        if log.record_expires is not None:
            expiry = f"expires at {moment(log.record_expires)}"
        yield f"recording ({expiry}): {log.record_url if links else '--links shows its signed link'}"


def _why_not(kept: NotErased) -> str:
    if kept.until is None:
        return f"of mediation {printable(kept.pair.mediation_id)} {PHASES.get(kept.phase, kept.phase)}"
    return (
        f"the outcome of the last call of mediation {printable(kept.pair.mediation_id)} is unknown, and until "
        f"{moment(kept.until)} a new trigger has to query upstream first; --anyway erases that too"
    )


# -- data that Celery keeps --------------------------------------------------------------------------------------------


def _forget_results(settings: Settings, case_id: str) -> int:
    """Delete the results of the case from Celery's result backend; return their number."""

    def of_the_case(text: str) -> bool:
        try:
            result = json.loads(text)["result"]
        except (ValueError, TypeError, KeyError):  # the result of another application
            return False
        return isinstance(result, dict) and result.get("case_id") == case_id

    try:
        with connect(settings.result_url) as client:
            names = list(client.scan_iter(f"{RESULT_PREFIX}*", count=BATCH, _type="string"))
            texts_of = {name: cast("str | None", client.get(name)) for name in names}
            found = [name for name, text in texts_of.items() if text and of_the_case(text)]
            return sum(int(str(client.delete(name))) for name in found)
    except redis.RedisError as error:
        raise Failure(no_answer(settings.result_url, "CALLWATCH_RESULT_URL", error)) from None


def _forget_malformed(settings: Settings, case_id: str) -> int:
    """Delete the quarantined messages that name the case; return their number."""
    named = re.compile(rf"(?<![\w-]){re.escape(case_id)}(?![\w-])")
    entries = read_entries(settings)
    return delete_entries(settings, [one for one in entries if named.search(one.decode(errors="replace"))])

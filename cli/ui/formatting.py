"""Format times, events and phases as text. Pure, except for the local time zone."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from cli.ui.output import printable

PHASES = {  # the state of a pair's last trigger
    "claimed": "its trigger is about to be sent",
    "sending": "its request is being sent, and a phone may ring already",
    "watching": "its calls are being watched",
    "unknown": "its outcome is unknown and a phone may be ringing",
    "waiting": "its trigger waits",
    "done": "it is free",
    "absent": "it has no record of a trigger",
}
WORDS = {
    "status_changed": "status",
    "dial_failed": "failed",
    "adopted": "found by a look-up, watched from here on",
    "nothing_found": "nothing found by the look-up",
}
# Events that a table of calls does not show and an operator must see (S35, S14, S29).
NOTICES = frozenset(
    {
        "refused",
        "dial_failed",
        "deferred",
        "unknown",
        "lost",
        "expired",
        "nothing_found",
        "outage_began",
        "outage_ended",
    }
)


def moment(seconds: float) -> str:
    """Return epoch seconds as local date and time with the offset from UTC."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")


def time_of_day(seconds: float) -> str:
    """Return epoch seconds as local time with the offset from UTC."""
    return moment(seconds).partition(" ")[2]


def event_line(event: Mapping[str, Any], *, dated: bool = False) -> str:
    """Return an event of the store (without personal data) as one line, with the local time or with date and time."""
    kind = str(event.get("kind", ""))
    parts = (
        (moment if dated else time_of_day)(float(event.get("at", 0))),
        "/".join(str(event[name]) for name in ("case_id", "mediation_id") if name in event),
        WORDS.get(kind, kind),
        event.get("label"),
        event.get("error_code"),
        event.get("message"),
        event.get("reason"),
        event.get("person"),
        _next_round(event),
        _until(event),
        _decision(event),
        event.get("job_id"),
    )
    return printable("  ".join(str(part) for part in parts if part not in (None, "")))


def _next_round(event: Mapping[str, Any]) -> str | None:
    """Return the next round that a refusal names (S9), unchanged."""
    start, interval = event.get("start_time"), event.get("call_interval")
    named = [f"next round {start}" if start is not None else "", f"interval {interval}" if interval is not None else ""]
    return ", ".join(filter(None, named)) or None


def _until(event: Mapping[str, Any]) -> str | None:
    """Return the local time at which a deferred trigger continues."""
    until = event.get("until")
    return None if until is None else f"until {moment(float(until))}"


def _decision(event: Mapping[str, Any]) -> str | None:
    """Return the operator of a decision and the reason; the end of a hold has the name `time`."""
    by, why = event.get("by"), event.get("why")
    if not by:
        return None
    return "its hold has ended" if by == "time" else f"by {by}" + (f": {why}" if why else "")

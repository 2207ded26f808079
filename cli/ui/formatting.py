"""Events and phases in words: what is shown where there is no terminal. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from cli.ui.output import printable

PHASES = {  # how the last trigger of a pair stands
    "claimed": "its trigger is about to be sent",
    "sending": "its request is on its way, and may have rung already",
    "watching": "its calls are being watched",
    "unknown": "its outcome is unknown and a telephone may be ringing",
    "waiting": "its trigger waits",
    "done": "it is free",
    "absent": "no trigger of it is on record",
}
WORDS = {"status_changed": "status", "dial_failed": "failed"}
# What a table of calls cannot show and people must be told (S35, S14, S29).
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


def event_line(event: Mapping[str, Any]) -> str:
    """Return an event (as worker.store gives it, without personal data) as one line, its time in local time."""
    kind = str(event.get("kind", ""))
    parts = (
        datetime.fromtimestamp(float(event.get("at", 0))).astimezone().strftime("%H:%M:%S"),
        "/".join(str(event[name]) for name in ("case_id", "mediation_id") if name in event),
        WORDS.get(kind, kind),
        event.get("label"),
        event.get("error_code"),
        event.get("message"),
        event.get("person"),
        _next_round(event),
        _until(event),
        event.get("job_id"),
    )
    return printable("  ".join(str(part) for part in parts if part not in (None, "")))


def _next_round(event: Mapping[str, Any]) -> str | None:
    """Return what a refusal names of the next round (S9), as it came."""
    start, interval = event.get("start_time"), event.get("call_interval")
    named = [f"next round {start}" if start is not None else "", f"interval {interval}" if interval is not None else ""]
    return ", ".join(filter(None, named)) or None


def _until(event: Mapping[str, Any]) -> str | None:
    """Return when a deferred trigger is taken up, in local time."""
    until = event.get("until")
    return None if until is None else f"until {datetime.fromtimestamp(float(until)).astimezone():%Y-%m-%d %H:%M:%S}"

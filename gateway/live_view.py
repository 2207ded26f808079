"""The live view of a case: pairs, calls and notices, without personal data (S30, S35, S37). Pure."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.core import texts
from worker.core.model import Call
from worker.store.cases import CasePair, CaseState, SystemState

Position = tuple[int, int]
"""A position in the live stream: milliseconds and a sequence number within them."""

START: Position = (0, 0)
RECENT = 600.0  # seconds: age of the notices that a new page receives (S35)
NOTICES_SHOWN = 50
VERSION = 1

# Events shown as notices: level, and the text if the event has no message (S35).
LEVELS = {
    "dial_failed": ("error", texts.DIAL_FAILED),
    "unknown": ("warning", texts.OUTCOME_UNKNOWN),
    "lost": ("error", texts.WATCH_LOST),
    "nothing_found": ("warning", texts.NOTHING_FOUND),
    "adopted": ("info", texts.ADOPTED),
    "released": ("info", texts.RELEASED),
    "disabled": ("warning", texts.DISABLED),
    "deferred": ("info", texts.DEFERRED),
}
REFUSAL = ("person", "message", "error_code", "reason", "refused_index", "start_time", "call_interval")


def position(text: str) -> Position:
    """Parse an id of the live stream; ValueError if it is malformed."""
    milliseconds, _, number = text.partition("-")
    if not (milliseconds.isdecimal() and number.isdecimal() and text.isascii() and len(text) <= 40):  # noqa: PLR2004
        raise ValueError(text)
    return int(milliseconds), int(number)


def recent(now: float) -> Position:
    """Return the position after which notices count as recent at `now` (epoch seconds)."""
    return round((now - RECENT) * 1000), 0


@dataclass(frozen=True, slots=True)
class CaseView:
    """The view of a case: calls by job, pairs by mediation, and the id of its newest event."""

    case_id: str
    newest: str = ""
    calls: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    pairs: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, state: CaseState) -> "CaseView":
        """Return the view of a stored case."""
        calls = {call.job_id: call_shown(call) for call in state.calls}
        pairs = {one.pair.mediation_id: pair_shown(one) for one in state.pairs}
        return cls(state.case_id, state.newest, calls, pairs)

    def document(self, notices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the case with notices, in the form of a snapshot."""
        return {
            "case_id": self.case_id,
            "pairs": list(self.pairs.values()),
            "calls": list(self.calls.values()),
            "notices": list(notices),
        }


def call_shown(call: Call) -> dict[str, Any]:
    """Return the view of a call; `since` is the start of its duration (S31), `failures` the failed polls in a row."""
    return {
        "job_id": call.job_id,
        "mediation_id": call.mediation_id,
        "person": call.person_shown,
        "call_status": call.call_status,
        "label": texts.label(call.call_status),
        "started_at": call.started_at,
        "since": call.since,
        "failures": call.retry_count,
        "checked_at": call.last_polled_at,
        "verdict": call.verdict,
        "finished_at": call.finished_at,
    }


def pair_shown(one: CasePair) -> dict[str, Any]:
    """Return the view of a pair; `until` (epoch seconds) is set while it waits or is on hold."""
    return {"mediation_id": one.pair.mediation_id, "phase": one.phase, "until": one.until}


def notices(events: Iterable[Mapping[str, Any]], view: CaseView) -> list[dict[str, Any]]:
    """Return the notices of events with ids, oldest first; refusals in one response form one notice (S8)."""

    def answer(event: Mapping[str, Any]) -> tuple[object, ...]:
        refused = event["kind"] in ("refused", "started")
        return (event.get("mediation_id"), event.get("at")) if refused else (event["id"],)

    found: list[dict[str, Any]] = []
    for _, group in itertools.groupby((event for event in events if event.get("id")), answer):
        found.extend(_notices_of(list(group), view))
    return found


def _notices_of(group: Sequence[Mapping[str, Any]], view: CaseView) -> Iterator[dict[str, Any]]:
    refused = [event for event in group if event["kind"] == "refused"]
    if refused:
        some_started = len(refused) < len(group)
        people = [(str(event.get("person", "")), str(event.get("message", ""))) for event in refused]
        reasons = {str(event.get("reason", "refused")) for event in refused}
        yield {
            **_notice(refused[-1], "refused", "warning", texts.refusals(people, some_started=some_started)),
            "reason": reasons.pop() if len(reasons) == 1 else "refused",
            "some_started": some_started,
            "refused": [{name: event[name] for name in REFUSAL if name in event} for event in refused],
        }
        return
    for event in group:
        kind = str(event["kind"])
        if kind in LEVELS:
            level, text = LEVELS[kind]
            yield _notice(event, kind, level, str(event.get("message") or text))
        elif kind == "ended" and event.get("call_status") == "Failed":
            call = view.calls.get(str(event.get("job_id")), {})
            yield _notice(event, "failed", "error", texts.call_failed(call.get("person", texts.UNKNOWN_CONTACT)))


def _notice(event: Mapping[str, Any], kind: str, level: str, text: str) -> dict[str, Any]:
    names = ("id", "at", "case_id", "mediation_id", "job_id", "reason", "until")
    return {"kind": kind, "level": level, "text": text, **{name: event[name] for name in names if name in event}}


@dataclass(frozen=True, slots=True)
class Setting:
    """Deployment state shown to every page; `poll_interval` in seconds, `enabled` from the settings (S16)."""

    poll_interval: float
    enabled: bool = True

    def head(self, system: SystemState) -> dict[str, Any]:
        """Return the head of a snapshot."""
        return {
            "v": VERSION,
            "now": round(system.now, 3),
            "poll_interval": self.poll_interval,
            **self.state(system),
        }

    def state(self, system: SystemState) -> dict[str, Any]:
        """Return the state common to all cases: whether upstream answers (S29), and whether new calls allowed (S16)."""
        stopped = system.stop is not None or not self.enabled
        away = system.outage_since
        return {
            "upstream": "ok" if away is None else "away",
            **({} if away is None else {"upstream_since": away}),
            "new_calls": "stopped" if stopped else "allowed",
        }


def etag(document: Mapping[str, Any]) -> str:
    """Return the ETag of a snapshot: a hash of all members except the time."""
    text = json.dumps({name: value for name, value in document.items() if name != "now"}, sort_keys=True)
    return f'W/"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'

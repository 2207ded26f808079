"""What a page is shown of a case: its pairs, its calls and its notices, without personal data (S30, S35, S37). Pure."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.core import texts
from worker.core.model import Call
from worker.store.cases import CasePair, CaseState, Surroundings

Position = tuple[int, int]
"""A place in the live stream: milliseconds and a number within them."""

START: Position = (0, 0)
RECENT = 600.0  # seconds: notices of the time before a page was opened (S35)
NOTICES_SHOWN = 50
VERSION = 1

# Which events a person is told of, how loudly, and in which words where the event brings none (S35).
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
REFUSAL = ("person", "message", "error_code", "start_time", "call_interval")


def position(text: str) -> Position:
    """Return the position that an id of the stream names; ValueError where it is none."""
    milliseconds, _, number = text.partition("-")
    if not (milliseconds.isdecimal() and number.isdecimal() and text.isascii() and len(text) <= 40):  # noqa: PLR2004
        raise ValueError(text)
    return int(milliseconds), int(number)


def recent(now: float) -> Position:
    """Return the position from which on notices count as recent at `now` (epoch seconds)."""
    return round((now - RECENT) * 1000), 0


@dataclass(frozen=True, slots=True)
class CaseView:
    """A case as it is shown: calls by job, pairs by mediation, and the id of its newest event."""

    case_id: str
    newest: str = ""
    calls: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    pairs: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, state: CaseState) -> "CaseView":
        """Return what is shown of a case."""
        calls = {call.job_id: call_shown(call) for call in state.calls}
        pairs = {one.pair.mediation_id: pair_shown(one) for one in state.pairs}
        return cls(state.case_id, state.newest, calls, pairs)

    def document(self, notices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the case with notices, as a snapshot holds it."""
        return {
            "case_id": self.case_id,
            "pairs": list(self.pairs.values()),
            "calls": list(self.calls.values()),
            "notices": list(notices),
        }


def call_shown(call: Call) -> dict[str, Any]:
    """Return a call as a page shows it; `since` is when its duration begins (S31), `failures` those in a row."""
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
    """Return how a pair stands; `until` (epoch seconds) where it waits or is held."""
    return {"mediation_id": one.pair.mediation_id, "phase": one.phase, "until": one.until}


def notices(events: Iterable[Mapping[str, Any]], view: CaseView) -> list[dict[str, Any]]:
    """Return what people are told of events with ids, the oldest first; refusals of one answer are one notice (S8)."""

    def answer(event: Mapping[str, Any]) -> tuple[object, ...]:
        refused = event["kind"] in ("refused", "started")
        return (event.get("mediation_id"), event.get("at")) if refused else (event["id"],)

    told: list[dict[str, Any]] = []
    for _, group in itertools.groupby((event for event in events if event.get("id")), answer):
        told.extend(_notices_of(list(group), view))
    return told


def _notices_of(group: Sequence[Mapping[str, Any]], view: CaseView) -> Iterator[dict[str, Any]]:
    refused = [event for event in group if event["kind"] == "refused"]
    if refused:
        some_started = len(refused) < len(group)
        people = [(str(event.get("person", "")), str(event.get("message", ""))) for event in refused]
        yield {
            **_notice(refused[-1], "refused", "warning", texts.refusals(people, some_started=some_started)),
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
    names = ("id", "at", "case_id", "mediation_id", "job_id", "until")
    return {"kind": kind, "level": level, "text": text, **{name: event[name] for name in names if name in event}}


@dataclass(frozen=True, slots=True)
class Setting:
    """What every page is shown beside its cases; `poll_interval` in seconds, `enabled` as the settings say (S16)."""

    poll_interval: float
    enabled: bool = True

    def head(self, surroundings: Surroundings) -> dict[str, Any]:
        """Return the head of a snapshot."""
        return {
            "v": VERSION,
            "now": round(surroundings.now, 3),
            "poll_interval": self.poll_interval,
            **self.state(surroundings),
        }

    def state(self, surroundings: Surroundings) -> dict[str, Any]:
        """Return what holds for all cases: whether upstream answers (S29), and whether new calls are made (S16)."""
        stopped = surroundings.stop is not None or not self.enabled
        away = surroundings.outage_since
        return {
            "upstream": "ok" if away is None else "away",
            **({} if away is None else {"upstream_since": away}),
            "new_calls": "stopped" if stopped else "allowed",
        }


def etag(document: Mapping[str, Any]) -> str:
    """Return the validator of a snapshot: of all it says but the time."""
    text = json.dumps({name: value for name, value in document.items() if name != "now"}, sort_keys=True)
    return f'W/"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'

"""The state machines as data: the phases of a pair's ledger, and the watch of a call."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from worker.core.decision import Phase, Verdict

Before = Phase | Literal["absent"]
"""`absent`: the pair has no ledger."""

PairEvent = Literal["claim", "defer", "send", "watch", "lose", "release"]
"""Claim a pair, defer its trigger, send the request, watch its calls, lose the answer, release the pair."""

WatchState = Verdict | Literal["absent", "watched"]


@dataclass(frozen=True, slots=True)
class Transition:
    """In phase `before` the event leads to `after`; `cause` labels the arrow in the diagram."""

    before: Before
    event: PairEvent
    after: Phase
    cause: str


PAIR_TRANSITIONS = (
    Transition("absent", "claim", "claimed", "lock taken"),
    Transition("done", "claim", "claimed", "next trigger"),
    Transition("waiting", "claim", "claimed", "deferral over"),
    Transition("claimed", "claim", "claimed", "claim republished after 30 s"),
    Transition("claimed", "defer", "waiting", "outside calling hours or throttled"),
    Transition("sending", "defer", "waiting", "request provably not sent"),
    Transition("claimed", "send", "sending", "request about to leave"),
    Transition("sending", "send", "sending", "next dial attempt"),
    Transition("claimed", "watch", "watching", "query upstream found active calls, or a late answer"),
    Transition("sending", "watch", "watching", "calls started"),
    Transition("unknown", "watch", "watching", "calls found, or a late answer"),
    Transition("watching", "watch", "watching", "another answer of the same trigger"),
    Transition("done", "watch", "watching", "late answer"),
    Transition("absent", "watch", "watching", "late answer after the ledger expired"),
    Transition("claimed", "lose", "unknown", "request left before sending was written"),
    Transition("waiting", "lose", "unknown", "request left before sending was written"),
    Transition("done", "lose", "unknown", "request left before sending was written"),
    Transition("absent", "lose", "unknown", "request left before sending was written"),
    Transition("sending", "lose", "unknown", "answer lost, or the sender died"),
    Transition("watching", "lose", "unknown", "late answer that names no job, after the look-up"),
    Transition("claimed", "release", "done", "nothing sent"),
    Transition("sending", "release", "done", "refused or failed"),
    Transition("waiting", "release", "done", "trigger expired"),
    Transition("unknown", "release", "done", "hold over, or released by a person"),
    Transition("watching", "release", "done", "last call over"),
    Transition("absent", "release", "done", "ledger lost, no call watched"),
    Transition("done", "release", "done", "late answer whose calls have all ended"),
)
"""Every change of a pair's phase (S18). The prelude of the Lua scripts contains it and raises on any other change."""


@dataclass(frozen=True, slots=True)
class WatchTransition:
    """A call's watch goes from `before` to `after`; `cause` labels the arrow in the diagram."""

    before: WatchState
    after: WatchState
    cause: str


WATCH_TRANSITIONS = (
    WatchTransition("absent", "watched", "stored"),
    WatchTransition("watched", "watched", "active, or a failed query"),
    WatchTransition("watched", "ended", "Succeeded, Failed or Cancelled"),
    WatchTransition("watched", "lost", "too many failed queries in a row"),
    WatchTransition("watched", "expired", "deadline"),
    WatchTransition("lost", "watched", "found active before a new call"),
    WatchTransition("expired", "watched", "found active before a new call"),
)
"""Every change of a call's watch (S20-S25); `worker.core.decision.decide` chooses among those that leave `watched`."""


def lua_table() -> str:
    """Return the pair's transitions as a Lua table: `event before` to the phase after it."""
    entries = (f"['{one.event} {one.before}'] = '{one.after}'" for one in PAIR_TRANSITIONS)
    return f"{{{', '.join(entries)}}}"


def pair_diagram() -> str:
    """Return the phases of a pair as a Mermaid state diagram."""
    return _diagram((one.before, one.after, one.cause) for one in PAIR_TRANSITIONS)


def watch_diagram() -> str:
    """Return the watch of a call as a Mermaid state diagram."""
    return _diagram((one.before, one.after, one.cause) for one in WATCH_TRANSITIONS)


def _diagram(arrows: Iterable[tuple[str, str, str]]) -> str:
    lines = (f"    {'[*]' if before == 'absent' else before} --> {after}: {cause}" for before, after, cause in arrows)
    return "\n".join(("stateDiagram-v2", *lines))

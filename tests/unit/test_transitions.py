"""Test the state machines as data: scripts, decisions and diagrams agree with the tables."""

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import get_args

import pytest

from docs import diagrams
from worker.core.decision import Answer, Finish, Phase, Policy, Poll, decide, phase_after
from worker.core.transitions import PAIR_TRANSITIONS, WATCH_TRANSITIONS, PairEvent

STORE = Path(__file__).parents[2] / "worker" / "store"


def lua_sources() -> Iterator[tuple[str, str]]:
    for path in sorted(STORE.glob("*.py")):
        yield path.name, path.read_text("utf-8")


def test_s18_scripts_write_a_phase_only_through_the_guard() -> None:
    """`enter` contains the only write of a phase."""
    writes = [name for name, source in lua_sources() for _ in re.finditer(r"'HSET',[^)]*?'phase'", source)]
    assert writes == ["base.py"], "the write inside the guard"


def test_s18_events_raised_by_scripts_are_exactly_those_of_the_table() -> None:
    raised = {
        event
        for _, source in lua_sources()
        for arguments in re.findall(r"enter\(ledger, (.*?), (?:phase|before|state|s\.phase|redis)", source)
        for event in re.findall(r"'([a-z]+)'(?! and)", arguments.replace("== 'unknown'", ""))
    }
    assert raised == set(get_args(PairEvent)) == {one.event for one in PAIR_TRANSITIONS}


def test_s18_every_phase_can_be_entered_and_left() -> None:
    phases = set(get_args(Phase))
    assert {one.after for one in PAIR_TRANSITIONS} == phases
    assert {one.before for one in PAIR_TRANSITIONS if one.before != one.after} == phases | {"absent"}


def test_s18_every_event_leads_to_one_phase() -> None:
    """`sending` has an event of its own; after it a trigger is never retried."""
    targets = {event: {one.after for one in PAIR_TRANSITIONS if one.event == event} for event in get_args(PairEvent)}
    assert targets == {
        "claim": {"claimed"},
        "defer": {"waiting"},
        "send": {"sending"},
        "watch": {"watching"},
        "lose": {"unknown"},
        "release": {"done"},
    }
    assert {one.before for one in PAIR_TRANSITIONS if one.event == "send"} == {"claimed", "sending"}


def test_s18_release_is_legal_in_every_phase() -> None:
    """A settlement checks its other events before the first write, a release only when it writes."""
    before = {one.before for one in PAIR_TRANSITIONS if one.event == "release"}
    assert before == {*get_args(Phase), "absent"}


def test_s18_phases_after_an_outcome_are_reachable_from_sending() -> None:
    after_sending = {one.after for one in PAIR_TRANSITIONS if one.before == "sending"}
    assert {phase_after(outcome) for outcome in ("started", "refused", "failed", "unknown")} <= after_sending


@pytest.mark.parametrize(("answer", "retry_count", "now"), list(product(get_args(Answer), (0, 8, 9), (15.0, 7_200.0))))
def test_s20_every_decision_is_a_transition_of_the_watch(answer: Answer, retry_count: int, now: float) -> None:
    poll = Poll(poll_no=1, due=10, deadline=7_200, retry_count=retry_count)
    decision = decide(answer, poll, Policy(10, 10), began=10, now=now)
    after = decision.verdict if isinstance(decision, Finish) else "watched"
    assert after in {one.after for one in WATCH_TRANSITIONS if one.before == "watched"}


def test_diagrams_in_the_documents_are_current() -> None:
    """`python -m docs.diagrams` regenerates them."""
    page = diagrams.PAGE.read_text("utf-8")
    assert diagrams.current(page) == page

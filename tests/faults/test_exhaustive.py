"""Explore every interleaving of small scopes with the real flows and the real scripts, without random choice.

`SOAK_STEPS` in the environment adds the larger scopes, which take minutes instead of seconds.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from tests.fakes import virtual_time
from tests.faults.exhaustive.flows import Ended
from tests.faults.exhaustive.search import Exploration, search
from tests.faults.exhaustive.snapshots import plain
from tests.faults.exhaustive.state import KEYS, Budget, Scope, State
from tests.faults.mutants import both, unguarded
from worker.store import base, claims, lookups, polls, settlements, sweeps

LOST, ANSWERED = ("lost",), ("answered",)
ANY = Budget(faults=1, crash=1, stop=1, lost=1, expiry=1, copy=1)

ONE = Scope(("20:1",), ANY)
LATE = Scope(("20:1",), Budget(faults=2, stop=1, expiry=1))
TWO = Scope(("20:1", "20:2"), Budget(silent=1, unwatched=1))
AGAIN = Scope(("20:2",), Budget(unwatched=1), before=("20:1",))
RELEASED = Scope(("20:1",), Budget(release=1))
BOTH = Scope(("21:1",), Budget(), before=("20:1",))
CLOSED = Scope(("20:1", "20:2:P"), Budget(faults=1, stop=1), opens=100)

# Each scope with its least number of states: fewer states mean that a fault is no longer explored.
SMALL = [
    pytest.param(ONE._replace(left=ANY._replace(faults=2)), 40_000, id="one trigger, any two faults"),
    pytest.param(Scope(("20:1",), Budget(faults=1, lost=1, copy=1, bypass=1, refused=2)), 1_000, id="past the gate"),
    pytest.param(TWO, 6_000, id="two triggers of a pair"),
    pytest.param(BOTH._replace(rings=(1,), endings=ANSWERED), 1_000, id="two mediations"),
    pytest.param(CLOSED._replace(left=Budget()), 1_000, id="outside calling hours"),
]
LARGE = [
    pytest.param(
        Scope(("20:1",), ANY._replace(faults=2, silent=1, refused=1, release=1)), 700_000, id="one trigger, more faults"
    ),
    pytest.param(
        Scope(("20:1", "20:2"), Budget(faults=1, crash=1, stop=1, lost=1)), 120_000, id="two triggers, any ending"
    ),
    pytest.param(Scope(("20:1", "20:2"), ANY, rings=(1,)), 80_000, id="two triggers, any fault"),
    pytest.param(Scope(("20:1", "21:1"), Budget(), rings=(1,)), 30_000, id="two mediations, any ending"),
]


@pytest.fixture(autouse=True)
def quietly() -> Iterator[None]:
    """Disable logging and stop the clock."""
    logging.disable(logging.CRITICAL)
    with virtual_time():
        yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(("scope", "least"), SMALL + (LARGE if os.environ.get("SOAK_STEPS") else []))
def test_no_interleaving_breaks_a_rule(
    scope: Scope, least: int, record_property: Callable[[str, object], None]
) -> None:
    """S4 S5 S14 S16 S17 S18 S27 S28: the rules are in tests/faults/exhaustive/rules.py."""
    found = search(scope)
    for name in ("states", "transitions", "steps", "seconds"):
        record_property(name, getattr(found, name))
    assert not found.broken, "\n".join([*found.trace, found.broken])
    assert found.states >= least


@pytest.mark.parametrize("scope", [ONE._replace(left=Budget(faults=1, crash=1, lost=1)), AGAIN])
def test_details_omitted_from_snapshots_change_no_state(scope: Scope) -> None:
    """With every field as in Redis, the search reaches the same states, except for the omitted fields."""
    reached = []
    for is_plain in (True, False):
        exploration = Exploration(scope, plain=is_plain)
        exploration.visit_all()
        reached.append({_outline(state) for state in exploration.states})
    assert reached[0] == reached[1]


def _outline(state: State) -> tuple[Any, ...]:
    """Return a state without omitted and rounded fields."""
    entries = [plain(entry, KEYS)[:2] for entry in state.store.entries]
    store = frozenset((name, _without_rounded(value)) for name, value in entries)
    processes = sorted(
        (str(one), len(one.past), one.next.name) for one in state.processes if not isinstance(one.next, Ended)
    )
    return store, tuple(processes), *state[3:]


def _without_rounded(value: Any) -> Any:
    return value if isinstance(value, str) else tuple(item for item in value[1] if item[0] != "last_failure_at")


# each broken script is found ---------------------------------------------------------------------------------------

Break = Callable[[pytest.MonkeyPatch], None]


def change(module: ModuleType, script: str, old: str, new: str = "") -> Break:
    """Change a fragment of a script; the fragment must occur exactly once."""

    def apply(monkeypatch: pytest.MonkeyPatch) -> None:
        source = getattr(module, script)
        assert source.count(old) == 1, old
        monkeypatch.setattr(module, script, source.replace(old, new))

    return apply


HANDLED = "if handled and not (phase == 'sending' and state[2] == task_id) then"
TAKEN = "if lock_token or (phase and phase ~= 'done') or redis.call('SCARD', live) > 0 then return skip() end"
SENDING_IS_OVER = "if t <= s.sending_at + SENDING_LIMIT then later(s.sending_at + SENDING_LIMIT) return {'none'} end"

BROKEN = [
    pytest.param(
        both(
            change(claims, "CLAIM", HANDLED, "if false then"),
            change(claims, "CLAIM", "redis.call('ZSCORE', PREFIX .. ':dialled', task_id)", "false"),
        ),
        ONE,
        "S17: a second request|S18: a handled task expires",
        id="CLAIM handles a task twice",
    ),
    pytest.param(
        unguarded(change(claims, "CLAIM", TAKEN, "redis.call('DEL', lock)")),
        TWO,
        "S5: .* is called",
        id="CLAIM takes a held pair",
    ),
    pytest.param(
        change(claims, "CLAIM", "if last[1] then redis.call('HSET', ledger, 'last_failure', last[1]) end"),
        TWO,
        "S5: .* is called",
        id="CLAIM without the last failure",
    ),
    pytest.param(
        change(claims, "RENEW", "if redis.call('GET', lock) ~= token or state[1] ~= token then return 0 end"),
        ONE,
        "S18: renew of another owner",
        id="RENEW under any token",
    ),
    pytest.param(
        change(claims, "BEGIN_SENDING", "redis.call('GET', lock) == token and state[1] == token", "true"),
        ONE,
        "S18: begin_sending of another owner",
        id="BEGIN_SENDING under any token",
    ),
    pytest.param(
        change(claims, "BEGIN_SENDING", "if redis.call('SCARD', live) > 0 then return 'watched' end"),
        Scope(TWO.triggers, Budget(faults=1, stop=1, release=1, hidden=2), rings=(1,), endings=ANSWERED),
        "S18: a request may leave",
        id="BEGIN_SENDING beside a watched call",
    ),
    pytest.param(
        change(settlements, "SETTLE", "local ours = state[1] == token or", "local ours = true or"),
        LATE,
        "S18: settle of another owner",
        id="SETTLE under any token",
    ),
    pytest.param(
        change(settlements, "SETTLE", "if not ours and #new.jobs == 0 then", "if not ours then"),
        LATE,
        "S18: an answer's call has no record",
        id="SETTLE without a late answer's calls",
    ),
    pytest.param(
        both(
            unguarded(
                change(
                    settlements, "SETTLE", "if stored and not unsettled then", "if stored and phase ~= 'unknown' then"
                ),
            ),
            change(lookups, "ADOPT", " or found_before"),
        ),
        ONE,
        "S14: reported as not found",
        id="SETTLE an unknown outcome twice",
    ),
    pytest.param(
        change(settlements, "DEFER", "redis.call('GET', lock) ~= token or state[1] ~= token", "false"),
        CLOSED,
        "S18: defer of another owner",
        id="DEFER under any token",
    ),
    pytest.param(
        change(settlements, "DEFER", "redis.call('DEL', lock, ", "redis.call('DEL', "),
        CLOSED,
        "S4: .* waits and is locked",
        id="DEFER with the lock",
    ),
    pytest.param(
        change(sweeps, "ATTEND", SENDING_IS_OVER, "release_pair(member, s.token, t) if t then return {'none'} end"),
        ONE,
        "S14: a call was never watched",
        id="ATTEND releases a pair that may ring",
    ),
    pytest.param(
        change(sweeps, "ATTEND", "if not answered and t < s.lookup_from + UNANSWERED_FOR then", "if false then"),
        ONE,
        "S14: a call was never watched",
        id="ATTEND closes an unanswered window",
    ),
    pytest.param(
        change(lookups, "ADOPT", "s[1] ~= token or not s[2] or s[4]", "not s[1]"),
        RELEASED,
        "S5: .* is done and held",
        id="ADOPT for a closed look-up",
    ),
    pytest.param(
        change(lookups, "ADOPT", "if other ~= member and o[1] == 'sending' then return false end"),
        BOTH,
        "S14: adopted for another mediation",
        id="ADOPT beside another request",
    ),
    pytest.param(
        change(lookups, "ADOPT", "      redis.call('SADD', PREFIX .. ':live:' .. member, job.job_id)\n"),
        BOTH,
        "S5: .* does not hold",
        id="ADOPT without holding the pair",
    ),
    pytest.param(
        change(lookups, "RELEASE", "if s[1] ~= 'unknown' then return s[1] end"),
        RELEASED,
        "S14: a person has released",
        id="RELEASE any phase",
    ),
    pytest.param(
        change(
            base, "PRELUDE", "if redis.call('SCARD', live) == 0 then\n    release_pair", "if t then\n    release_pair"
        ),
        RELEASED,
        "S5: .* is done and held",
        id="RELEASE a pair with a watched call",
    ),
    pytest.param(
        change(polls, "FINISH_POLL", " and state[2] == 'watching' and not state[3]"),
        ONE,
        "S5: .* is released while it is looked up",
        id="FINISH_POLL releases while a look-up is open",
    ),
    pytest.param(
        change(polls, "FINISH_POLL", "remember_failure(ledger, p.verdict, t, state[4] or state[5] or stamp(t))"),
        TWO,
        "S5: .* is called",
        id="FINISH_POLL without the last failure",
    ),
]


@pytest.mark.parametrize(("apply", "scope", "message"), BROKEN)
def test_broken_script_is_found(monkeypatch: pytest.MonkeyPatch, apply: Break, scope: Scope, message: str) -> None:
    """The search fails with a broken script, so its success shows that the scripts keep the rules."""
    apply(monkeypatch)
    found = search(scope)
    assert re.search(message, found.broken), found

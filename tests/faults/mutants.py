"""Break rules on purpose, each with the pattern of the message and the seed by which the simulation finds it."""

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from worker.core.decision import Finish, Next, Policy, Poll, decide
from worker.flows import dial, lookup, poll
from worker.store import base, claims, dispatches, polls, settlements, sweeps

Break = Callable[[pytest.MonkeyPatch], None]


def without(module: ModuleType, script: str, *changes: tuple[str, str]) -> Break:
    """Change fragments of a script, each of which must occur exactly once."""

    def apply(monkeypatch: pytest.MonkeyPatch) -> None:
        source = getattr(module, script)
        for old, new in changes:
            assert source.count(old) == 1, old
            source = source.replace(old, new)
        monkeypatch.setattr(module, script, source)

    return apply


def both(*breaks: Break) -> Break:
    """Apply several breaks: each of them alone would still prevent the fault."""

    def apply(monkeypatch: pytest.MonkeyPatch) -> None:
        for one in breaks:
            one(monkeypatch)

    return apply


def unguarded(change: Break) -> Break:
    """Break a script, and let the phase guard accept the transitions that it would refuse."""
    guard = "if not after then error('illegal transition: ' .. event .. ' in phase ' .. (before or 'absent')) end"
    target = "for key, value in pairs(TRANSITIONS) do if string.match(key, '^%a+') == event then after = value end end"
    return both(without(base, "PRELUDE", (guard, target)), change)


def instead(where: object, name: str, what: object) -> Break:
    """Replace a function or a figure."""
    return lambda monkeypatch: monkeypatch.setattr(where, name, what)


def lost_at_the_eleventh(answer: Any, poll: Poll, policy: Policy, **times: float) -> Next | Finish:
    return decide(answer, poll, replace(policy, max_retry_count=policy.max_retry_count + 1), **times)


def either_answers(*args: Any, **query: Any) -> lookup.CaseAnswers:
    """Accept one answer for both queries before a call, but not in a look-up, which renews no claim."""
    seen = _QUERY_CASE(*args, **query)
    if "renew_claim" in query:
        seen.log_read = seen.status_answered = seen.log_read or seen.status_answered
    return seen


_QUERY_CASE = lookup.query_case


BROKEN = [
    pytest.param(
        without(claims, "BEGIN_SENDING", ("redis.call('GET', lock) == token and state[1] == token", "true")),
        "may call .* which is another's",
        1,
        id="S18 sending under any token",
    ),
    pytest.param(
        without(settlements, "SETTLE", ("local ours = state[1] == token or", "local ours = true or")),
        "settled .* which is another's",
        10,
        id="S18 settling under any token",
    ),
    pytest.param(
        unguarded(
            without(
                claims,
                "CLAIM",
                ("if lock_token or (phase and phase ~= 'done') or redis.call('SCARD', live) > 0", "if false"),
                ("if not redis.call('SET', lock, token, 'NX', 'PX', LOCK_TTL) then return {'copy'} end", ""),
            ),
        ),
        "called again|may call|no outcome",
        4,
        id="S4 a lock that any trigger takes",
    ),
    pytest.param(
        without(polls, "CONTINUE_POLL", (" or tonumber(r[1]) ~= p.poll_no", "")),
        "wrote .* under",
        0,
        id="S28 no fence at the end of a poll",
    ),
    pytest.param(
        without(polls, "BEGIN_POLLS", ("if tonumber(r[1]) ~= tonumber(poll_no) then return drop('fenced') end", "")),
        "passed the fence",
        5,
        id="S28 no fence at the start of a poll",
    ),
    pytest.param(
        without(
            dispatches,
            "TAKE_DUE",
            (
                "    taken[#taken + 1] = {id, r[1],",
                "    taken[#taken + 1] = {id, redis.call('HINCRBY', job, 'poll_no', 1),",
            ),
        ),
        "taken with a number|moved .* on by",
        0,
        id="S28 taken with a new number",
    ),
    pytest.param(
        without(
            polls,
            "FINISH_POLL",
            ("if not r[1] or r[2] then return false end", "if not r[1] then return false end"),
        ),
        "put .* over",
        3,
        id="S27 a verdict overwrites a verdict",
    ),
    pytest.param(
        without(polls, "FINISH_POLL", (" and state[2] == 'watching' and not state[3]", "")),
        "released before",
        9,
        id="S5 released while a look-up is open",
    ),
    pytest.param(
        instead(lookup, "may_belong_to", lambda _job_id, _sending_at: True),
        "adopted for a request",
        0,
        id="S14 calls of any age are adopted",
    ),
    pytest.param(
        instead(poll, "decide", lost_at_the_eleventh),
        "watched on after 10 failures",
        2,
        id="S24 lost at the eleventh failure",
    ),
    # Faults that took days, slow connections or a failing endpoint to find: each fix is undone.
    pytest.param(
        both(
            without(
                claims,
                "BEGIN_SENDING",
                (
                    "':task:' .. state[3], unknown)",
                    "':task:' .. state[3], unknown, 'PX', TASK_TTL) redis.call('PEXPIRE', ledger, JOB_TTL)",
                ),
            ),
            without(
                claims,
                "CLAIM",
                ("not phase and redis.call('ZSCORE', pairs_key, member)", "false"),
                ("redis.call('ZSCORE', PREFIX .. ':dialled', task_id)", "false"),
            ),
        ),
        "a second request",
        8,
        id="S18 an open pair is forgotten",
    ),
    pytest.param(
        instead(lookup, "query_case", either_answers),
        "called again: .* is under way, and .* has read",
        3,
        id="S5 one answer counts for both queries",
    ),
    pytest.param(
        without(
            claims,
            "BEGIN_SENDING",
            (
                "redis.call('HDEL', ledger, 'rate_slot',",
                "redis.call('HDEL', ledger, 'last_failure', 'last_failure_at', 'last_failure_since', 'rate_slot',",
            ),
        ),
        "called again: .* is under way, and .* has read",
        62,
        id="S5 a request makes the pair forget an earlier one",
    ),
    pytest.param(
        instead(dial, "DIAL_LIMIT", 300),
        "which is at work|has been connecting",
        0,
        id="S18 attempts without a bound",
    ),
    pytest.param(
        without(
            sweeps,
            "ATTEND",
            (
                "if not answered and t < s.lookup_from + UNANSWERED_FOR then",
                "if false then",
            ),
        ),
        "closed after .* without an answer",
        1,
        id="S14 a window closes unanswered",
    ),
    pytest.param(
        without(polls, "DETECT_OUTAGE", (" or redis.call('ZCARD', PREFIX .. ':due') < OUTAGE_CALLS", "")),
        "polled within an outage",
        2,
        id="S29 an outage without calls",
    ),
    pytest.param(
        both(
            without(
                polls,
                "FINISH_POLL",
                ("age_case(r[5])", "redis.call('PEXPIRE', job, HISTORY_TTL)"),
            ),
            without(
                base,
                "PRELUDE",
                ("do keep(PREFIX .. ':job:' .. id, JOB_TTL) end", "do end"),
                ("do redis.call('PERSIST', PREFIX .. ':job:' .. id) end", "do end"),
            ),
            instead(lookup, "read_status", lambda _: "running"),
        ),
        "watched again",
        2,
        id="S27 an ended call is forgotten too soon",
    ),
    pytest.param(
        instead(poll, "may_query", lambda one, *_, **__: one.due < one.deadline),
        "expired without one query",
        0,
        id="S25 a late poll makes no query",
    ),
]

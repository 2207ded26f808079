"""Drawn faults on the real store and flows: nobody is rung twice, nobody is lost sight of, all comes to an end.

`SOAK_STEPS=1000000` in the environment makes it a soak of about that many steps, other ones in each run.
"""

import logging
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import fakeredis
import hypothesis
import pytest
import redis
from hypothesis import strategies as st

from tests.fakes import virtual_time
from tests.faults import simulation
from tests.faults.script import DRAWN, Step, play, reduce
from tests.faults.simulation import Machine
from tests.faults.tasks import SETTINGS
from worker import lookup, poll
from worker.decision import Finish, Next, Policy, Poll, decide
from worker.store import dispatch_steps, poll_steps, settle_steps, trigger_steps

SOAK = int(os.environ.get("SOAK_STEPS", "0"))
LEAST = 14_000  # steps in every run of the tests, and half as many again under limits
EXAMPLES = (SOAK or 15_750) // 500  # by the steps of an example on average


def script_of(chance: random.Random) -> tuple[list[Step], float]:
    """Return a script and the skew to play it with, all of it evenly drawn: small numbers are no simpler here."""
    length = chance.randint(40, 80)
    script = [(chance.choice(DRAWN), chance.randrange(64), chance.randrange(2**14)) for _ in range(length)]
    return script, chance.choice((0, -50, 5))


SCRIPTS = st.integers(0, 2**64 - 1).map(random.Random).map(script_of)


@pytest.fixture(autouse=True)
def quietly() -> Iterator[None]:
    """Thousands of calls that go wrong have nothing to say."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def client() -> Iterator[redis.Redis]:
    with fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=True) as client:
        yield client


def run(client: redis.Redis, script: list[Step], skew: float) -> tuple[Machine, BaseException | None]:
    """Play a script on a new machine; returns the machine, and what went wrong."""
    client.flushall()
    with virtual_time() as traveller:
        machine = Machine(traveller, client, skew=skew)
        try:
            play(machine, script)
        except Exception as error:  # noqa: BLE001 - to be looked at from several sides
            return machine, error
        return machine, None


def search(client: redis.Redis, told: str = "", *, examples: int = EXAMPLES) -> Counter[str]:
    """Run drawn scripts and return what happened in all of them together; Broken where an invariant broke as `told`."""
    total: Counter[str] = Counter()

    @hypothesis.settings(
        max_examples=examples, derandomize=not SOAK, deadline=None, database=None, phases=[hypothesis.Phase.generate]
    )
    @hypothesis.given(SCRIPTS)
    def draw(drawn: tuple[list[Step], float]) -> None:
        script, skew = drawn
        machine, error = run(client, script, skew)
        total.update(machine.counts, steps=machine.steps)
        if error is not None and re.search(told, str(error)):
            raise Broken(script, skew) from error

    draw()
    return total


class Broken(Exception):  # noqa: N818 - named for what it is
    """An invariant broke."""

    def __init__(self, script: list[Step], skew: float) -> None:
        super().__init__(script, skew)
        self.script, self.skew = script, skew


def explained(client: redis.Redis, broken: Broken) -> str:
    """Return the shortest script that was found to break the same invariant, and its trace."""
    where = _where(broken.__cause__)
    script = reduce(broken.script, lambda shorter: _where(run(client, shorter, broken.skew)[1]) == where)
    machine, error = run(client, script, broken.skew)
    return "\n".join([*machine.trace, f"{script} {broken.skew}", repr(error)])


def _where(error: BaseException | None) -> object:
    """The line at which an invariant broke."""
    place = error.__traceback__ if error else None
    while place and place.tb_next:
        place = place.tb_next
    return place and (place.tb_frame.f_code, place.tb_lineno)


def test_whatever_goes_wrong(client: redis.Redis, record_property: Callable[[str, object], None]) -> None:
    """S4 S5 S14 S17 S18 S20 S24 S25 S27 S28: see the invariants; and enough has happened for them to mean something."""
    try:
        total = search(client)
    except Broken as broken:
        pytest.fail(explained(client, broken), pytrace=False)
    record_property("steps", total["steps"])
    assert total["steps"] >= LEAST
    faults = {name: total[name] for name in ("stop", "die", "die after", "fail", "fail after", "twice")}
    assert min(faults.values()) >= 10, faults
    ends = {name: total[name] for name in ("requests", "started", "unknown", "ended", "expired", "lost", "skipped")}
    assert min(ends.values()) >= 10, ends
    rescues = {name: total[name] for name in ("reissued", "begun again", "adopted", "copy", "dropped")}
    assert min(rescues.values()) >= 10, rescues
    rare = {name: total[name] for name in ("fenced at the end", "taken", "not settled", "watched again")}
    assert min(rare.values()) >= 1, rare


def test_whatever_goes_wrong_under_limits(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """S4 S17 S28: the same where queries and requests are limited, so that polls wait and triggers are deferred."""
    limited = SETTINGS.model_copy(update={"status_rate": 1.0, "dial_rate": 0.1})
    monkeypatch.setattr(simulation, "SETTINGS", limited)
    try:
        total = search(client, examples=EXAMPLES // 2)
    except Broken as broken:
        pytest.fail(explained(client, broken), pytrace=False)
    assert total["steps"] >= LEAST // 2
    assert min(total[name] for name in ("deferred", "started", "ended", "reissued", "adopted")) >= 10, total


def test_an_answer_that_comes_when_another_has_the_pair_opens_no_look_up(client: redis.Redis) -> None:
    """S14: it lacks a job id, and its calls were looked for before the pair was let go. Found by a million steps."""
    traps: list[Step] = [("trap", 7, 15_987), ("trap", 56, 6_780)]
    triggers: list[Step] = [("trigger", 11, 6_057), ("trigger", 1, 12_094), ("trigger", 37, 13_692)]
    machine, error = run(client, [*traps, triggers[0], ("sweep", 0, 12_979), *triggers[1:], ("go", 46, 7_414)], -50)
    assert error is None
    assert machine.counts["adopted"] >= 3


# -- each rule that is broken on purpose is found ----------------------------------------------------------------------

Break = Callable[[pytest.MonkeyPatch], None]


def without(module: ModuleType, script: str, *changes: tuple[str, str]) -> Break:
    """Change fragments of a step's Lua, each of which must be there."""

    def apply(monkeypatch: pytest.MonkeyPatch) -> None:
        source = getattr(module, script)
        for old, new in changes:
            assert source.count(old) == 1, old
            source = source.replace(old, new)
        monkeypatch.setattr(module, script, source)

    return apply


def adopt_any_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "may_be_ours", lambda _job_id, _sending_at: True)


def lose_at_the_eleventh(monkeypatch: pytest.MonkeyPatch) -> None:
    def later(answer: Any, poll: Poll, policy: Policy, **times: float) -> Next | Finish:
        return decide(answer, poll, replace(policy, max_retry_count=policy.max_retry_count + 1), **times)

    monkeypatch.setattr(poll, "decide", later)


BROKEN = [
    pytest.param(
        without(trigger_steps, "BEGIN_SENDING", ("redis.call('GET', lock) == token and state[1] == token", "true")),
        "may call .* which is another's",
        id="S18 sending under any token",
    ),
    pytest.param(
        without(settle_steps, "SETTLE", ("local ours = state[1] == token or", "local ours = true or")),
        "settled .* which is another's",
        id="S18 settling under any token",
    ),
    pytest.param(
        without(
            trigger_steps,
            "CLAIM",
            (
                "if holder or (phase and phase ~= 'done') or redis.call('SCARD', live) > 0 then return skip() end",
                "",
            ),
            ("if not redis.call('SET', lock, token, 'NX', 'PX', LOCK_TTL) then return {'copy'} end", ""),
        ),
        "called again|may call|no outcome",
        id="S4 a lock that anybody takes",
    ),
    pytest.param(
        without(poll_steps, "CONTINUE_POLL", (" or tonumber(r[1]) ~= p.poll_no", "")),
        "wrote .* under",
        id="S28 no fence at the end of a poll",
    ),
    pytest.param(
        without(
            poll_steps, "BEGIN_POLLS", ("if tonumber(r[1]) ~= tonumber(poll_no) then return drop('fenced') end", "")
        ),
        "passed the fence",
        id="S28 no fence at the start of a poll",
    ),
    pytest.param(
        without(
            dispatch_steps,
            "TAKE_DUE",
            (
                "    taken[#taken + 1] = {id, r[1],",
                "    taken[#taken + 1] = {id, redis.call('HINCRBY', job, 'poll_no', 1),",
            ),
        ),
        "taken with a number|moved .* on by",
        id="S28 taken with a new number",
    ),
    pytest.param(
        without(
            poll_steps,
            "FINISH_POLL",
            ("if not r[1] or r[2] then return false end", "if not r[1] then return false end"),
        ),
        "put .* over",
        id="S27 a verdict over a verdict",
    ),
    pytest.param(
        without(poll_steps, "FINISH_POLL", (" and state[2] == 'watching' and not state[3]", "")),
        "let go before",
        id="S5 let go while a look-up is open",
    ),
    pytest.param(adopt_any_age, "adopted for a request", id="S14 calls of any age adopted"),
    pytest.param(lose_at_the_eleventh, "watched on after 10 failures", id="S24 lost at the eleventh failure"),
]


@pytest.mark.parametrize(("apply", "told"), BROKEN)
def test_a_broken_rule_is_found(client: redis.Redis, monkeypatch: pytest.MonkeyPatch, apply: Break, told: str) -> None:
    """The simulation fails where a rule is broken, so where it passes the rules are kept."""
    apply(monkeypatch)
    with pytest.raises(Broken):
        search(client, told)

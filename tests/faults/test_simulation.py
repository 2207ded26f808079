"""Inject random faults into the real store and flows: no second ring, no lost call, and every case ends.

`SOAK_STEPS=1000000` in the environment runs about that many steps, different ones each time.
"""

import logging
import os
import random
from collections.abc import Callable, Iterator

import pytest
import redis

from tests.fakeredisserver import fake_redis
from tests.faults import simulation
from tests.faults.endpoints import DENYING
from tests.faults.mutants import BROKEN, Break
from tests.faults.processes import Trap
from tests.faults.reality import FOR_EVER, Plan
from tests.faults.search import Broken, enact, explained, search
from tests.faults.simulation import PAIRS, Machine
from tests.faults.tasks import SETTINGS

SOAK = int(os.environ.get("SOAK_STEPS", "0"))
STEPS = SOAK or 14_000  # plus half as many under limits
FIRST = random.SystemRandom().randrange(2**32) if SOAK else 0  # the seed


@pytest.fixture(autouse=True)
def quietly() -> Iterator[None]:
    """Disable logging: thousands of failing calls would flood it."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def client() -> Iterator[redis.Redis]:
    """One connection: processes run one at a time, and a pool takes longer than most commands."""
    with fake_redis(single_connection_client=True) as client:
        yield client


def test_random_faults_break_no_rule(client: redis.Redis, record_property: Callable[[str, object], None]) -> None:
    """S4 S5 S14 S17 S18 S20 S24 S25 S27 S28 S29: the run also contains enough events of each kind."""
    try:
        total = search(client, steps=STEPS, first=FIRST)
    except Broken as broken:
        pytest.fail(explained(client, broken), pytrace=False)
    record_property("steps", total["steps"])
    faults = {name: total[name] for name in ("stop", "die", "die after", "fail", "fail after", "twice")}
    assert min(faults.values()) >= 5, faults
    ends = {name: total[name] for name in ("requests", "started", "unknown", "ended", "expired", "lost", "skipped")}
    assert min(ends.values()) >= 10, ends
    rescues = {name: total[name] for name in ("reissued", "begun again", "adopted", "copy", "dropped")}
    assert min(rescues.values()) >= 5, rescues
    rare = {name: total[name] for name in ("fenced at the end", "taken", "not settled", "watched again")}
    assert min(rare.values()) >= 1, rare
    days = {name: total[name] for name in ("out of memory", "never answered", "outage_began", "outage_ended")}
    assert min(days.values()) >= 1, days


def test_random_faults_break_no_rule_under_limits(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """S4 S17 S28: with limited queries and requests, polls wait and triggers are deferred."""
    limited = SETTINGS.model_copy(update={"status_rate": 1.0, "dial_rate": 0.1})
    monkeypatch.setattr(simulation, "SETTINGS", limited)
    try:
        total = search(client, steps=STEPS // 2, first=FIRST)
    except Broken as broken:
        pytest.fail(explained(client, broken), pytrace=False)
    assert min(total[name] for name in ("deferred", "started", "ended", "reissued", "adopted")) >= 5, total


def test_late_answer_for_a_pair_with_another_owner_opens_no_look_up(client: redis.Redis) -> None:
    """S14: it lacks a job id, and its calls were looked for before the release. Found by a million steps."""

    def scene(machine: Machine) -> None:
        machine.traps += [Trap("trigger", 1, "die", 6), Trap("trigger", 0, "die after", 7)]
        machine.trigger(PAIRS[3], Plan("all refused", life=5, visible=3, gap=5.0))
        machine.sweep("A")
        machine.trigger(PAIRS[1], Plan("rejected", 3, mute=3, visible=1, gap=5.0))
        machine.trigger(PAIRS[1], Plan("one without a job", 3, life=4, mute=5, gap=5.0))
        machine.go(1)

    machine, error = enact(client, scene, skew=-50)
    assert error is None
    assert machine.counts["adopted"] >= 3


@pytest.mark.parametrize("ending", ["lost before any call", "all refused", "rejected"])
def test_call_that_upstream_shows_late_is_found_after_another_request(client: redis.Redis, ending: str) -> None:
    """S5 S14: upstream denies the call of a lost answer until the pair's next request has made none."""

    def scene(machine: Machine) -> None:
        machine.endpoints.disturb(DENYING, machine.now + 300)
        machine.trigger(PAIRS[0], Plan("lost at once", life=FOR_EVER, visible=4))
        machine.go(200)
        machine.trigger(PAIRS[0], Plan(ending))
        machine.go(200)
        machine.trigger(PAIRS[0], Plan())
        machine.go(5)

    machine, error = enact(client, scene)
    assert error is None
    assert (machine.counts["requests"], machine.counts["denied"], machine.counts["skipped"]) == (2, 1, 1)


@pytest.mark.parametrize(("apply", "pattern", "first"), BROKEN)
def test_broken_rule_is_found(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch, apply: Break, pattern: str, first: int
) -> None:
    """The simulation fails where a rule is broken, so its success shows that the rules are kept."""
    apply(monkeypatch)
    with pytest.raises(Broken):
        search(client, pattern, steps=2 * STEPS, first=first)

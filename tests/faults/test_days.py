"""Replay scenes of hours and days that the simulation has found, each reduced to its necessary steps."""

import logging
from collections.abc import Iterator

import pytest
import redis

from tests.fakeredisserver import fake_redis
from tests.fakes import START
from tests.faults.endpoints import STRAYING
from tests.faults.processes import Trap
from tests.faults.reality import Plan
from tests.faults.search import enact
from tests.faults.simulation import PAIRS, Machine
from worker.core.model import Pair

OTHER, PAIR = PAIRS[:2]  # two mediations of one case
UNENDING, BRIEF = 7, 1  # lives: paused for more than a day, and over after 4 s
UNSHOWN = 4  # never in the conversation log
LATE = 97_200  # seconds: 27 hours, after which records of a day have expired


@pytest.fixture
def client() -> Iterator[redis.Redis]:
    logging.disable(logging.CRITICAL)
    with fake_redis(single_connection_client=True) as client:
        yield client
    logging.disable(logging.NOTSET)


def test_failure_is_remembered_for_each_pair_that_the_call_holds(client: redis.Redis) -> None:
    """S5: a call that holds two pairs is watched again for one of them; the other pair's ledger has expired."""

    def scene(machine: Machine) -> None:
        machine.trigger(PAIR, Plan("lost at once", life=UNENDING))
        machine.trigger(OTHER, Plan("lost before any call"))
        machine.go(200)  # the call is adopted for both, and expires
        machine.jump(START + 86_300 - machine.now)
        machine.trigger(OTHER, Plan())  # queries upstream, and watches it again
        machine.go(180)  # it expires once more
        machine.jump(120)
        machine.trigger(PAIR, Plan())  # its failure is three minutes old
        machine.go(5)

    _, error = enact(client, scene)
    assert error is None


def test_reopened_call_is_known_to_the_next_look_up(client: redis.Redis) -> None:
    """S5: the list of the case's calls expires a day after the first watch, during the second one."""

    def scene(machine: Machine) -> None:
        machine.trigger(PAIR, Plan("lost at once", life=UNENDING, visible=UNSHOWN))
        machine.go(200)  # adopted by its status, and expired
        machine.trigger(PAIR, Plan())
        machine.go(1)  # watched again
        machine.blackout()
        machine.jump(LATE)
        machine.go(20)  # expired once more
        machine.endpoints.disturb(STRAYING, machine.now + 900)
        machine.trigger(PAIR, Plan())  # neither log nor status by case name it; its record does
        machine.go(5)

    _, error = enact(client, scene)
    assert error is None


@pytest.mark.parametrize(
    ("pair", "after"),
    [
        pytest.param(OTHER, 1, id="of another mediation, meanwhile"),
        pytest.param(OTHER, 30, id="of another mediation, before"),
        pytest.param(PAIR, 30, id="of the pair, before"),
    ],
)
def test_look_up_does_not_adopt_a_call_whose_end_was_forgotten(client: redis.Redis, pair: Pair, after: float) -> None:
    """S14 S27: a sender dies; a call of its case has ended, which its look-up a day later must not adopt."""

    def scene(machine: Machine) -> None:
        machine.trigger(PAIR, Plan(life=BRIEF))
        machine.go(after)
        machine.traps.append(Trap("trigger", 6, "die", 0))  # its answer is lost
        machine.trigger(pair, Plan("all refused"))
        machine.go(30)
        machine.blackout()
        machine.jump(LATE)

    _, error = enact(client, scene)
    assert error is None


def test_handled_trigger_is_not_dialled_again_after_a_long_outage(client: redis.Redis) -> None:
    """S18: a worker stores the answer and dies before its acknowledgement; the call ends; then 27 h of standstill."""

    def scene(machine: Machine) -> None:
        machine.traps.append(Trap("trigger", 7, "die after", 0))
        machine.trigger(PAIR, Plan(life=BRIEF))
        machine.go(45)
        machine.blackout()
        machine.jump(LATE)

    machine, error = enact(client, scene)
    assert error is None
    assert machine.counts["requests"] == 1

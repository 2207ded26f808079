"""Scenes of hours and days that the simulation has found: each is the least that breaks the rule."""

import logging
from collections.abc import Iterator

import fakeredis
import pytest
import redis

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
LATE = 97_200  # seconds: 27 hours, in which every memory of a day ends


@pytest.fixture
def client() -> Iterator[redis.Redis]:
    logging.disable(logging.CRITICAL)
    server = fakeredis.FakeServer()
    with fakeredis.FakeRedis(server=server, decode_responses=True, single_connection_client=True) as client:
        yield client
    logging.disable(logging.NOTSET)


def test_a_bad_end_is_remembered_for_each_pair_that_the_call_holds(client: redis.Redis) -> None:
    """S5: a call that holds two pairs is watched again for one of them; the other one's ledger has gone meanwhile."""

    def scene(machine: Machine) -> None:
        machine.trigger(PAIR, Plan("lost at once", life=UNENDING))
        machine.trigger(OTHER, Plan("lost before any call"))
        machine.go(200)  # the call is adopted for both, and expires
        machine.jump(START + 86_300 - machine.now)
        machine.trigger(OTHER, Plan())  # looks, and watches it again
        machine.go(180)  # it expires once more
        machine.jump(120)
        machine.trigger(PAIR, Plan())  # its bad end is three minutes ago
        machine.go(5)

    _, error = enact(client, scene)
    assert error is None


def test_a_call_that_is_watched_again_is_known_to_the_next_look(client: redis.Redis) -> None:
    """S5: the list of the case's calls ends a day after the first watch, in the midst of the second one."""

    def scene(machine: Machine) -> None:
        machine.trigger(PAIR, Plan("lost at once", life=UNENDING, visible=UNSHOWN))
        machine.go(200)  # adopted by its status, and expired
        machine.trigger(PAIR, Plan())
        machine.go(1)  # watched again
        machine.blackout()
        machine.jump(LATE)
        machine.go(20)  # expired once more
        machine.endpoints.disturb(STRAYING, machine.now + 900)
        machine.trigger(PAIR, Plan())  # neither log nor status by case name it: its record does
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
def test_a_look_up_adopts_no_call_whose_end_was_forgotten(client: redis.Redis, pair: Pair, after: float) -> None:
    """S14 S27: a sender dies while a call of its case has ended; a day later its look-up takes that one for its own."""

    def scene(machine: Machine) -> None:
        machine.trigger(PAIR, Plan(life=BRIEF))
        machine.go(after)
        machine.traps.append(Trap("trigger", 6, "die", 0))  # its answer never comes
        machine.trigger(pair, Plan("all refused"))
        machine.go(30)
        machine.blackout()
        machine.jump(LATE)

    _, error = enact(client, scene)
    assert error is None


def test_a_system_that_was_down_never_dials_a_handled_trigger_again(client: redis.Redis) -> None:
    """S18: a worker stores the answer and dies before its message is acknowledged; the call ends; 27 h of nothing."""

    def scene(machine: Machine) -> None:
        machine.traps.append(Trap("trigger", 7, "die after", 0))
        machine.trigger(PAIR, Plan(life=BRIEF))
        machine.go(45)
        machine.blackout()
        machine.jump(LATE)

    machine, error = enact(client, scene)
    assert error is None
    assert machine.counts["requests"] == 1

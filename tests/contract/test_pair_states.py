"""Test that a pair is read with the begin and the end of its phase, and with the state of its look-up."""

import pytest
import redis

from tests.pairs import PAIR, bring_to
from worker.core.model import Event, Pair, PairState
from worker.core.trigger_model import NewJob
from worker.store import RedisStore
from worker.store.keys import member


def read(store: RedisStore) -> PairState:
    (state,) = store.pairs(finished=True)
    return state


def moment(store: RedisStore, client: redis.Redis, name: str) -> float:
    return float(str(client.hget(store.keys.ledger(PAIR), name)))


@pytest.mark.parametrize("phase", ["claimed", "sending", "watching", "unknown", "refused"])
def test_a_phase_has_its_begin(store: RedisStore, client: redis.Redis, phase: str) -> None:
    bring_to(store, phase)
    state = read(store)
    assert state.phase == {"refused": "done"}.get(phase, phase)
    assert state.since == moment(store, client, f"{state.phase}_at")


def test_s18_a_request_becomes_unknown_after_its_limit(store: RedisStore, client: redis.Redis) -> None:
    bring_to(store, "sending")
    assert read(store).until == moment(store, client, "sending_at") + 108


@pytest.mark.parametrize("phase", ["claimed", "watching", "refused"])
def test_a_phase_that_another_event_ends_has_no_end(store: RedisStore, phase: str) -> None:
    bring_to(store, phase)
    assert (read(store).until, read(store).looking) == (None, False)


def test_a_deferred_trigger_has_the_time_at_which_it_continues(store: RedisStore) -> None:
    bring_to(store, "claimed")
    event = Event("deferred", PAIR.case_id, PAIR.mediation_id, detail={"reason": "calling_hours"})
    until = store.now() + 3_600
    assert store.defer(PAIR, "job-1", until=until, event=event)
    state = read(store)
    assert state.phase == "waiting"
    assert state.until == pytest.approx(until, abs=0.01)
    assert state.since is not None


def test_s14_an_unknown_outcome_has_the_end_of_its_look_up(store: RedisStore, client: redis.Redis) -> None:
    """The first answer starts the window again if it arrives after its end."""
    bring_to(store, "unknown")
    begun = moment(store, client, "lookup_from")
    state = read(store)
    assert (state.looking, state.until, state.found) == (True, begun + 120, 0)
    client.hset(store.keys.ledger(PAIR), "answered_at", begun + 100)
    assert read(store).until == begun + 120
    client.hset(store.keys.ledger(PAIR), "answered_at", begun + 500)
    assert read(store).until == begun + 620


def test_s14_a_held_pair_has_the_end_of_its_hold(store: RedisStore, client: redis.Redis) -> None:
    bring_to(store, "unknown")
    client.hset(store.keys.ledger(PAIR), "held_until", "1234.500")
    state = read(store)
    assert (state.looking, state.until) == (False, 1234.5)


def test_s14_found_calls_are_counted_and_the_watch_after_a_look_up_begins_with_the_request(
    store: RedisStore, client: redis.Redis
) -> None:
    bring_to(store, "unknown")
    look_up = store.open_look_up(PAIR)
    assert look_up
    job = NewJob(f"{round(store.now() * 1000)}-447e-96ea-97523c61189b", "", "Executing", 5)
    assert store.adopt(PAIR, look_up, [job], answered=True)
    assert read(store).found == 1
    sent_at = moment(store, client, "sending_at")
    assert store.release(PAIR, by="me", why="a test") == "released"
    state = read(store)
    assert (state.phase, state.since) == ("watching", sent_at)


def test_pairs_are_sorted_by_the_begin_of_their_phase(store: RedisStore, client: redis.Redis) -> None:
    bring_to(store, "unknown")
    later = Pair("C-2", "20")
    client.hset(store.keys.ledger(later), mapping={"phase": "watching", "watching_at": store.now() + 5})
    client.zadd(store.keys.pairs, {member(later): 0})
    assert [state.pair for state in store.pairs()] == [PAIR, later]

"""Test that a back end's request under a task id is stored once and its state is read in one step (S42)."""

import json
from dataclasses import replace

import pytest
import redis

from tests.pairs import PAIR, bring_to
from worker.store import RedisStore
from worker.store.requests import Request

ASKED = Request("backend", "f" * 64, "C/1", "20", 1_000.0, 4_600.0)


def test_first_request_under_a_task_id_stays(store: RedisStore, client: redis.Redis) -> None:
    """S42: a second request under the same id changes nothing and gets the first one back."""
    assert store.request("h-1") is None
    assert store.remember([("h-1", ASKED)]) == [(ASKED, False)]
    assert store.remember([("h-1", replace(ASKED, fingerprint="e" * 64))]) == [(ASKED, False)]
    assert store.request("h-1") == ASKED
    ttl = (store.terms.task_ttl + 3_600) * 1_000
    assert ttl - 60_000 < client.pttl(store.keys.request("h-1")) <= ttl


def test_many_requests_are_stored_in_one_round_trip_also_on_a_server_that_was_started_anew(
    store: RedisStore, client: redis.Redis
) -> None:
    """S42: of two requests under one id the first stays, within one round trip as well."""
    other, late = replace(ASKED, case_id="C/2"), replace(ASKED, fingerprint="e" * 64)
    client.script_flush()
    found = store.remember([("h-1", ASKED), ("h-2", other), ("h-1", late)])
    assert found == [(ASKED, False), (other, False), (ASKED, False)]
    assert store.remember([]) == []


@pytest.mark.parametrize(
    ("phase", "expected", "outcome"),
    [("claimed", "claimed", None), ("sending", "sending", "unknown"), ("watching", "watching", "started")],
)
def test_request_state_follows_its_pair(store: RedisStore, phase: str, expected: str, outcome: str | None) -> None:
    bring_to(store, phase)
    state = store.trigger_state("task-job-1", PAIR)
    assert state.phase == expected
    assert (state.result or {"outcome": None})["outcome"] == outcome
    assert state.now == pytest.approx(store.now(), abs=60)
    ((_, handled),) = store.remember([("task-job-1", ASKED)])
    assert handled is (outcome is not None)


def test_another_trigger_of_the_pair_does_not_change_the_request_state(store: RedisStore) -> None:
    bring_to(store, "watching")
    state = store.trigger_state("h-1", PAIR)
    assert (state.phase, state.result) == (None, None)


def test_waiting_request_has_the_time_of_its_dial(store: RedisStore, client: redis.Redis) -> None:
    bring_to(store, "claimed")
    client.hset(store.keys.ledger(PAIR), mapping={"phase": "waiting", "until": "12.5"})
    assert store.trigger_state("task-job-1", PAIR).until == 12.5


def test_erased_case_keeps_the_request_without_its_ids(store: RedisStore, client: redis.Redis) -> None:
    """S17, S42: a repetition is still recognised."""
    store.remember([("h-1", ASKED), ("h-2", replace(ASKED, case_id="C/2"))])
    lives = client.pttl(store.keys.request("h-1"))
    store.erase("C/1", anyway=False)
    assert store.request("h-1") == replace(ASKED, case_id="", mediation_id="")
    assert store.request("h-2") == replace(ASKED, case_id="C/2")
    assert 0 < client.pttl(store.keys.request("h-1")) <= lives
    assert "C/1" not in json.dumps(client.get(store.keys.request("h-1")))

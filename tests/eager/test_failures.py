"""Test that the flows remember failed queries and dials with their reasons, for few calls as for many (S29)."""

from api_client import Rejected, Unavailable
from tests.fakes import job_id, record
from tests.world import World


def test_s29_a_refused_token_is_remembered_from_the_first_query_on(world: World) -> None:
    world.upstream.dials = [[record(job_id(1))]]
    world.upstream.life = lambda _job, age: Unavailable("no", reason="http_401") if age < 25 else "Executing"
    world.trigger()
    world.run(22)
    found = world.store.failures("query")
    assert found
    assert (found.number > 1, found.reason, found.answered_at) == (True, "http_401", None)
    world.run(20)
    again = world.store.failures("query")
    assert again
    assert again.answered_at is not None
    assert again.answered_at > again.at


def test_s12_a_refused_token_is_remembered_from_the_first_dial_on(world: World) -> None:
    world.upstream.dials = [Rejected("HTTP 403", reason="http_403"), [record(job_id(1))]]
    assert world.trigger()["outcome"] == "failed"
    found = world.store.failures("dial")
    assert found
    assert (found.number, found.reason, found.answered_at) == (1, "http_403", None)
    assert world.trigger(task_id="task-2")["outcome"] == "started"
    again = world.store.failures("dial")
    assert again
    assert again.answered_at is not None

"""Test the calls in Flower: one line for each change, without a person (S37)."""

from api_client import Unavailable
from tests.eager.scenes import life, start
from tests.fakes import START, job_id
from tests.world import World
from worker.core.messages import shown_polls

JOB = job_id(1)


def test_flower_shows_only_polls_that_change_a_call(world: World) -> None:
    """One line per call, under its job id, with its trigger as the root: the first poll, each change, the end."""
    world.upstream.life = life((0, "Scheduling"), (95, "Executing"), (135, "Succeeded"))
    start(world)
    lines = world.run(3_600)
    assert len(lines) > 10
    assert [(kind, fields["result"]) for kind, fields in world.shown] == [
        ("task-watched", "拨号中 · since poll 1 · failures 0/10"),
        ("task-watched", next(line for line in lines if line.startswith("通话中")).replace("poll", "since poll")),
        ("task-ended", lines[-1]),
    ]
    for _, fields in world.shown:
        assert (fields["uuid"], fields["name"]) == (JOB, "outbound.poll")
        assert (fields["root_id"], fields["parent_id"]) == ("task-1", "task-1")
        assert fields["received"] == START
    assert 135 <= world.shown[-1][1]["runtime"] < 150


def test_flower_shows_every_failure_and_the_verdict(world: World) -> None:
    """S23 S24: operators see the failures count up, and reset with a successful answer."""
    world.upstream.life = lambda _job, age: Unavailable("GET /status: time-out") if age > 15 else "Scheduling"
    start(world)
    world.run(3_600)
    shown = [fields["result"] for _, fields in world.shown]
    assert [line.rpartition(" ")[2] for line in shown[:-1]] == [f"{number}/10" for number in range(10)]
    assert world.shown[-1][0] == "task-lost"


def test_s37_flower_shows_no_person(world: World) -> None:
    """Case, mediation and job are searchable."""
    start(world)
    world.run(60)
    assert "P-0000" not in str(world.shown)
    assert "'case_id': 'C-1', 'mediation_id': '20'" in world.shown[0][1]["kwargs"]
    assert f"'job_id': '{JOB}', 'person_id': '***0'" in world.shown[0][1]["kwargs"]


def test_s37_flower_names_each_call_of_a_shared_message(world: World) -> None:
    """With `CALLWATCH_POLL_EVENTS=all` messages are shown, and their calls are searchable."""
    start(world, JOB, job_id(2))
    polls = world.store.take_due(limit=10).polls
    assert polls == []
    world.clock.sleep(10)
    polls = world.store.take_due(limit=10).polls
    shown = shown_polls(polls)
    assert all(f"'case_id': 'C-1', 'mediation_id': '20', 'job_id': '{job}'" in shown for job in (JOB, job_id(2)))
    assert "P-0000" not in shown
    assert shown_polls(polls[:1]) == repr(polls[0])

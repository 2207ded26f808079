"""Test the unknown outcome of a lost answer: look-up, adoption, hold, release."""

import pytest

from api_client import CallStatus, ConversationLog, Unavailable
from tests.eager.scenes import LOST, entry, lose_the_answer, phase
from tests.fakes import START, job_id, record
from tests.world import World
from worker.core.interfaces import StoreUnavailable
from worker.core.model import Pair

JOB = job_id(1, at=START + 1)


def look_up(case_id: str) -> str:
    """Deliver a look-up and return its display in Flower."""
    from worker import tasks  # noqa: PLC0415 - the application is configured by then

    return str(tasks.look_up.apply(kwargs={"case_id": case_id, "mediation_id": "20"}, throw=True).result)


@pytest.mark.parametrize("where", ["conversation log", "status"])
def test_found_call_is_adopted_and_watched_to_its_end(world: World, where: str) -> None:
    """S14: person unknown, deadline counted from `sending`; either query may fail."""
    lose_the_answer(world)
    world.run(30)
    if where == "status":
        world.upstream.log_entries = Unavailable("down")
        world.upstream.case_status = lambda _case: CallStatus.model_validate({"jobId": JOB, "callStatus": "Executing"})
    else:
        world.upstream.log_entries = [entry(JOB)]
    world.upstream.life = lambda _job, age: "Succeeded" if age > 100 else "Executing"
    world.run(20)
    (call,) = world.store.calls()
    assert (call.job_id, call.person_id, call.started_at, call.deadline) == (JOB, "", START, START + 7_200)
    world.run(100)
    assert world.events() == ["unknown", "adopted", "ended"]
    assert phase(world) == "done"
    assert len(world.upstream.requests) == 1


def test_first_find_does_not_end_the_window(world: World) -> None:
    """S14: upstream dials one person after the other."""
    lose_the_answer(world)
    world.upstream.life = lambda _job, _age: "Executing"
    world.upstream.log_entries = [entry(JOB)]
    world.run(40)
    world.upstream.log_entries = [entry(job_id(2, at=START + 17)), entry(JOB)]
    world.run(40)
    assert {call.job_id for call in world.store.calls()} == {JOB, job_id(2, at=START + 17)}
    world.run(60)
    assert phase(world) == "watching"


def test_only_possible_calls_of_the_request_are_adopted(world: World) -> None:
    """S14: created after `sending` less 60 s, and not on record."""
    old, strange = job_id(7, at=START - 60.001), "not-a-time-447e"
    world.upstream.dials = [[record(job_id(5))]]
    world.trigger("C-1", "other", task_id="task-0")
    lose_the_answer(world)
    recent = job_id(6, at=START - 59.9)
    world.upstream.life = lambda _job, _age: "Executing"
    world.upstream.log_entries = [entry(old), entry(strange), entry(job_id(5)), entry(recent)]
    world.run(30)
    assert {call.job_id for call in world.store.calls()} == {job_id(5), recent}
    assert world.events().count("adopted") == 1


def test_entries_without_a_call_are_skipped(world: World) -> None:
    """S14: in the conversation log and in the status of the case; the calls beside them are still adopted."""
    lose_the_answer(world)
    nameless = ConversationLog.model_validate({"jobId": None, "callStatus": "Executing", "conversations": "[]"})
    world.upstream.life = lambda _job, _age: "Executing"
    world.upstream.log_entries = [nameless, entry(JOB)]
    world.upstream.case_status = lambda _case: CallStatus.model_validate({"callStatus": "Executing"})
    world.run(20)
    assert [call.job_id for call in world.store.calls()] == [JOB]


def test_look_up_of_a_pair_without_need_makes_no_query(world: World) -> None:
    """S14: its message was late, and the pair is watching or free by now."""
    world.upstream.log_entries = [entry(JOB)]
    assert look_up("C-1") == "closed: nothing to look up"
    world.upstream.dials = [[record(job_id(2))]]
    world.trigger()
    assert look_up("C-1") == "closed: nothing to look up"
    assert [call.job_id for call in world.store.calls()] == [job_id(2)]


def test_look_up_without_a_store_is_left_to_the_sweep(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """S14: it ends without an error or a query; the window stays open."""
    lose_the_answer(world)
    world.upstream.log_entries = [entry(JOB)]

    def away(_pair: Pair) -> None:
        raise StoreUnavailable("Redis: ConnectionError")

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "open_look_up", away)
        assert look_up("C-1") == "given up, the sweep publishes the next look-up: Redis: ConnectionError"
    world.upstream.life = lambda _job, _age: "Executing"
    world.run(20)
    assert [call.job_id for call in world.store.calls()] == [JOB]


def test_pair_without_a_find_is_held_and_then_released(world: World) -> None:
    """S14: 120 s of look-ups, an event, 600 s more; never sent again; the next trigger queries first and may call."""
    lose_the_answer(world)
    world.run(119)
    assert world.events() == ["unknown"]
    world.run(12)
    assert world.events() == ["unknown", "nothing_found"]
    assert world.trigger(task_id="task-2")["outcome"] == "skipped"
    world.run(570)
    assert phase(world) == "unknown"
    world.run(40)
    assert world.events() == ["unknown", "nothing_found", "released"]
    assert phase(world) == "done"
    assert len(world.upstream.requests) == 1
    world.upstream.dials = [[record(job_id(9))]]
    assert world.trigger(task_id="task-3")["outcome"] == "started"


def test_person_may_release_an_unknown_outcome_earlier(world: World) -> None:
    """S14: with by and reason in the history; no other phase can be released."""
    lose_the_answer(world)
    pair = Pair("C-1", "20")
    assert world.store.release(pair, by="op", why="asked the party") == "released"
    assert world.store.history("C-1")[-1]["by"] == "op"
    assert world.store.history("C-1")[-1]["why"] == "asked the party"
    assert phase(world) == "done"
    assert world.store.release(pair, by="op", why="again") == "done"
    assert world.store.release(Pair("C-1", "unknown"), by="op", why="") == "absent"
    world.upstream.dials = [[record(job_id(9))]]
    assert world.trigger(task_id="task-3")["outcome"] == "started"
    assert world.store.release(pair, by="op", why="") == "watching"


def test_found_calls_outlast_a_persons_release(world: World) -> None:
    """S14 S5: they stay watched and hold the pair."""
    lose_the_answer(world)
    world.upstream.life = lambda _job, _age: "Executing"
    world.upstream.log_entries = [entry(JOB)]
    world.run(30)
    assert world.store.release(Pair("C-1", "20"), by="op", why="") == "released"
    assert phase(world) == "watching"
    assert world.trigger(task_id="task-2")["outcome"] == "skipped"


def test_adoption_waits_while_another_mediation_is_sending(world: World) -> None:
    """S14: the job may belong to the other one."""
    lose_the_answer(world)
    world.upstream.log_entries = [entry(JOB)]
    world.upstream.life = lambda _job, _age: "Executing"
    seen: list[int] = []

    def during_the_other_dial(_request: object) -> list[object]:
        world.run(40)
        seen.append(len(world.store.calls()))
        return [record(JOB, person="P-1")]

    world.upstream.dials = [during_the_other_dial]  # type: ignore[list-item]
    assert world.trigger("C-1", "21", task_id="task-2")["outcome"] == "started"
    assert seen == [0]
    world.run(40)
    (call,) = world.store.calls()
    assert (call.mediation_id, call.person_id) == ("21", "P-1")


def test_job_of_two_possible_owners_is_watched_once_and_holds_both_pairs(world: World) -> None:
    """S14."""
    lose_the_answer(world)
    world.upstream.dials = [LOST]
    assert world.trigger("C-1", "21", task_id="task-2")["outcome"] == "unknown"
    world.upstream.log_entries = [entry(JOB)]
    world.upstream.life = lambda _job, age: "Succeeded" if age > 300 else "Executing"
    world.run(200)
    assert len(world.store.calls()) == 1
    assert (phase(world), phase(world, "21")) == ("watching", "watching")
    for mediation_id in ("20", "21"):
        assert world.trigger("C-1", mediation_id, task_id=f"again-{mediation_id}")["outcome"] == "skipped"
    world.run(150)
    assert (phase(world), phase(world, "21")) == ("done", "done")
    assert world.events().count("ended") == 1


def test_answer_after_an_adoption_names_the_person(world: World) -> None:
    """S18: it is stored, and no call is watched twice."""

    def stopped(_request: object) -> list[object]:
        world.upstream.log_entries = [entry(JOB)]
        world.upstream.life = lambda _job, _age: "Executing"
        world.run(140)
        assert [(call.job_id, call.person_id) for call in world.store.calls()] == [(JOB, "")]
        return [record(JOB, person="P-1")]

    world.sweeping = 5
    world.upstream.dials = [stopped]  # type: ignore[list-item]
    assert world.trigger()["outcome"] == "started"
    assert [(call.job_id, call.person_id) for call in world.store.calls()] == [(JOB, "P-1")]


def test_record_without_a_job_is_looked_up_beside_watched_ones(world: World) -> None:
    """S7 S5: the look-up holds the pair, also after the others have ended."""
    world.upstream.dials = [[record(JOB, person="P-1"), record(None, person="P-2")]]
    assert world.trigger()["outcome"] == "started"
    world.sweeping = 5
    world.run(30)
    assert world.events() == ["started", "ended"]
    assert phase(world) == "watching"
    assert world.redis.exists("t:lock:C-1:20")
    found = job_id(2, at=START + 5)
    world.upstream.log_entries = [entry(JOB, "Succeeded"), entry(found)]
    world.run(150)
    assert world.events() == ["started", "ended", "adopted", "ended"]
    assert phase(world) == "done"


@pytest.mark.parametrize("person", ["P-1", None])
def test_named_call_is_not_the_missing_one(world: World, person: str | None) -> None:
    """S7 S14: the record without a job is another call, also if the named one has no person; the hold follows."""
    world.upstream.dials = [[record(JOB, person=person), record(None, person="P-2")]]
    assert world.trigger()["outcome"] == "started"
    world.sweeping = 5
    world.upstream.log_entries = [entry(JOB, "Succeeded")]
    world.run(200)
    assert world.events() == ["started", "ended", "nothing_found"]
    assert phase(world) == "watching"
    world.run(600)
    assert phase(world) == "done"


@pytest.mark.parametrize("person", ["P-1", None])
def test_call_that_another_answer_has_named_does_not_hold_the_pair(world: World, person: str | None) -> None:
    """S14: neither is it the missing call of the lost answer."""
    lose_the_answer(world)
    world.upstream.dials = [[record(JOB, person=person)]]
    world.upstream.life = lambda _job, _age: "Executing"
    world.upstream.log_entries = [entry(JOB)]
    assert world.trigger("C-1", "21", task_id="task-2")["outcome"] == "started"
    world.run(200)
    (call,) = world.store.calls()
    assert not call.shared_with
    assert world.events() == ["unknown", "started", "status_changed", "nothing_found"]

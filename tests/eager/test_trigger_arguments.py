"""Test the arguments of a trigger: invalid ones, unknown ones and those of newer versions make no call."""

from typing import Any

import pytest

from tests.fakes import job_id, record
from tests.world import World

JOB = job_id(1)


def test_trigger_parameters_reach_upstream(world: World) -> None:
    """S3 S4: a trigger for one person shares the pair's lock."""
    world.upstream.dials = [[record(JOB)]]
    assert world.trigger(call_auto=1, call_person_id="P-7")["outcome"] == "started"
    assert (world.upstream.requests[0][1].call_auto, world.upstream.requests[0][1].call_person_id) == (1, "P-7")
    assert world.trigger(task_id="task-2", call_person_id="P-8")["outcome"] == "skipped"
    assert len(world.upstream.requests) == 1


@pytest.mark.parametrize(
    ("case_id", "mediation_id"),
    [("", "20"), ("C-1", ""), ("  ", "20"), (None, "20"), ("C-1", None)],
    ids=["empty case", "empty mediation", "blank case", "no case", "no mediation"],
)
def test_missing_parameters_make_no_call(
    world: World, caplog: pytest.LogCaptureFixture, case_id: Any, mediation_id: Any
) -> None:
    """S2."""
    result = world.trigger(case_id, mediation_id)
    assert result["outcome"] == "invalid"
    assert result["message"].startswith("缺少必要参数,跳过外呼触发: ")
    assert "缺少必要参数,跳过外呼触发" in caplog.messages
    assert world.upstream.requests == []
    assert set(world.redis.scan_iter("*")) == {world.keys.counters}
    assert world.parts.store.counters() == {"triggers:invalid": 1, "reasons:trigger:missing_argument": 1}


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        pytest.param(
            {"case_id": ["C-1"]},
            "case_id: of type list, should be a text of 1 to 200 characters, all printable, or a whole number",
            id="a list",
        ),
        pytest.param({"case_id": "x" * 201}, "case_id: a text of 201 characters, should be", id="too long"),
        pytest.param({"case_id": "\ud800"}, "case_id: a text of 1 character, should be", id="no Unicode text"),
        pytest.param({"mediation_id": True}, "mediation_id: of type bool", id="a truth value"),
        pytest.param({"call_auto": 2}, "call_auto: a number out of range, should be 0 (automatic) or 1", id="auto 2"),
        pytest.param({"call_auto": "yes"}, "call_auto: a text of 3 characters, should be 0", id="auto text"),
        pytest.param({"call_person_id": {}}, "call_person_id: of type dict, should be a text", id="person"),
    ],
)
def test_invalid_kwargs_are_named_and_make_no_call(world: World, kwargs: dict[str, Any], reason: str) -> None:
    """S38: validated again on arrival; one line names the field, the value's kind and the expected value."""
    result = world.trigger(**({"case_id": "C-1", "mediation_id": "20"} | kwargs))
    assert result["outcome"] == "invalid"
    assert reason in result["message"]
    assert "\n" not in result["message"]
    assert world.upstream.requests == []


def test_kwargs_of_a_newer_version_are_accepted(world: World) -> None:
    """S38: unknown ones are ignored, None is the default."""
    world.upstream.dials = [[record(JOB)]]
    assert world.trigger(call_auto=None, call_person_id=None, novelty=1, v=2)["outcome"] == "started"


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({"callPersonId": "person-0001"}, "callPersonId: unknown, should be call_person_id"),
        ({"call_persn_id": "person-0001", "v": 1}, "call_persn_id: unknown, should be call_person_id"),
        ({"callAuto": 1}, "callAuto: unknown, should be call_auto"),
        ({"zzz": 1}, "zzz: unknown, should be one of case_id, mediation_id, call_auto, call_person_id"),
        ({"a\nb": 1}, "ab: unknown"),
        ({"v": "2", "zzz": 1}, "v: a text of 1 character, should be a whole number, 1 for this version"),
        ({"v": 0}, "v: a number out of range"),
    ],
)
def test_s38_unknown_kwargs_make_no_call(
    world: World, kwargs: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A misspelt person would otherwise call everyone in the case."""
    result = world.trigger(**({"case_id": "C-1", "mediation_id": "20"} | kwargs))
    assert result["outcome"] == "invalid"
    assert reason in result["message"]
    assert world.upstream.requests == []
    assert "person-0001" not in caplog.text


def test_s38_task_id_of_another_pair_makes_no_call_and_keeps_the_first_result(world: World) -> None:
    world.upstream.dials = [[record(JOB)]]
    first = world.parts.trigger_flow()
    started = first({"case_id": "C-1", "mediation_id": "20"}, task_id="task-1")
    other = first({"case_id": "C-2", "mediation_id": "20"}, task_id="task-1")
    assert started is not None
    assert other is not None
    assert (started["outcome"], other["outcome"]) == ("started", "invalid")
    assert "task id: used before for another pair, should be a new one" in other["message"]
    assert len(world.upstream.requests) == 1
    again = first({"case_id": "C-1", "mediation_id": "20"}, task_id="task-1")
    assert again is not None
    assert again["outcome"] == "started"

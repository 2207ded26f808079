"""Test the wrong triggers of a first producer: `invalid` with one message that names each field (S2, S38)."""

from typing import Any

import pytest

from tests.oneline import SECRET
from tests.world import World

TEXT = "should be a text of 1 to 200 characters, all printable"


@pytest.mark.parametrize(
    ("kwargs", "field", "right"),
    [
        pytest.param({"mediation_id": 20}, "case_id: missing", TEXT, id="no case"),
        pytest.param({"case_id": "C-1"}, "mediation_id: missing", TEXT, id="no mediation"),
        pytest.param({"case_id": "C-1", "mediation_id": " "}, "mediation_id: an empty text", TEXT, id="a blank"),
        pytest.param({"case_id": ["C-1"], "mediation_id": 20}, "case_id: of type list", TEXT, id="a list"),
        pytest.param({"case_id": "C" * 201, "mediation_id": 20}, "case_id: a text of 201", TEXT, id="a long id"),
        pytest.param({"case_id": "C\n1", "mediation_id": 20}, "case_id: a text of 3", TEXT, id="two lines"),
        pytest.param({"case_id": "C-1", "mediation_id": 2.5}, "mediation_id: of type float", TEXT, id="a fraction"),
        pytest.param(
            {"case_id": "C-1", "mediation_id": 20, "call_auto": True},
            "call_auto: of type bool",
            "should be 0 (automatic) or 1",
            id="a switch",
        ),
        pytest.param(
            {"case_id": "C-1", "mediation_id": 20, "callPersonId": SECRET},
            "callPersonId: unknown",
            "should be call_person_id",
            id="upstream's spelling",
        ),
        pytest.param(
            {"caseId": "C-1", "mediationId": 20}, "caseId: unknown", "should be case_id", id="camels everywhere"
        ),
        pytest.param(
            {"case_id": "C-1", "mediation_id": 20, "v": "1"}, "v: a text", "should be a whole number", id="a version"
        ),
    ],
)
def test_wrong_kwargs_are_invalid_with_the_field(world: World, kwargs: dict[str, Any], field: str, right: str) -> None:
    result = world.parts.trigger_flow()(kwargs, task_id="task-1")
    assert result is not None
    assert result["outcome"] == "invalid"
    message = result["message"]
    assert field in message
    assert right in message
    assert "\n" not in message
    assert SECRET not in message
    assert world.upstream.requests == []

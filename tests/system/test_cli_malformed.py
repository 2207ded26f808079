"""Test `callwatch malformed` on a real server: each quarantined message with its wrong field, no content (S37, S38)."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from cli.main import main
from cli.malformed import examine
from tests.fakes import PHONE
from tests.malformed import BAD, HEADERS, PROPERTIES, message
from worker.store import RedisStore

Read = Callable[[], tuple[str, str]]
EXPIRES = "should be an ISO 8601 time with its zone, like 2026-11-22T09:00:00Z"
PLACE = {**PROPERTIES, "delivery_info": {"exchange": "", "routing_key": "outbound.poll"}}


def entry(**parts: Any) -> bytes:
    return json.dumps(message(**parts)).encode()


@pytest.mark.parametrize(
    ("text", "field", "ids"),
    [
        (entry(headers={**HEADERS, "expires": "2026-11-22"}), "headers.expires", ("task-1", "C-1", "20")),
        (entry(headers={"task": "outbound.trigger"}), "headers.id", ("", "C-1", "20")),
        (entry(headers={**HEADERS, "id": 7.5}), "headers.id", ("", "C-1", "20")),
        (entry(body=[[], {"case_id": ["C-1"], "phone": PHONE}]), "body", ("task-1", "", "")),
        (entry(body=PHONE), "body", ("task-1", "", "")),
        (entry(headers=None), "headers.task", ("", "", "")),
        (b"\xff" + PHONE.encode(), "entry", ("", "", "")),
        (b"[" * 16_384, "entry", ("", "", "")),
        (entry(properties=PLACE, headers={**HEADERS, "expires": 7}), "headers.expires", ("task-1", "C-1", "20")),
        (
            entry(properties=PLACE, headers={**HEADERS, "task": "outbound.poll"}),
            "headers.task",
            ("task-1", "C-1", "20"),
        ),
    ],
)
def test_quarantined_entry_is_examined_without_its_content(text: bytes, field: str, ids: tuple[str, ...]) -> None:
    """The last one was pushed into another queue than it names: only its task can be wrong."""
    found = examine(text)
    assert (found.field, (found.task_id, found.case_id, found.mediation_id)) == (field, ids)
    assert found.bytes == len(text)
    assert PHONE not in str(found)


@pytest.mark.parametrize("name", BAD)
def test_every_malformed_entry_is_examined(name: str) -> None:
    bad = BAD[name]
    assert examine(bad if isinstance(bad, bytes) else json.dumps(bad).encode()).field


def test_malformed_messages_are_listed_and_cleared(store: RedisStore, shown: Read) -> None:
    late, unreadable = entry(headers={**HEADERS, "expires": "2026-11-22T09:00:00"}), b"\xff" + PHONE.encode()
    store.client.lpush("outbound.malformed", unreadable, late)
    assert main(["malformed", "--json"]) == 0
    document = json.loads(shown()[0])
    assert document["cleared"] is False
    assert document["messages"] == [
        {"field": "headers.expires", "fault": EXPIRES, "task_id": "task-1", "case_id": "C-1", "mediation_id": "20",
         "bytes": len(late)},
        {"field": "entry", "fault": "should be a JSON object in UTF-8", "task_id": "", "case_id": "",
         "mediation_id": "", "bytes": len(unreadable)},
    ]  # fmt: skip
    assert main(["malformed"]) == 0
    out = shown()[0]
    assert out.splitlines() == [
        f"headers.expires: {EXPIRES}  C-1/20  task id task-1  {len(late)} bytes",
        f"entry: should be a JSON object in UTF-8  {len(unreadable)} bytes",
        "2 quarantined messages",
    ]
    assert PHONE not in out, "S37"
    assert main(["erase", "C-1"]) == 0, "an entry that is no text is no obstacle"
    assert store.client.llen("outbound.malformed") == 1
    assert main(["malformed", "--clear"]) == 0
    assert shown()[0].splitlines()[-1] == "1 quarantined messages deleted"
    assert store.client.llen("outbound.malformed") == 0


@pytest.mark.usefixtures("store")
def test_without_a_broker_the_command_says_so(monkeypatch: pytest.MonkeyPatch, shown: Read) -> None:
    monkeypatch.setenv("CALLWATCH_BROKER_URL", "redis://127.0.0.1:1/0")
    assert main(["malformed"]) == 1
    assert shown()[1].startswith("callwatch: Redis at redis://127.0.0.1:1/0 does not answer: ")

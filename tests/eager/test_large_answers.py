"""Test that an answer of almost 1 MiB leaves little data: upstream's texts are cut on arrival."""

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from api_client.envelope import call_records
from tests.fakes import job_id
from tests.world import World

ANSWER = 900_000  # characters: an answer has at most 1 MiB
LONG = "长" * 250_000
NOTICES = {
    "notice_url": "http://127.0.0.1:1/hook",
    "notice_secret": "whsec_c2VjcmV0c2VjcmV0c2VjcmV0",
    "notice_task": "t",
    "notice_queue": "q",
}


def answer(*records: dict[str, Any]) -> list[Any]:
    return call_records(json.dumps({"code": 201, "data": records}, ensure_ascii=False).encode())


def many(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [record] * (ANSWER // len(json.dumps(record, ensure_ascii=False)))


def size(value: object) -> int:
    """The number of characters in a value of Redis."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(size(key) + size(item) for key, item in value.items())
    return sum(map(size, value)) if isinstance(value, Iterable) else 0


def stored(world: World) -> int:
    """The number of characters of all data in Redis."""
    read = {
        "string": world.redis.get,
        "hash": world.redis.hgetall,
        "list": lambda key: world.redis.lrange(key, 0, -1),
        "set": world.redis.smembers,
        "stream": world.redis.xrange,
    }
    return sum(size(read[kind](key)) for key in world.redis.keys() if (kind := world.redis.type(key)) in read)  # noqa: SIM118


EVERY_FIELD = dict.fromkeys(("message", "personId", "callStatus", "startTime", "callInterval"), LONG[:180_000])
SHAPES: list[tuple[str, list[dict[str, Any]], str, int]] = [
    ("a call, long in every field", [{**EVERY_FIELD, "errorCode": 0, "jobId": job_id()}], "started", 5_000),
    ("a long message", [{"errorCode": 1002, "personId": "P-1", "message": LONG}], "refused", 10_000),
    ("a long next round", [{"errorCode": 1001, "startTime": LONG, "callInterval": LONG}], "refused", 10_000),
    ("a long person id", [{"errorCode": 1002, "personId": LONG}], "refused", 10_000),
    ("a long person id and no job id", [{"errorCode": 0, "personId": LONG}], "unknown", 10_000),
    ("many refusals", many({"errorCode": 1002}), "refused", 600_000),
    ("many long refusals", many({"errorCode": 1002, "message": "长" * 1000}), "refused", 800_000),
    ("many without a job id", many({"errorCode": 0, "personId": "P-1"}), "unknown", 10_000),
]


@pytest.mark.parametrize("world", [NOTICES], indirect=True, ids=["with notices"])
@pytest.mark.parametrize(("records", "outcome", "most"), [pytest.param(*shape, id=name) for name, *shape in SHAPES])
def test_large_answer_leaves_little_data(
    world: World, records: list[dict[str, Any]], outcome: str, most: int, caplog: pytest.LogCaptureFixture
) -> None:
    """S38: in results, records, history, events, notices and logs."""
    world.upstream.dials = [answer(*records)]
    with caplog.at_level(logging.INFO):
        result = world.trigger()
    assert result["outcome"] == outcome
    assert stored(world) + len(json.dumps(dict(result), ensure_ascii=False)) < most
    assert len(caplog.text) < most


def test_truncated_message_keeps_its_beginning(world: World) -> None:
    """S8: a person reads the beginning of the message."""
    world.upstream.dials = [answer({"errorCode": 1002, "personId": "P-1", "message": "超限" + LONG})]
    result = world.trigger()
    assert result["refused"][0]["message"].startswith("超限长")
    assert result["message"].startswith("外呼失败:P-1(超限长")

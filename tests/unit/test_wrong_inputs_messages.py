"""Test the wrong messages of a first producer: put aside with one line in the log that names the field (S38)."""

import json
from typing import Any

import pytest
import redis

from tests.holder import NAMELESS, Holder
from tests.malformed import HEADERS, message
from tests.oneline import SECRET, TRACES

pytestmark = pytest.mark.usefixtures("no_unrestored_messages")


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        pytest.param(message(headers={"task": "outbound.trigger"}), "id", id="no task id"),
        pytest.param(message(headers={**HEADERS, "id": "t" * 201}), "id", id="a long task id"),
        pytest.param(message(headers={**HEADERS, "id": "a\nb"}), "id", id="a task id of two lines"),
        pytest.param(message(headers={**HEADERS, "task": "outbound.triger"}), "task", id="an unknown task"),
        pytest.param(message(headers={**HEADERS, "task": "outbound.poll"}), "task", id="a poll among triggers"),
        pytest.param(message(headers={**HEADERS, "expires": 1_790_000_000}), "expires", id="expires as a number"),
        pytest.param(message(headers={**HEADERS, "expires": "tomorrow"}), "expires", id="expires as a word"),
        pytest.param(message(**{"content-type": "application/x-python-serialize"}), "content-type", id="pickle"),
        pytest.param(message(properties=None), "properties", id="no properties"),
        pytest.param(b"case_id=C-1", "malformed message of 11 bytes", id="a form"),
        pytest.param(b"\x80\x04\x95", "malformed message of 3 bytes", id="bytes of pickle"),
    ],
)
def test_wrong_message_is_put_aside_with_its_field(
    redis_url: str, caplog: pytest.LogCaptureFixture, entry: dict[str, Any] | bytes, field: str
) -> None:
    """No content is quoted (S37), and the next message is delivered."""
    text = entry if isinstance(entry, bytes) else json.dumps(entry | {"secret": SECRET}).encode()
    holder = Holder(redis_url, NAMELESS, messages=0, task_queues={"polls": "outbound.trigger"})
    with redis.Redis.from_url(redis_url) as client:
        client.lpush("polls", text)
        client.lpush("polls", json.dumps(message()))
        while not holder.held:
            holder.connection.drain_events(timeout=5)
        assert client.lrange("outbound.malformed", 0, -1) == [text]
    (line,) = [line for line in caplog.messages if "malformed" in line]
    assert field in line
    assert "\n" not in line
    assert not [trace for trace in (*TRACES, SECRET, "t" * 20, "tomorrow", "triger") if trace in line]
    holder.held[0].ack()
    holder.leave()

"""Push malformed messages to a real worker: it continues with the next valid one (S38)."""

import json
import uuid
from typing import Any

import pytest
import redis

from tests.deployment import Deployment, wait_until


def message(**changes: Any) -> dict[str, Any]:
    """Return a valid message with parts replaced; None removes a part."""
    good = {
        "body": json.dumps([[], {"case_id": "C-bad", "mediation_id": 1}, {}]),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "outbound.trigger", "id": str(uuid.uuid4())},
        "properties": {
            "delivery_tag": str(uuid.uuid4()),
            "delivery_info": {"exchange": "", "routing_key": "outbound.trigger"},
        },
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


MALFORMED = {
    "no JSON": "once upon a time",
    "empty": "",
    "a number": "17",
    "a list": "[]",
    "null": "null",
    "an empty object": "{}",
    "no body": json.dumps(message(body=None)),
    "body no JSON": json.dumps(message(body="{")),
    "body no triple": json.dumps(message(body='{"case_id": "C-1"}')),
    "body of two": json.dumps(message(body="[[], {}]")),
    "kwargs a list": json.dumps(message(body="[[], [], {}]")),
    "no content type": json.dumps(message(**{"content-type": None})),
    "pickle": json.dumps(message(**{"content-type": "application/x-python-serialize"})),
    "no headers": json.dumps(message(headers=None)),
    "headers a list": json.dumps(message(headers=[])),
    "no id": json.dumps(message(headers={"task": "outbound.trigger"})),
    "unknown task": json.dumps(message(headers={"task": "outbound.nothing", "id": "x"})),
    "bad expires": json.dumps(message(headers={"task": "outbound.trigger", "id": "x", "expires": "soon"})),
    "no properties": json.dumps(message(properties=None)),
    "no delivery tag": json.dumps(message(properties={"delivery_info": {}})),
    "no delivery info": json.dumps(message(properties={"delivery_tag": "t-1"})),
    "a lone surrogate": json.dumps(message(body='[[], {"case_id": "\\ud800", "mediation_id": 1}, {}]')),
}


def test_s38_no_malformed_message_stops_a_worker(redis_url: str) -> None:
    """After each, the same process runs a valid trigger."""
    with Deployment(redis_url, poll_interval=30) as deployment, redis.Redis.from_url(redis_url) as client:
        deployment.simulator.script("*", life="talking")
        worker = deployment.worker()
        for number, (name, entry) in enumerate(MALFORMED.items()):
            client.lpush("outbound.trigger", entry)
            result = deployment.trigger(f"C-{number}").get(timeout=60)
            assert result["outcome"] == "started", name
            assert not worker.gone(), name
        assert worker.log.count("malformed message of") >= 10
        assert "once upon a time" not in worker.log
        assert b"once upon a time" in client.lrange("outbound.malformed", 0, -1)
        assert client.ttl("outbound.malformed") > 0
        assert worker.log.count("Connected to redis") == 1, "a malformed message closed the connection"
        assert worker.stop() == 0
        wait_until(lambda: client.hlen("unacked") == 0)


@pytest.mark.parametrize("field", ["case_id", "mediation_id"])
def test_s2_trigger_without_its_ids_returns_invalid(redis_url: str, field: str) -> None:
    """S2: the result names the missing arguments, and no request is sent."""
    with Deployment(redis_url) as deployment:
        deployment.worker()
        kwargs = {"case_id": "C-1", "mediation_id": 20}
        del kwargs[field]
        sent = deployment.producer.send_task("outbound.trigger", kwargs=kwargs, queue="outbound.trigger")
        result = sent.get(timeout=60)
        assert (result["outcome"], result["message"].split(":")[0]) == ("invalid", "缺少必要参数,跳过外呼触发")
        assert deployment.simulator.log("call-v2") == []

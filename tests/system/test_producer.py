"""Test the producer: messages as any producer sends them, and a prompt error if the broker is unavailable."""

import json
import time

import pytest
import redis

from config.settings import Settings
from worker.core.messages import read_trigger
from worker.runtime.producer import NotPublished, Producer

REQUEST = read_trigger({"case_id": "C-1", "mediation_id": 20, "call_person_id": "P-10010001"})


def test_s37_trigger_has_masked_headers_and_no_result_subscription(redis_url: str) -> None:
    """S37, S38: a producer of thousands of triggers must not hold a subscription for each."""
    producer = Producer.without_results(Settings(redis_url=redis_url), limit=5)
    producer.publish(REQUEST, task_id="h-1", expires=60)
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        (text,) = client.lrange("outbound.trigger", 0, -1)
        assert client.pubsub_channels("celery-task-meta-*") == []
    message = json.loads(text)
    assert message["headers"]["id"] == "h-1"
    assert not message["headers"].get("ignore_result"), "the worker stores the result"
    assert "P-10010001" not in json.dumps(message["headers"])
    producer.application.close()


def test_unavailable_broker_raises_not_published_within_its_limit() -> None:
    producer = Producer.without_results(Settings(redis_url="redis://127.0.0.1:1/0"), limit=1)
    begin = time.monotonic()
    with pytest.raises(NotPublished):
        producer.publish(REQUEST, task_id="h-1", expires=60)
    assert time.monotonic() - begin < 30
    producer.application.close()

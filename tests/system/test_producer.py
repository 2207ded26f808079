"""Triggers are put on the queue as any producer puts them, and a broker that is away is said so, soon."""

import json
import time

import pytest
import redis

from config.settings import Settings
from worker.core.messages import read_trigger
from worker.runtime.producer import NotPublished, Producer

REQUEST = read_trigger({"case_id": "C-1", "mediation_id": 20, "call_person_id": "P-10010001"})


def test_a_trigger_is_published_with_masked_headers_and_no_subscription(redis_url: str) -> None:
    """S37, S38: whoever publishes thousands keeps no subscription for each."""
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


def test_a_broker_that_is_away_takes_nothing() -> None:
    producer = Producer.without_results(Settings(redis_url="redis://127.0.0.1:1/0"), limit=1)
    begin = time.monotonic()
    with pytest.raises(NotPublished):
        producer.publish(REQUEST, task_id="h-1", expires=60)
    assert time.monotonic() - begin < 30
    producer.application.close()

"""Test the producer: messages as any producer sends them, and a prompt error if the broker is unavailable."""

import json
import time
from typing import Any

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


def without_what_differs(text: str) -> dict[str, Any]:
    """A message without its random and timed parts."""
    message: dict[str, Any] = json.loads(text)
    message["properties"]["delivery_tag"] = message["headers"]["expires"] = ""
    return message


def test_s42_a_batch_holds_the_messages_that_celery_would_send_one_by_one(redis_url: str) -> None:
    """In order, each whole, in one round trip; a broker that was started anew takes them as well."""
    producer = Producer.without_results(Settings(redis_url=redis_url), limit=5)
    other = read_trigger({"case_id": "C-2", "mediation_id": 21, "call_auto": 1})
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        producer.publish(REQUEST, task_id="h-1", expires=60)
        producer.publish(other, task_id="h-2", expires=60.5)
        before = client.info("commandstats")["cmdstat_lpush"]["calls"]
        client.client_kill_filter(_type="normal", skipme=True)
        producer.publish_all([(REQUEST, "h-1", 60), (other, "h-2", 60.5)])
        second, first, *one_by_one = map(without_what_differs, client.lrange("outbound.trigger", 0, -1))
        assert [second, first] == one_by_one
        assert (first["headers"]["id"], second["headers"]["id"]) == ("h-1", "h-2")
        assert client.info("commandstats")["cmdstat_lpush"]["calls"] == before + 2
        tags = [json.loads(text)["properties"]["delivery_tag"] for text in client.lrange("outbound.trigger", 0, -1)]
        assert len(set(tags)) == 4
    producer.application.close()


def test_a_broker_that_refuses_one_message_of_a_batch_makes_all_of_it_unpublished(redis_url: str) -> None:
    """S42: any of them may be enqueued; the same keys may come again."""
    producer = Producer.without_results(Settings(redis_url=redis_url), limit=5)
    with redis.Redis.from_url(redis_url) as client:
        client.set("outbound.trigger", "no list")
        with pytest.raises(NotPublished):
            producer.publish_all([(REQUEST, "h-1", 60)])
        client.delete("outbound.trigger")
        producer.publish_all([(REQUEST, "h-1", 60)])
        assert client.llen("outbound.trigger") == 1
    producer.application.close()


def test_a_broker_that_is_away_takes_nothing() -> None:
    producer = Producer.without_results(Settings(redis_url="redis://127.0.0.1:1/0"), limit=1)
    begin = time.monotonic()
    with pytest.raises(NotPublished):
        producer.publish(REQUEST, task_id="h-1", expires=60)
    with pytest.raises(NotPublished):
        producer.publish_all([(REQUEST, "h-1", 60)])
    assert time.monotonic() - begin < 30
    producer.application.close()

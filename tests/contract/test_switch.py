"""Who stops and allows new calls, why and when, is kept and announced (S16)."""

import pytest
import redis

from worker.core.model import Pause
from worker.store import RedisStore
from worker.store.keys import AUDIT_KEPT


def test_who_stopped_new_calls_why_and_when_is_kept(store: RedisStore) -> None:
    assert not store.pause('a "quoted" 原因', by="张三")
    stop = store.paused()
    assert stop is not None
    assert (stop.by, stop.why) == ("张三", 'a "quoted" 原因')
    assert stop.at == pytest.approx(store.now(), abs=60)
    assert store.pause("another reason", by="me"), "they were stopped before"
    assert store.resume("done", by="you")
    assert store.paused() is None
    told = [(event["kind"], event["by"], event["why"]) for event in store.audit()]
    assert told == [
        ("resumed", "you", "done"),
        ("paused", "me", "another reason"),
        ("paused", "张三", 'a "quoted" 原因'),
    ]
    assert [event for _, event in store.events("0", wait=0.01)] == store.audit()[::-1]


def test_allowing_what_was_not_stopped_leaves_no_trace(store: RedisStore) -> None:
    assert not store.resume("why not", by="me")
    assert store.audit() == []


@pytest.mark.parametrize("text", ["maintenance", "", "[1]", '{"by": "me"}', "12"])
def test_the_flag_of_an_earlier_release_holds_the_reason_alone(
    store: RedisStore, client: redis.Redis, text: str
) -> None:
    client.set(store.keys.paused, text)
    assert store.paused() == Pause("", text, None)


def test_the_audit_is_bounded(store: RedisStore, client: redis.Redis) -> None:
    client.lpush(store.keys.audit, *["{}"] * (AUDIT_KEPT + 5))
    store.pause("one more")
    assert client.llen(store.keys.audit) == AUDIT_KEPT
    assert store.audit()[0]["why"] == "one more"

"""Test that each stop and release of new calls is stored and announced with by, reason and time (S16)."""

import pytest
import redis

from worker.core.model import Pause
from worker.store import RedisStore
from worker.store.keys import AUDIT_KEPT


def test_stop_is_stored_with_by_reason_and_time(store: RedisStore) -> None:
    assert not store.pause('a "quoted" 原因', by="张三")
    stop = store.paused()
    assert stop is not None
    assert (stop.by, stop.why) == ("张三", 'a "quoted" 原因')
    assert stop.at == pytest.approx(store.now(), abs=60)
    assert store.pause("another reason", by="me"), "they were stopped before"
    assert store.resume("done", by="you")
    assert store.paused() is None
    entries = [(event["kind"], event["by"], event["why"]) for event in store.audit()]
    assert entries == [
        ("resumed", "you", "done"),
        ("paused", "me", "another reason"),
        ("paused", "张三", 'a "quoted" 原因'),
    ]
    assert [event for _, event in store.events("0", wait=0.01)] == store.audit()[::-1]


def test_resume_without_a_stop_leaves_no_trace(store: RedisStore) -> None:
    assert not store.resume("why not", by="me")
    assert store.audit() == []


@pytest.mark.parametrize("text", ["maintenance", "", "[1]", '{"by": "me"}', "12"])
def test_flag_of_an_earlier_release_holds_only_the_reason(store: RedisStore, client: redis.Redis, text: str) -> None:
    client.set(store.keys.paused, text)
    assert store.paused() == Pause("", text, None)


def test_audit_list_is_bounded(store: RedisStore, client: redis.Redis) -> None:
    client.lpush(store.keys.audit, *["{}"] * (AUDIT_KEPT + 5))
    store.pause("one more")
    assert client.llen(store.keys.audit) == AUDIT_KEPT
    assert store.audit()[0]["why"] == "one more"

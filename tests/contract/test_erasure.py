"""Test that an erasure deletes every record of a case, except those that prevent a second call to a person."""

import json
from dataclasses import replace
from typing import Any, get_args

import pytest
import redis

from tests.contract.conftest import TERMS
from tests.pairs import PAIR, PERSON, bring_to, finish
from worker.core.decision import Verdict
from worker.core.model import Pair
from worker.core.notice import CHANNELS
from worker.core.trigger_model import ClaimAnswered, Claimed
from worker.store import Erased, Keys, NotErased, RedisStore, erasure, outbox

OTHER = Pair("C/12", "20")


def found(client: redis.Redis, *needles: str) -> list[str]:
    """Return all keys of the database that contain one of the texts, in name or value."""

    def value(name: str) -> Any:
        reads: dict[str, Any] = {
            "string": client.get,
            "hash": client.hgetall,
            "list": lambda key: client.lrange(key, 0, -1),
            "set": client.smembers,
            "zset": lambda key: client.zrange(key, 0, -1),
            "stream": client.xrange,
        }
        return reads[str(client.type(name))](name)

    dump = {str(name): str(value(str(name))) for name in client.scan_iter("*")}
    return [name for name, text in dump.items() if any(needle in name + text for needle in needles)]


@pytest.mark.parametrize("phase", ["ended", "refused"])
def test_erasure_deletes_every_record_of_the_case(store: RedisStore, client: redis.Redis, phase: str) -> None:
    bring_to(store, phase)
    bring_to(store, "ended", OTHER, "job-2")
    assert found(client, '"C/1"', "C%2F1:", "job-1", PERSON)
    erased = store.erase("C/1", anyway=False)
    calls = 1 if phase == "ended" else 0
    events = 2 if phase == "ended" else 1
    assert erased == Erased(events=events, calls=calls, pairs=1, live_events=events, triggers=1, notices=0)
    assert found(client, '"C/1"', "'C/1'", "C%2F1:") == []
    task_ids = {"t:task:task-job-1", "t:dialled"}  # handled tasks remain handled, without the case (S17, S18)
    assert [name for name in found(client, "job-1") if name not in task_ids] == []
    assert found(client, PERSON) == ["t:job:job-2"]
    assert len(store.history("C/12")) == 2, "another case keeps all its records"
    assert store.erase("C/1", anyway=False) == Erased(0, 0, 0, 0, 0, 0)


def test_erasure_of_an_unknown_case_leaves_no_trace(store: RedisStore, client: redis.Redis) -> None:
    """No event for pages, none in history, outboxes or counters: there was nothing to erase (S36)."""
    bring_to(store, "ended", OTHER)
    last, counters = client.xinfo_stream(store.keys.events)["last-generated-id"], store.counters()
    names = {str(name) for name in client.scan_iter("*")}
    assert store.erase("C/1", anyway=False) == Erased(0, 0, 0, 0, 0, 0)
    assert client.xinfo_stream(store.keys.events)["last-generated-id"] == last
    assert (store.counters(), {str(name) for name in client.scan_iter("*")}) == (counters, names)


def test_erasure_announces_a_case_with_records_once(store: RedisStore) -> None:
    bring_to(store, "ended")
    store.erase("C/1", anyway=False)
    assert store.erase("C/1", anyway=False) == Erased(0, 0, 0, 0, 0, 0)
    assert store.counters()["events:erased"] == 1


def test_events_of_a_case_whose_records_have_expired_are_erased(store: RedisStore, client: redis.Redis) -> None:
    """The live stream is bounded by number, not by time: it may outlive the records."""
    bring_to(store, "ended")
    client.delete(store.keys.history("C/1"), store.keys.jobs("C/1"), store.keys.mediations("C/1"))
    erased = store.erase("C/1", anyway=False)
    assert isinstance(erased, Erased)
    assert (erased.events, erased.live_events) == (0, 2)
    assert list(store.entries(store.keys.events, "C/1")) == []


def test_s17_late_duplicate_delivery_of_an_erased_trigger_makes_no_call(store: RedisStore, client: redis.Redis) -> None:
    bring_to(store, "ended")
    lives = client.pttl("t:task:task-job-1")
    store.erase("C/1", anyway=False)
    assert 0 < client.pttl("t:task:task-job-1") <= lives
    late = store.claim(PAIR, token="x", task_id="task-job-1", arguments="{}", expires=None, enabled=True)
    assert isinstance(late, ClaimAnswered)
    assert (late.why, late.result["outcome"], late.result["case_id"]) == ("handled", "skipped", "")
    new = store.claim(PAIR, token="y", task_id="another", arguments="{}", expires=None, enabled=True)
    assert new == Claimed()


@pytest.mark.parametrize("phase", ["claimed", "sending", "watching", "unknown"])
def test_s5_ringing_or_watched_call_is_not_erased(store: RedisStore, client: redis.Redis, phase: str) -> None:
    bring_to(store, phase)
    before = {str(name) for name in client.scan_iter("*")}
    assert store.erase("C/1", anyway=True) == NotErased(PAIR, phase)
    assert {str(name) for name in client.scan_iter("*")} == before


def test_s5_call_shared_with_another_pair_is_not_erased(store: RedisStore, client: redis.Redis) -> None:
    """The ledger is done, but a watched call also holds the pair."""
    bring_to(store, "refused")
    client.sadd(store.keys.live(PAIR), "job-of-another")
    assert store.erase(PAIR.case_id, anyway=True) == NotErased(PAIR, "watching")
    client.delete(store.keys.live(PAIR))


@pytest.mark.parametrize("verdict", ["lost", "expired"])
def test_s5_last_failure_is_erased_only_by_explicit_order(store: RedisStore, verdict: str) -> None:
    bring_to(store, verdict)
    kept = store.erase("C/1", anyway=False)
    assert isinstance(kept, NotErased)
    assert kept.until == pytest.approx(store.now() + 86_400, abs=60)
    assert isinstance(store.erase("C/1", anyway=True), Erased)


@pytest.mark.parametrize("verdict", get_args(Verdict))
def test_call_is_found_by_its_case_while_its_record_lives(
    store: RedisStore, client: redis.Redis, verdict: Verdict
) -> None:
    """S5, S36: the watch ended days late, when the sets of the case's calls and pairs were about to expire."""
    bring_to(store, "watching")
    for name in (store.keys.jobs(PAIR.case_id), store.keys.mediations(PAIR.case_id)):
        client.pexpire(name, 1_000)
    finish(store, verdict)
    for name in (store.keys.jobs(PAIR.case_id), store.keys.mediations(PAIR.case_id)):
        assert client.pttl(name) >= client.pttl(store.keys.job("job-1"))


def test_ended_call_does_not_shorten_the_records_of_a_waiting_pair(store: RedisStore, client: redis.Redis) -> None:
    """The pair waits over a long weekend, and its case can be erased all that time."""
    bring_to(store, "watching")
    name = store.keys.mediations(PAIR.case_id)
    client.pexpire(name, 10**9)
    finish(store, "ended")
    assert client.pttl(name) > 9 * 10**8


def test_erasure_reads_in_batches(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """One reply with a whole outbox would delay all other commands."""
    monkeypatch.setattr(outbox, "BATCH", 10)
    monkeypatch.setattr(erasure, "BATCH", 10)
    store = RedisStore(client, Keys("t"), replace(TERMS, channels=CHANNELS))
    for number in range(45):  # some batches contain the case's entries, some do not
        event = json.dumps({"case_id": "C/1" if number % 4 == 0 or number >= 35 else "C/12"})
        for stream in ("t:events", *(f"t:outbox:{channel}" for channel in CHANNELS)):
            client.xadd(stream, {"id": f"{number}-0", "event": event})
        dead = {"channel": "task", "id": f"{number}-0", "event": event, "reason": "HTTP 500", "died_at": "1.0"}
        client.lpush("t:dead", json.dumps(dead))
    replies: list[int] = []
    execute: Any = client.execute_command

    def watched(command: str, *args: Any, **options: Any) -> Any:
        reply = execute(command, *args, **options)
        if command in {"XRANGE", "LRANGE"}:
            replies.append(len(reply))
        return reply

    monkeypatch.setattr(client, "execute_command", watched)
    erased = store.erase("C/1", anyway=False)
    assert isinstance(erased, Erased)
    assert (erased.live_events, erased.notices) == (19, 3 * 19)
    assert max(replies) == 10
    assert [client.xlen(f"t:outbox:{channel}") for channel in CHANNELS] == [26, 26]
    assert client.llen("t:dead") == 26
    assert found(client, '"C/1"', '"C/1\\"', "'C/1'") == []
    client.flushdb()


def test_record_of_a_foreign_format_is_skipped(store: RedisStore, client: redis.Redis) -> None:
    client.set("t:task:odd", json.dumps({"outcome": "skipped"}), px=10_000)
    assert store.erase("C/1", anyway=False) == Erased(0, 0, 0, 0, 0, 0)

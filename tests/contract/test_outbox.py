"""Test the outbox: entries are written with their change, read in order, given up to the dead letters, replayed."""

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import redis

from tests.contract.conftest import TERMS
from tests.contract.steps import settlement
from tests.contract.test_erasure import found
from tests.pairs import PAIR, bring_to
from worker.core.messages import TriggerResult
from worker.core.model import Event, OutboxEntry, Pair
from worker.core.trigger_model import Settlement
from worker.store import Keys, RedisStore, base
from worker.store.outbox import DeadLetter

NUMBERS = itertools.count()


@pytest.fixture
def notifying(store: RedisStore) -> RedisStore:
    """A store that notifies back ends over both channels."""
    return RedisStore(store.client, store.keys, replace(TERMS, channels=("webhook", "task"), notice_age=60))


def entries(store: RedisStore, channel: str = "webhook") -> list[OutboxEntry]:
    return store.outbox("webhook" if channel == "webhook" else "task").read("-", limit=100)


@pytest.mark.parametrize(
    ("phase", "kinds"),
    [("claimed", []), ("watching", []), ("ended", ["ended"]), ("lost", ["lost"]), ("expired", ["expired"])],
)
def test_notified_change_is_written_to_the_outbox_of_each_channel(
    notifying: RedisStore, phase: str, kinds: list[str]
) -> None:
    bring_to(notifying, phase)
    for channel in ("webhook", "task"):
        assert [one.event["kind"] for one in entries(notifying, channel)] == kinds
    published = {one.notice_id: one.event for one in entries(notifying)}
    events = dict(notifying.events("0", wait=0.01)) if kinds else {}
    assert published.items() <= events.items(), "the notice's id is that of the event"


def test_without_a_channel_no_entry_is_written(store: RedisStore, client: redis.Redis) -> None:
    bring_to(store, "ended")
    assert not [name for name in client.scan_iter("*") if "outbox" in str(name)]
    assert store.notices() == []


def test_entries_are_read_in_order_and_removed_after_delivery(notifying: RedisStore) -> None:
    for number in range(3):
        bring_to(notifying, "ended", Pair("C", str(number)), f"job-{number}")
    outbox = notifying.outbox("webhook")
    first, second = outbox.read("-", limit=2)
    (third,) = outbox.read(second.position, limit=2)
    assert [one.event["job_id"] for one in (first, second, third)] == ["job-0", "job-1", "job-2"]
    assert first.notice_id < second.notice_id < third.notice_id
    outbox.delivered(first)
    assert outbox.read("-", limit=9) == [second, third]
    assert len(entries(notifying, "task")) == 3, "each channel has its own"
    (webhook, _) = notifying.notices()
    assert (webhook.channel, webhook.waiting, webhook.delivered) == ("webhook", 2, 1)
    assert webhook.oldest_at == pytest.approx(notifying.now(), abs=60)


def test_one_worker_holds_the_leader_lock_and_checks_it_before_sending(
    notifying: RedisStore, client: redis.Redis
) -> None:
    bring_to(notifying, "ended")
    outbox = notifying.outbox("webhook")
    (entry,) = outbox.read("-", limit=9)
    assert outbox.look(entry, "a") == "not ours"
    assert [outbox.acquire_leader_lock(token, 10) for token in ("a", "b", "a")] == [True, False, True]
    assert notifying.outbox("task").acquire_leader_lock("b", 10), "the other channel has its own leader lock"
    assert [outbox.look(entry, token) for token in ("a", "b")] == ["here", "not ours"]
    outbox.delivered(entry)
    assert outbox.look(entry, "a") == "gone"
    client.delete("t:notifier:webhook")
    assert outbox.acquire_leader_lock("b", 10)


def age(client: redis.Redis, store: RedisStore, seconds: float) -> OutboxEntry:
    """Add an entry of that age to the outbox."""
    event = {"at": 1.0, "kind": "ended", "case_id": PAIR.case_id, "mediation_id": "20", "job_id": "job-1"}
    position = f"{round((store.now() - seconds) * 1000)}-0"
    client.xadd("t:outbox:webhook", {"id": "7-0", "event": json.dumps(event)}, id=position)
    return OutboxEntry(position, "7-0", event)


def test_young_entry_is_retried_and_old_one_becomes_a_dead_letter(notifying: RedisStore, client: redis.Redis) -> None:
    old, young = age(client, notifying, 61), age(client, notifying, 50)
    outbox = notifying.outbox("webhook")
    assert outbox.give_up(young, "HTTP 500") is False
    assert outbox.give_up(old, "HTTP 500") is True
    assert outbox.give_up(old, "HTTP 500") is True, "once"
    assert outbox.read("-", limit=9) == [young]
    (dead,) = notifying.dead_letters()
    assert (dead.notice_id, dead.channel, dead.reason, dead.event) == ("7-0", "webhook", "HTTP 500", old.event)
    assert notifying.notices()[0].given_up == 1


def test_dead_letters_are_replayed_in_order_under_their_own_ids(notifying: RedisStore, client: redis.Redis) -> None:
    outbox = notifying.outbox("webhook")
    for number in range(3):
        event = {"at": 1.0, "kind": "ended", "case_id": "C", "mediation_id": "20"}
        client.xadd("t:outbox:webhook", {"id": f"{number}-0", "event": json.dumps(event)}, id=f"{number + 1}-0")
    for entry in outbox.read("-", limit=9):
        assert outbox.give_up(entry, "HTTP 500")
    assert notifying.replay() == 3
    assert notifying.replay() == 0
    replayed = outbox.read("-", limit=9)
    assert [entry.notice_id for entry in replayed] == ["0-0", "1-0", "2-0"]
    assert outbox.give_up(replayed[0], "HTTP 500") is False, "its age starts again"
    assert notifying.dead_letters() == []


def test_full_outbox_moves_its_oldest_entry_to_the_dead_letters_and_counts_it(
    notifying: RedisStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        base,
        "PRELUDE",
        base.PRELUDE.replace("OUTBOX_KEPT, DEAD_KEPT, OF_ONE_CASE = 50000", "OUTBOX_KEPT, DEAD_KEPT, OF_ONE_CASE = 2"),
    )
    store = RedisStore(client, Keys("t"), notifying.terms)
    for number in range(3):
        bring_to(store, "ended", Pair("C", str(number)), f"job-{number}")
    assert [one.event["job_id"] for one in entries(store)] == ["job-1", "job-2"]
    assert [(one.event["job_id"], one.reason) for one in store.dead_letters() if one.channel == "webhook"] == [
        ("job-0", "the outbox is full")
    ]
    assert store.notices()[0].pushed_out == 1
    assert store.replay() == 0, "there is still no room, and the attempt loses no entry"
    assert len(store.dead_letters()) == 2


def small(notifying: RedisStore, monkeypatch: pytest.MonkeyPatch, *bounds: int) -> RedisStore:
    """Return a store with these bounds: outbox, dead letters, entries of one case."""
    names = "OUTBOX_KEPT, DEAD_KEPT, OF_ONE_CASE = "
    new = base.PRELUDE.replace(f"{names}50000, 10000, 1000", names + ", ".join(map(str, bounds)))
    assert new != base.PRELUDE
    monkeypatch.setattr(base, "PRELUDE", new)
    return RedisStore(notifying.client, notifying.keys, replace(notifying.terms, channels=("webhook",)))


def refuse(store: RedisStore, case_id: str, number: int) -> None:
    """Settle an answer with `number` refusals for a case."""
    pair, token = Pair(case_id, "20"), f"{case_id}-{next(NUMBERS)}"
    store.claim(pair, token=token, task_id=token, arguments="{}", expires=None, enabled=True)
    sent_at = store.begin_sending(pair, token)
    assert isinstance(sent_at, float)
    events = [Event("refused", case_id, "20", detail={"error_code": 1002}) for _ in range(number)]
    result = TriggerResult.of("refused", case_id, "20")
    assert store.settle(Settlement(pair, token, token, result, "done", sent_at, [], events))


def cases_of(found: Sequence[OutboxEntry] | Sequence[DeadLetter]) -> dict[str, int]:
    return dict(Counter(one.event["case_id"] for one in found))


def test_s38_one_case_cannot_push_out_other_cases_notices(
    notifying: RedisStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A case has a share of the outbox and of the dead letters; notices beyond it are dropped and counted."""
    store = small(notifying, monkeypatch, 50, 20, 5)
    refuse(store, "A", 2)
    refuse(store, "flood", 500)
    assert cases_of(entries(store)) == {"A": 2, "flood": 5}
    assert cases_of(store.dead_letters()) == {"flood": 5}
    assert store.notices()[0].pushed_out == 495
    for entry in entries(store):
        store.outbox("webhook").delivered(entry)
    assert store.replay() == 5
    for entry in entries(store):
        store.outbox("webhook").delivered(entry)
    assert client.keys("t:waiting*") + client.keys("t:buried*") == [], "the counts equal the entries"


def test_s38_full_list_makes_no_room_for_a_case_with_more_entries(
    notifying: RedisStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = small(notifying, monkeypatch, 6, 3, 5)
    for case_id, number in (("A", 1), ("B", 1), ("flood", 9)):
        refuse(store, case_id, number)
    assert cases_of(entries(store)) == {"A": 1, "B": 1, "flood": 4}
    assert cases_of(store.dead_letters()) == {"flood": 3}
    refuse(store, "C", 1)
    assert cases_of(entries(store)) == {"B": 1, "flood": 4, "C": 1}, "the oldest makes room for a case that has none"
    assert cases_of(store.dead_letters()) == {"flood": 2, "A": 1}
    assert client.hgetall("t:buried") == {"flood": "2", "A": "1"}
    refuse(store, "flood", 9)
    assert cases_of(entries(store)) == {"B": 1, "flood": 4, "C": 1}
    assert cases_of(store.dead_letters())["A"] == 1


def test_erased_case_has_no_entries_left(notifying: RedisStore, client: redis.Redis) -> None:
    bring_to(notifying, "ended")
    bring_to(notifying, "ended", Pair("C/12", "20"), "job-2")
    outbox = RedisStore(notifying.client, notifying.keys, replace(notifying.terms, notice_age=0)).outbox("task")
    for entry in outbox.read("-", limit=2):  # one entry per case
        outbox.give_up(entry, "gone")
    erased = notifying.erase(PAIR.case_id, anyway=False)
    assert getattr(erased, "notices", 0) == 2
    assert found(client, '"C/1"', '"C/1\\"') == []
    assert [one.pair.case_id for one in entries(notifying)] == ["C/12"]
    assert [entry.event["case_id"] for entry in notifying.dead_letters()] == ["C/12"]


def test_prefix_may_contain_quotes(client: redis.Redis) -> None:
    store = RedisStore(client, Keys('t:"\\'), replace(TERMS, channels=("task",)))
    bring_to(store, "ended")
    assert len(entries(store, "task")) == 1
    client.flushdb()


def test_refusals_and_failures_are_notified(notifying: RedisStore) -> None:
    bring_to(notifying, "sending")
    published = [Event("refused", "C-1", "20", detail={"message": "未到时间", "error_code": 1001})]
    plain = settlement("refused", "done", "job-1", task_id="task-job-1")
    assert notifying.settle(replace(plain, pair=PAIR, events=published))
    assert [one.event["message"] for one in entries(notifying)] == ["未到时间"]

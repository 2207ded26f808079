"""The outbox: written with the change that it tells of, read in order, given up into the dead letters, replayed."""

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import redis

from tests.contract.conftest import TERMS
from tests.contract.test_erasure import PAIR, bring_to, found
from worker.core.messages import TriggerResult
from worker.core.model import Event, OutboxEntry, Pair, Settlement
from worker.store import Keys, RedisStore, base
from worker.store.outbox import DeadLetter

NUMBERS = itertools.count()


@pytest.fixture
def telling(store: RedisStore) -> RedisStore:
    """A store that tells back ends over both channels."""
    return RedisStore(store.client, store.keys, replace(TERMS, channels=("webhook", "task"), notice_age=60))


def letters(store: RedisStore, channel: str = "webhook") -> list[OutboxEntry]:
    return store.outbox("webhook" if channel == "webhook" else "task").read("-", limit=100)


@pytest.mark.parametrize(
    ("phase", "kinds"),
    [("claimed", []), ("watching", []), ("ended", ["ended"]), ("lost", ["lost"]), ("expired", ["expired"])],
)
def test_a_change_that_is_told_stands_in_the_outbox_of_each_channel(
    telling: RedisStore, phase: str, kinds: list[str]
) -> None:
    bring_to(telling, phase)
    for channel in ("webhook", "task"):
        assert [one.event["kind"] for one in letters(telling, channel)] == kinds
    told = {one.notice_id: one.event for one in letters(telling)}
    events = dict(telling.events("0", wait=0.01)) if kinds else {}
    assert told.items() <= events.items(), "the notice's id is that of the event"


def test_without_a_channel_nothing_is_kept_for_anybody(store: RedisStore, client: redis.Redis) -> None:
    bring_to(store, "ended")
    assert not [name for name in client.scan_iter("*") if "outbox" in str(name)]
    assert store.notices() == []


def test_letters_are_read_in_order_and_struck_out(telling: RedisStore) -> None:
    for number in range(3):
        bring_to(telling, "ended", Pair("C", str(number)), f"job-{number}")
    outbox = telling.outbox("webhook")
    first, second = outbox.read("-", limit=2)
    (third,) = outbox.read(second.position, limit=2)
    assert [one.event["job_id"] for one in (first, second, third)] == ["job-0", "job-1", "job-2"]
    assert first.notice_id < second.notice_id < third.notice_id
    outbox.delivered(first)
    assert outbox.read("-", limit=9) == [second, third]
    assert len(letters(telling, "task")) == 3, "each channel has its own"
    (webhook, _) = telling.notices()
    assert (webhook.channel, webhook.waiting, webhook.delivered) == ("webhook", 2, 1)
    assert webhook.oldest_at == pytest.approx(telling.now(), abs=60)


def test_one_worker_has_the_turn_and_looks_before_it_sends(telling: RedisStore, client: redis.Redis) -> None:
    bring_to(telling, "ended")
    outbox = telling.outbox("webhook")
    (letter,) = outbox.read("-", limit=9)
    assert outbox.look(letter, "a") == "not ours"
    assert [outbox.acquire_leader_lock(token, 10) for token in ("a", "b", "a")] == [True, False, True]
    assert telling.outbox("task").acquire_leader_lock("b", 10), "the other channel is another turn"
    assert [outbox.look(letter, token) for token in ("a", "b")] == ["here", "not ours"]
    outbox.delivered(letter)
    assert outbox.look(letter, "a") == "gone"
    client.delete("t:notifier:webhook")
    assert outbox.acquire_leader_lock("b", 10)


def age(client: redis.Redis, store: RedisStore, seconds: float) -> OutboxEntry:
    """Put a letter of that age into the outbox."""
    event = {"at": 1.0, "kind": "ended", "case_id": PAIR.case_id, "mediation_id": "20", "job_id": "job-1"}
    position = f"{round((store.now() - seconds) * 1000)}-0"
    client.xadd("t:outbox:webhook", {"id": "7-0", "event": json.dumps(event)}, id=position)
    return OutboxEntry(position, "7-0", event)


def test_what_is_young_is_kept_and_what_is_old_goes_to_the_dead(telling: RedisStore, client: redis.Redis) -> None:
    old, young = age(client, telling, 61), age(client, telling, 50)
    outbox = telling.outbox("webhook")
    assert outbox.give_up(young, "HTTP 500") is False
    assert outbox.give_up(old, "HTTP 500") is True
    assert outbox.give_up(old, "HTTP 500") is True, "once"
    assert outbox.read("-", limit=9) == [young]
    (dead,) = telling.dead_letters()
    assert (dead.notice_id, dead.channel, dead.reason, dead.event) == ("7-0", "webhook", "HTTP 500", old.event)
    assert telling.notices()[0].given_up == 1


def test_dead_letters_are_replayed_in_order_under_their_own_ids(telling: RedisStore, client: redis.Redis) -> None:
    outbox = telling.outbox("webhook")
    for number in range(3):
        event = {"at": 1.0, "kind": "ended", "case_id": "C", "mediation_id": "20"}
        client.xadd("t:outbox:webhook", {"id": f"{number}-0", "event": json.dumps(event)}, id=f"{number + 1}-0")
    for letter in outbox.read("-", limit=9):
        assert outbox.give_up(letter, "HTTP 500")
    assert telling.replay() == 3
    assert telling.replay() == 0
    replayed = outbox.read("-", limit=9)
    assert [letter.notice_id for letter in replayed] == ["0-0", "1-0", "2-0"]
    assert outbox.give_up(replayed[0], "HTTP 500") is False, "its age begins anew"
    assert telling.dead_letters() == []


def test_a_full_outbox_pushes_the_oldest_to_the_dead_and_says_so(
    telling: RedisStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        base,
        "PRELUDE",
        base.PRELUDE.replace("OUTBOX_KEPT, DEAD_KEPT, OF_ONE_CASE = 50000", "OUTBOX_KEPT, DEAD_KEPT, OF_ONE_CASE = 2"),
    )
    store = RedisStore(client, Keys("t"), telling.terms)
    for number in range(3):
        bring_to(store, "ended", Pair("C", str(number)), f"job-{number}")
    assert [one.event["job_id"] for one in letters(store)] == ["job-1", "job-2"]
    assert [(one.event["job_id"], one.reason) for one in store.dead_letters() if one.channel == "webhook"] == [
        ("job-0", "the outbox is full")
    ]
    assert store.notices()[0].pushed_out == 1
    assert store.replay() == 0, "there is still no room, and nothing gets lost by trying"
    assert len(store.dead_letters()) == 2


def small(telling: RedisStore, monkeypatch: pytest.MonkeyPatch, *bounds: int) -> RedisStore:
    """Return a store with room for so many letters: in an outbox, among the dead, of one case."""
    names = "OUTBOX_KEPT, DEAD_KEPT, OF_ONE_CASE = "
    new = base.PRELUDE.replace(f"{names}50000, 10000, 1000", names + ", ".join(map(str, bounds)))
    assert new != base.PRELUDE
    monkeypatch.setattr(base, "PRELUDE", new)
    return RedisStore(telling.client, telling.keys, replace(telling.terms, channels=("webhook",)))


def refuse(store: RedisStore, case_id: str, number: int) -> None:
    """Settle an answer with so many refusals for a case."""
    pair, token = Pair(case_id, "20"), f"{case_id}-{next(NUMBERS)}"
    store.claim(pair, token=token, task_id=token, arguments="{}", expires=None, enabled=True)
    sent_at = store.begin_sending(pair, token)
    assert isinstance(sent_at, float)
    events = [Event("refused", case_id, "20", detail={"error_code": 1002}) for _ in range(number)]
    result = TriggerResult.of("refused", case_id, "20")
    assert store.settle(Settlement(pair, token, token, result, "done", sent_at, [], events))


def cases_of(found: Sequence[OutboxEntry] | Sequence[DeadLetter]) -> dict[str, int]:
    return dict(Counter(one.event["case_id"] for one in found))


def test_s38_one_case_cannot_push_out_anothers_notices(
    telling: RedisStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a share of the outbox and of the dead letters; what it has beyond that is dropped and counted."""
    store = small(telling, monkeypatch, 50, 20, 5)
    refuse(store, "A", 2)
    refuse(store, "flood", 500)
    assert cases_of(letters(store)) == {"A": 2, "flood": 5}
    assert cases_of(store.dead_letters()) == {"flood": 5}
    assert store.notices()[0].pushed_out == 495
    for letter in letters(store):
        store.outbox("webhook").delivered(letter)
    assert store.replay() == 5
    for letter in letters(store):
        store.outbox("webhook").delivered(letter)
    assert client.keys("t:waiting*") + client.keys("t:buried*") == [], "what is counted is what stands there"


def test_s38_in_a_full_list_no_letter_gives_way_to_a_case_that_has_more(
    telling: RedisStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = small(telling, monkeypatch, 6, 3, 5)
    for case_id, number in (("A", 1), ("B", 1), ("flood", 9)):
        refuse(store, case_id, number)
    assert cases_of(letters(store)) == {"A": 1, "B": 1, "flood": 4}
    assert cases_of(store.dead_letters()) == {"flood": 3}
    refuse(store, "C", 1)
    assert cases_of(letters(store)) == {"B": 1, "flood": 4, "C": 1}, "the oldest makes room for a case that has none"
    assert cases_of(store.dead_letters()) == {"flood": 2, "A": 1}
    assert client.hgetall("t:buried") == {"flood": "2", "A": "1"}
    refuse(store, "flood", 9)
    assert cases_of(letters(store)) == {"B": 1, "flood": 4, "C": 1}
    assert cases_of(store.dead_letters())["A"] == 1


def test_an_erased_case_has_no_letters_left(telling: RedisStore, client: redis.Redis) -> None:
    bring_to(telling, "ended")
    bring_to(telling, "ended", Pair("C/12", "20"), "job-2")
    outbox = RedisStore(telling.client, telling.keys, replace(telling.terms, notice_age=0)).outbox("task")
    for letter in outbox.read("-", limit=2):  # one of each case
        outbox.give_up(letter, "gone")
    erased = telling.erase(PAIR.case_id, anyway=False)
    assert getattr(erased, "letters", 0) == 2
    assert found(client, '"C/1"', '"C/1\\"') == []
    assert [one.pair.case_id for one in letters(telling)] == ["C/12"]
    assert [letter.event["case_id"] for letter in telling.dead_letters()] == ["C/12"]


def test_a_prefix_with_quotes_is_a_prefix(client: redis.Redis) -> None:
    store = RedisStore(client, Keys('t:"\\'), replace(TERMS, channels=("task",)))
    bring_to(store, "ended")
    assert len(letters(store, "task")) == 1
    client.flushdb()


def test_refusals_and_failures_are_told_as_well(telling: RedisStore) -> None:
    bring_to(telling, "sending")
    from tests.contract.test_claims import settlement  # noqa: PLC0415 - its helpers are made for another pair

    told = [Event("refused", "C-1", "20", detail={"message": "未到时间", "error_code": 1001})]
    plain = settlement("refused", "done", "job-1", task_id="task-job-1")
    assert telling.settle(replace(plain, pair=PAIR, events=told))
    assert [one.event["message"] for one in letters(telling)] == ["未到时间"]

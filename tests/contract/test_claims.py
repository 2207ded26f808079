"""Test claims: each script compares the owner token; one trigger of a pair sends."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from tests.contract.steps import PAIR, claim, phase, settlement, started
from worker.core.model import Pair
from worker.core.trigger_model import ClaimAnswered, Claimed, DuplicateDelivery
from worker.store import RedisStore

OTHERS = [Pair("C-2", "20"), Pair("C-1", "21"), Pair("C-1:20", "x"), Pair("案件/1", "20")]


def test_lock_is_a_string_with_the_token_and_a_time_to_live(store: RedisStore, client: redis.Redis) -> None:
    """S4 S5: the lock outlasts the two-hour watch."""
    assert claim(store) == Claimed()
    assert client.get("t:lock:C-1:20") == "tok"
    assert 7_200_000 < client.pttl("t:lock:C-1:20") <= 9_000_000
    assert phase(store) == "claimed"


def test_lock_name_quotes_the_ids(store: RedisStore, client: redis.Redis) -> None:
    """An id cannot collide with another pair's name."""
    assert claim(store, pair=Pair("a:b c", "中/1")) == Claimed()
    assert client.exists("t:lock:a%3Ab%20c:%E4%B8%AD%2F1") == 1


def test_second_trigger_is_skipped_with_the_watched_jobs_while_the_lock_is_held(store: RedisStore) -> None:
    """S4: a redelivery of the skipped task returns the same result."""
    started(store, "j-1", "j-2")
    for first in (True, False):
        answer = claim(store, token="other", task_id="task-2")
        assert isinstance(answer, ClaimAnswered)
        assert answer.result["outcome"] == "skipped"
        assert answer.result["message"] == "已有活跃外呼任务,跳过发起新外呼"
        assert answer.result["jobs"] == [
            {"job_id": "j-1", "person_id": "P-j-1", "call_status": "Scheduling"},
            {"job_id": "j-2", "person_id": "P-j-2", "call_status": "Scheduling"},
        ]
        assert answer.why == ("skipped" if first else "handled")


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_another_pair_is_never_blocked(store: RedisStore, other: Pair) -> None:
    """S4."""
    started(store, "j-1")
    assert claim(store, token="other", task_id="task-2", pair=other) == Claimed()


def test_lock_without_a_ledger_blocks(store: RedisStore, client: redis.Redis) -> None:
    """S17: an existing lock blocks, whichever process wrote it."""
    client.set("t:lock:C-1:20", "another", px=60_000)
    answer = claim(store)
    assert isinstance(answer, ClaimAnswered)
    assert answer.why == "skipped"


def test_open_ledger_without_a_lock_blocks(store: RedisStore, client: redis.Redis) -> None:
    """S17: the ledger still protects the pair after its lock has expired."""
    started(store, "j-1")
    client.delete("t:lock:C-1:20")
    answer = claim(store, token="other", task_id="task-2")
    assert isinstance(answer, ClaimAnswered)
    assert answer.why == "skipped"


def test_only_one_of_many_simultaneous_claims_wins(store: RedisStore) -> None:
    """S6."""
    barrier = threading.Barrier(16)

    def contend(number: int) -> Claimed | ClaimAnswered | DuplicateDelivery:
        barrier.wait()
        return claim(store, token=f"tok-{number}", task_id=f"task-{number}")

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(contend, range(16)))
    assert sum(answer == Claimed() for answer in answers) == 1
    assert sum(isinstance(answer, ClaimAnswered) and answer.why == "skipped" for answer in answers) == 15


def test_claim_sent_twice_over_a_broken_connection_keeps_its_owner(store: RedisStore) -> None:
    """The client resends a script whose reply was lost: the same token must get the same reply."""
    assert claim(store) == Claimed()
    assert claim(store) == Claimed()


def test_duplicate_delivery_is_dropped_while_its_sender_may_be_alive(store: RedisStore, client: redis.Redis) -> None:
    """S17: in every phase of the first delivery."""
    assert claim(store) == Claimed()
    assert claim(store, token="copy") == DuplicateDelivery()
    assert store.begin_sending(PAIR, "tok")
    assert claim(store, token="copy") == DuplicateDelivery()
    assert client.get("t:lock:C-1:20") == "tok"


def test_unsent_claim_is_taken_over_after_30_s(store: RedisStore, client: redis.Redis) -> None:
    """S18: the new token prevents the first owner from sending."""
    assert claim(store) == Claimed()
    client.hset("t:ledger:C-1:20", "claimed_at", store.now() - 31)
    assert claim(store, token="new") == Claimed()
    assert store.begin_sending(PAIR, "tok") == "taken"
    assert isinstance(store.begin_sending(PAIR, "new"), float)


def test_handled_task_returns_its_result_after_the_release(store: RedisStore) -> None:
    """S17: a redelivered trigger never dials again."""
    assert claim(store) == Claimed()
    store.begin_sending(PAIR, "tok")
    assert store.settle(settlement("refused", "done"))
    answer = claim(store, token="again")
    assert isinstance(answer, ClaimAnswered)
    assert (answer.why, answer.result["outcome"], answer.result["message"]) == ("handled", "refused", "话")
    assert claim(store, token="other", task_id="task-2") == Claimed()


@pytest.mark.parametrize("task_id", ["task", "case-data:C-1:20", "载入/1 %3A"])
def test_task_counts_as_handled_from_its_request_on(store: RedisStore, client: redis.Redis, task_id: str) -> None:
    """S17 S18: for any id; its sender died, and the pair was released or expired in a long outage."""
    assert claim(store, task_id=task_id) == Claimed()
    assert isinstance(store.begin_sending(PAIR, "tok"), float)
    client.delete("t:ledger:C-1:20", "t:lock:C-1:20")
    answer = claim(store, token="again", task_id=task_id)
    assert isinstance(answer, ClaimAnswered)
    assert (answer.why, answer.result["outcome"]) == ("handled", "unknown")
    client.delete(store.keys.task(task_id))  # without its ledger it would remain


def test_sending_requires_the_owner_token(store: RedisStore, client: redis.Redis) -> None:
    """S18."""
    assert claim(store) == Claimed()
    assert store.begin_sending(PAIR, "stranger") == "taken"
    client.set("t:lock:C-1:20", "stranger", px=60_000)
    assert store.begin_sending(PAIR, "tok") == "taken"


@pytest.mark.parametrize("later", ["watching", "unknown", "done"])
def test_sending_requires_a_claimed_pair(store: RedisStore, client: redis.Redis, later: str) -> None:
    """S18: no later phase leads back to sending."""
    assert claim(store) == Claimed()
    client.hset("t:ledger:C-1:20", "phase", later)
    assert store.begin_sending(PAIR, "tok") == "taken"


def test_pause_stops_claims_and_sending(store: RedisStore) -> None:
    """S16: immediately, until the resume."""
    assert claim(store) == Claimed()
    assert not store.is_paused()
    store.pause("tests")
    assert store.is_paused()
    assert store.begin_sending(PAIR, "tok") == "paused"
    answer = claim(store, token="other", task_id="task-2", pair=OTHERS[0])
    assert isinstance(answer, ClaimAnswered)
    assert answer.result["outcome"] == "disabled"
    assert [event["kind"] for event in store.history(OTHERS[0].case_id)] == ["disabled"]
    assert store.resume()
    assert not store.resume()
    assert isinstance(store.begin_sending(PAIR, "tok"), float)


def test_a_deployment_can_be_switched_off(store: RedisStore) -> None:
    """S16: the setting stops new calls, whether or not they are paused."""
    answer = store.claim(PAIR, token="tok", task_id="task", arguments="{}", expires=None, enabled=False)
    assert isinstance(answer, ClaimAnswered)
    assert answer.why == "disabled"
    assert phase(store) is None


def test_s18_claim_is_renewed_by_its_owner_and_never_regained(store: RedisStore, client: redis.Redis) -> None:
    """An owner that keeps querying or connecting renews its claim; an owner that lost its claim does not dial."""
    assert claim(store) == Claimed()
    client.hset("t:ledger:C-1:20", "claimed_at", "1000.000")
    client.zadd("t:pairs", {"C-1:20": 1_030})
    assert store.renew(PAIR, "tok")
    assert float(str(client.hget("t:ledger:C-1:20", "claimed_at"))) > 1_000
    assert float(str(client.zscore("t:pairs", "C-1:20"))) > 1_030
    assert not store.renew(PAIR, "another")
    assert isinstance(store.begin_sending(PAIR, "tok"), float)
    due = client.zscore("t:pairs", "C-1:20")
    assert store.renew(PAIR, "tok"), "a provably unsent attempt may be repeated"
    assert client.zscore("t:pairs", "C-1:20") == due, "the time of `sending` is unchanged"
    assert store.settle(settlement("failed", "done"))
    assert not store.renew(PAIR, "tok")


@pytest.mark.parametrize(("before", "carried"), [("claimed", "4"), ("waiting", None)])
def test_republications_are_counted_per_claim(
    store: RedisStore, client: redis.Redis, before: str, carried: str | None
) -> None:
    """S18: republications of a trigger that waited for calling hours do not count against its claim."""
    assert claim(store) == Claimed()
    client.hset(
        "t:ledger:C-1:20", mapping={"phase": before, "until": 1, "claimed_at": 1, "republished": 4, "requeued": 1}
    )
    assert claim(store, token="new") == Claimed()
    assert client.hget("t:ledger:C-1:20", "republished") == carried

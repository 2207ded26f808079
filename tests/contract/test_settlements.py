"""Test settlements: an answer is stored whole, late answers are watched, a phase changes only legally (S18)."""

import json
from dataclasses import replace

import pytest
import redis

from api_client.reasons import Reason
from tests.contract.steps import PAIR, claim, phase, settlement, started
from worker.core.decision import Outcome
from worker.core.interfaces import StoreRefused
from worker.core.messages import TriggerResult
from worker.core.model import Event
from worker.core.trigger_model import ClaimAnswered, Claimed, NewJob, Settlement
from worker.store import RedisStore

EARLIER = {"last_failure": "unknown", "last_failure_at": "999900.000", "last_failure_since": "999000.000"}


def test_an_answer_is_stored_whole(store: RedisStore, client: redis.Redis) -> None:
    """S11 S18 S20 S36: records, due times, live set, events and result are written in one step."""
    sent = started(store, "j-1", "j-2")
    calls = store.calls(case_id="C-1")
    assert [call.job_id for call in calls] == ["j-1", "j-2"]
    call = calls[0]
    assert (call.person_id, call.case_id, call.mediation_id) == ("P-j-1", "C-1", "20")
    assert (call.call_status, call.verdict, call.retry_count, call.poll_no) == ("Scheduling", None, 0, 1)
    assert call.started_at == 1_000_000.0
    assert call.deadline == 1_007_200.0
    assert sent <= call.watched_at
    assert client.zscore("t:due", "j-1") == pytest.approx(call.due)
    assert client.smembers("t:live:C-1:20") == {"j-1", "j-2"}
    assert [(event["kind"], event["job_id"]) for event in store.history("C-1")] == [
        ("started", "j-1"),
        ("started", "j-2"),
    ]
    assert [event["label"] for _, event in store.events("0", wait=0.01)] == ["拨号中", "拨号中"]
    assert json.loads(str(client.get("t:task:task")))["outcome"] == "started"
    assert phase(store) == "watching"


def test_dial_without_a_started_call_releases_the_pair(store: RedisStore, client: redis.Redis) -> None:
    """S5 S12: immediately."""
    assert claim(store) == Claimed()
    assert store.settle(settlement("failed", "done"))
    assert client.exists("t:lock:C-1:20") == 0
    assert phase(store) == "done"
    assert claim(store, token="other", task_id="task-2") == Claimed()


def test_unknown_outcome_keeps_the_lock(store: RedisStore, client: redis.Redis) -> None:
    """S14: the pair stays locked."""
    assert claim(store) == Claimed()
    store.begin_sending(PAIR, "tok")
    assert store.settle(settlement("unknown", "unknown"))
    assert client.get("t:lock:C-1:20") == "tok"
    assert phase(store) == "unknown"
    answer = claim(store, token="other", task_id="task-2")
    assert isinstance(answer, ClaimAnswered)
    assert answer.why == "skipped"


def test_settlement_with_a_foreign_token_is_rejected(store: RedisStore, client: redis.Redis) -> None:
    """S5: only the owner's token releases a pair."""
    assert claim(store) == Claimed()
    assert store.settle(settlement("failed", "done", "stranger")) is None
    assert client.get("t:lock:C-1:20") == "tok"
    assert phase(store) == "claimed"


def test_s17_failure_of_a_former_owner_does_not_pass_for_the_stored_one(store: RedisStore) -> None:
    """Only of an unknown outcome may the reason change; any other result of a lost claim is dropped."""
    assert claim(store) == Claimed()
    answers: list[tuple[str, Reason, bool]] = [
        ("tok", "timeout", True), ("former", "connect", False), ("former", "timeout", True)
    ]  # fmt: skip
    for token, reason, stored in answers:
        result = TriggerResult.of("failed", "C-1", "20", message="话", reason=reason)
        answer = store.settle(replace(settlement("failed", "done", token), result=result))
        assert (answer is not None) is stored, (token, reason)


def test_late_answer_is_watched_under_another_owner(store: RedisStore, client: redis.Redis) -> None:
    """S18: no answer is discarded; the new owner keeps its lock."""
    assert claim(store) == Claimed()
    client.hset("t:ledger:C-1:20", "claimed_at", store.now() - 31)
    assert claim(store, token="new") == Claimed()
    assert store.settle(settlement("started", "watching", "tok", "j-late"))
    assert client.get("t:lock:C-1:20") == "new"
    assert phase(store) == "claimed"
    assert store.settle(settlement("refused", "done", "new"))  # the new owner's dial started no call
    assert client.get("t:lock:C-1:20") == "new"  # but the late call holds the pair
    assert phase(store) == "watching"


def test_s18_late_answer_leaves_the_task_of_an_open_pair_without_time_to_live(
    store: RedisStore, client: redis.Redis
) -> None:
    """A claim was republished under its task id; the earlier owner's answer arrives while the new owner sends."""
    assert claim(store) == Claimed()
    client.hset("t:ledger:C-1:20", "claimed_at", store.now() - 31)
    assert claim(store, token="new") == Claimed()
    assert isinstance(store.begin_sending(PAIR, "new"), float)
    assert store.settle(settlement("started", "watching", "tok", "j-late"))
    assert client.ttl("t:task:task") == -1


def test_late_answer_takes_a_free_pair_back(store: RedisStore, client: redis.Redis) -> None:
    """S18: in any phase."""
    assert claim(store) == Claimed()
    assert store.settle(settlement("failed", "done"))
    assert store.settle(settlement("started", "watching", "tok", "j-late"))
    assert client.get("t:lock:C-1:20") == "tok"
    assert phase(store) == "watching"


def test_a_known_job_is_not_overwritten(store: RedisStore, client: redis.Redis) -> None:
    """S11: an answer stored twice changes nothing; a trigger never overwrites another trigger's jobs."""
    started(store, "j-1")
    client.hset("t:job:j-1", mapping={"poll_no": 7, "call_status": "Executing"})
    again = store.settle(settlement("started", "watching", "tok", "j-1"))
    assert again is not None
    assert again.watched == []
    assert [(call.poll_no, call.call_status) for call in store.calls()] == [(7, "Executing")]


def test_lists_and_streams_are_bounded(store: RedisStore, client: redis.Redis) -> None:
    """S36: a case's history keeps its newest thousand entries."""
    assert claim(store) == Claimed()
    many = settlement("unknown", "unknown")
    flood = Settlement(
        **{name: getattr(many, name) for name in ("pair", "token", "task_id", "result", "phase", "sent_at", "jobs")},
        events=[Event("unknown", "C-1", "20", detail={"n": number}) for number in range(1_005)],
    )
    assert store.settle(flood)
    assert len(store.history("C-1")) == 1_000
    assert store.history("C-1")[-1]["n"] == 1_004
    assert int(client.xlen("t:events")) <= 11_000


def test_watched_calls_hold_a_pair_without_lock_and_ledger(store: RedisStore, client: redis.Redis) -> None:
    """S5: the time to live is a safety limit, not the mechanism."""
    started(store, "j-1")
    client.delete("t:lock:C-1:20", "t:ledger:C-1:20")
    answer = claim(store, token="other", task_id="task-2")
    assert isinstance(answer, ClaimAnswered)
    assert [job["job_id"] for job in answer.result["jobs"]] == ["j-1"]
    client.delete("t:task:task")


def test_adopted_and_lost_call_keeps_the_time_of_the_first_failure(store: RedisStore, client: redis.Redis) -> None:
    """S5: further calls of the request that failed may still appear."""
    started(store, "j-1")
    client.hset("t:job:j-1", mapping={"person_id": "", "verdict": "lost"})
    client.hset("t:ledger:C-1:20", "last_failure_since", "999000.000")
    found = replace(settlement("skipped", "done", "tok", "j-1", task_id="other"), sent_at=None)
    assert store.settle(found)
    assert client.hmget("t:ledger:C-1:20", "last_failure", "last_failure_since") == ["lost", "999000.000"]
    client.delete("t:task:task")


@pytest.mark.parametrize(("outcome", "left"), [("started", None), ("refused", "unknown")])
def test_answer_with_every_call_ends_the_query_first(
    store: RedisStore, client: redis.Redis, outcome: Outcome, left: str | None
) -> None:
    """S5: the time of the earlier request stays, for the next failure of that day."""
    claim(store)
    client.hset("t:ledger:C-1:20", items=[part for field in EARLIER.items() for part in field])
    store.begin_sending(PAIR, "tok")
    store.settle(settlement(outcome, "done"))
    names = ["last_failure", "last_failure_at", "last_failure_since"]
    assert client.hmget("t:ledger:C-1:20", names) == [left, EARLIER["last_failure_at"], EARLIER["last_failure_since"]]


def test_late_answer_of_a_former_owner_leaves_the_query_first(store: RedisStore, client: redis.Redis) -> None:
    """S5 S18: the failure belongs to the pair of another owner, whose request is under way."""
    claim(store)
    store.begin_sending(PAIR, "tok")
    client.hset("t:ledger:C-1:20", items=[part for field in EARLIER.items() for part in field])
    client.hset("t:ledger:C-1:20", "token", "other")
    store.settle(settlement("started", "watching", "tok", "j-1"))
    assert client.hget("t:ledger:C-1:20", "last_failure") == "unknown"
    client.delete("t:task:task")


def test_late_answer_changes_neither_verdict_nor_status(store: RedisStore, client: redis.Redis) -> None:
    """S27: it adds the person only."""
    started(store, "j-1")
    client.hset("t:job:j-1", mapping={"person_id": "", "verdict": "ended", "call_status": "Succeeded"})
    client.delete("t:task:task")  # otherwise it is the same answer, sent twice
    assert store.settle(settlement("started", "watching", "tok", "j-1"))
    (call,) = store.calls(job_id="j-1")
    assert (call.person_id, call.verdict, call.call_status) == ("P-j-1", "ended", "Succeeded")


def test_s9_refusals_of_a_late_answer_are_published(store: RedisStore, client: redis.Redis) -> None:
    """S35: the sweep has published the unknown outcome, but not the refusals."""
    assert claim(store) == Claimed()
    assert isinstance(store.begin_sending(PAIR, "tok"), float)
    client.hset("t:ledger:C-1:20", mapping={"phase": "unknown", "lookup": "1", "lookup_from": "9", "found": 2})
    events = [Event("refused", "C-1", "20", detail={"error_code": 1001}), Event("unknown", "C-1", "20")]
    late = replace(settlement("unknown", "unknown"), events=events)
    for _ in range(2):
        assert store.settle(late)
    assert [event["kind"] for event in store.history("C-1")] == ["refused"]
    assert client.hmget("t:ledger:C-1:20", "lookup_from", "found") == ["9", "2"], "S14: the window is unchanged"


def test_s18_unknown_outcome_that_arrives_after_the_look_up_opens_another(
    store: RedisStore, client: redis.Redis
) -> None:
    """S7 S14: a call was found for a sender that was given up; then its answer comes, one record without a job."""
    assert claim(store) == Claimed()
    assert isinstance(store.begin_sending(PAIR, "tok"), float)
    for passed in ("sending_at", "lookup_from"):
        client.hset("t:ledger:C-1:20", passed, "1000.000")
        client.zadd("t:pairs", {"C-1:20": 0})
        attended = store.attend(PAIR, token="sweeper")
        if passed == "sending_at":
            assert (attended, phase(store)) == ("look", "unknown")
            look_up = store.open_look_up(PAIR)
            assert look_up is not None
            assert store.adopt(PAIR, look_up, [NewJob("j-1", "", "Executing", 5)], answered=True)
            client.hset("t:ledger:C-1:20", "answered_at", "1000.000")
    assert phase(store) == "watching"
    refused = Event("refused", "C-1", "20", detail={"error_code": 1001})
    for _ in range(2):
        assert store.settle(replace(settlement("unknown", "unknown"), events=[refused])) is not None
    assert phase(store) == "unknown"
    assert store.open_look_up(PAIR) is not None
    assert store.watched(PAIR) == 1
    assert [event["kind"] for event in store.history("C-1")].count("refused") == 1


def test_duplicate_result_leaves_the_pair_to_its_owner(store: RedisStore) -> None:
    """S17: of two deliveries of one trigger, the claim's owner ends it, even if the other has stored the result."""
    assert claim(store) == Claimed()
    first = settlement("skipped", "done", "old", "j-1")
    assert store.settle(first), "a found call is watched, whichever delivery found it"
    assert phase(store) == "claimed"
    assert store.settle(settlement("skipped", "done", "tok", "j-1"))
    assert phase(store) == "done" or store.watched(PAIR) == 1
    assert phase(store) != "claimed"


def test_s18_illegal_settlement_writes_nothing(store: RedisStore, client: redis.Redis) -> None:
    """An answer under the token of a trigger that waits and has sent nothing: the guard precedes the first write."""
    assert claim(store) == Claimed()
    event = Event("deferred", "C-1", "20", detail={"reason": "throttled"})
    assert store.defer(PAIR, "tok", until=9e9, event=event)
    before = {key: client.dump(key) for key in client.scan_iter()}
    with pytest.raises(StoreRefused, match="illegal transition: watch in phase waiting"):
        store.settle(settlement("started", "watching", "tok", "j-1"))
    assert {key: client.dump(key) for key in client.scan_iter()} == before
    client.delete("t:ledger:C-1:20")


def test_s18_illegal_transition_raises_and_changes_nothing(store: RedisStore, client: redis.Redis) -> None:
    """A request leaves only under a claim."""
    step = store.script("enter(KEYS[1], 'send', redis.call('HGET', KEYS[1], 'phase'), 'sending_at', '1')")
    for phase_before in ("waiting", "watching", "unknown", "done"):
        client.hset("t:ledger:C-1:20", "phase", phase_before)
        with pytest.raises(StoreRefused, match=f"illegal transition: send in phase {phase_before}"):
            store.run(step, ["t:ledger:C-1:20"], [])
        assert client.hgetall("t:ledger:C-1:20") == {"phase": phase_before}
    client.delete("t:ledger:C-1:20")

"""The two ends of a poll: the fence, the record with its successor, the verdict and the pair's release."""

from dataclasses import replace

import pytest
import redis

from tests.contract.conftest import TERMS
from tests.contract.test_trigger_steps import PAIR, phase, settlement, started
from worker.decision import Poll, Verdict
from worker.store import RedisStore
from worker.values import Begun, Dropped, Early, Event, Heard, Timing


def make_due(client: redis.Redis, job_id: str, *, ago: float = 0) -> float:
    seconds, micros = client.time()
    due = seconds + micros / 1e6 - ago
    client.hset(f"t:job:{job_id}", "due", f"{due:.3f}")
    return due


def begun(store: RedisStore, client: redis.Redis, job_id: str = "j-1", poll_no: int = 1) -> Begun:
    make_due(client, job_id)
    start = store.begin_poll(job_id, poll_no)
    assert isinstance(start, Begun)
    return start


def go_on(store: RedisStore, poll: Poll, status: str | None = "Scheduling", event: Event | None = None) -> bool:
    heard: Heard = "answer" if status else "unavailable"
    return store.continue_poll(PAIR, "j-1", poll, heard=heard, call_status=status, event=event) is not None


def finish(store: RedisStore, verdict: Verdict = "ended", poll_no: int = 1, job_id: str = "j-1") -> bool:
    written = store.finish_poll(
        PAIR,
        job_id,
        poll_no,
        verdict=verdict,
        retry_count=0,
        heard="answer" if verdict == "ended" else "unavailable",
        call_status="Succeeded" if verdict == "ended" else None,
        event=Event(verdict, "C-1", "20", job_id),
    )
    return written is not None


def test_one_copy_of_a_poll_gets_past_the_fence(store: RedisStore, client: redis.Redis) -> None:
    """S28: the number has moved on; every other copy is dropped before any request."""
    started(store, "j-1")
    start = begun(store, client)
    assert (start.pair, start.poll.poll_no, start.call_status) == (PAIR, 1, "Scheduling")
    assert store.begin_poll("j-1", 1) == Dropped("fenced")
    assert store.begin_poll("j-1", 3) == Dropped("fenced")
    assert isinstance(store.begin_poll("j-1", 2), Begun)


@pytest.mark.parametrize(("took", "lease"), [(0.4, 1), (0.6, 10), (None, 1)])
def test_a_running_poll_counts_as_missing_only_after_its_lease(
    store: RedisStore, client: redis.Redis, took: float | None, lease: float
) -> None:
    """S28: it may take as long as a query may, once upstream has not answered promptly for a minute."""
    started(store, "j-1")
    start = begun(store, client)
    assert client.zscore("t:due", "j-1") == pytest.approx(start.now + 1, abs=0.01)
    store.continue_poll(
        PAIR,
        "j-1",
        replace(start.poll, poll_no=2, due=start.poll.due + 10),
        heard="answer",
        call_status="Executing",
        event=None,
        timing=Timing(0, took),
    )
    start = begun(store, client, poll_no=2)
    assert client.zscore("t:due", "j-1") == pytest.approx(start.now + lease, abs=0.01)


def test_s28_copies_of_a_slow_poll_do_not_overtake_each_other_for_ever(store: RedisStore, client: redis.Redis) -> None:
    """A poll that waits is taken for dead once; its copy has the whole lease, and then all know upstream to be slow."""
    started(store, "j-1", "j-2")
    slow = begun(store, client)
    client.hset("t:job:j-1", "reissued", 1)  # as the sweep does
    copy = begun(store, client, poll_no=2)
    assert client.zscore("t:due", "j-1") == pytest.approx(copy.now + 10, abs=0.01)
    start = begun(store, client, "j-2")
    assert client.zscore("t:due", "j-2") == pytest.approx(start.now + 1, abs=0.01)
    late = replace(slow.poll, poll_no=2, due=slow.poll.due + 10)
    timing = Timing(0, 5.0)
    overtaken = store.continue_poll(
        PAIR, "j-1", late, heard="answer", call_status="Executing", event=None, timing=timing
    )
    assert overtaken is None
    start = begun(store, client, "j-2", poll_no=2)
    assert client.zscore("t:due", "j-2") == pytest.approx(start.now + 10, abs=0.01)


def test_s35_the_end_of_a_poll_that_is_sent_twice_is_told_once(store: RedisStore, client: redis.Redis) -> None:
    started(store, "j-1")
    start = begun(store, client)
    event = Event("status_changed", "C-1", "20", "j-1", {"label": "通话中"})
    successor = replace(start.poll, poll_no=2, due=start.poll.due + 10)
    for _ in range(2):
        assert store.continue_poll(PAIR, "j-1", successor, heard="answer", call_status="Executing", event=event)
    assert [entry["kind"] for entry in store.history("C-1")].count("status_changed") == 1


def test_a_poll_without_a_record_is_dropped(store: RedisStore) -> None:
    """S20."""
    assert store.begin_poll("j-none", 1) == Dropped("absent")


def test_a_poll_that_comes_early_is_put_back_with_its_number(store: RedisStore, client: redis.Redis) -> None:
    """S20: over a second."""
    started(store, "j-1")
    due = make_due(client, "j-1", ago=-5)
    early = store.begin_poll("j-1", 1)
    assert isinstance(early, Early)
    assert early.poll.poll_no == 1
    assert early.poll.due == pytest.approx(due, abs=0.01)
    make_due(client, "j-1", ago=-0.5)
    assert isinstance(store.begin_poll("j-1", 1), Begun)


def test_the_record_rules_over_the_message(store: RedisStore, client: redis.Redis) -> None:
    """S20: retry count, due time and deadline are the record's."""
    started(store, "j-1")
    client.hset("t:job:j-1", mapping={"retry_count": 4, "deadline": "1234.500"})
    start = begun(store, client)
    assert (start.poll.retry_count, start.poll.deadline) == (4, 1234.5)


def test_a_polls_end_writes_the_record_and_its_successor(store: RedisStore, client: redis.Redis) -> None:
    """S11 S20 S31: with the event of a change, and the time at which the call was first seen Executing."""
    started(store, "j-1")
    start = begun(store, client)
    changed = Event("status_changed", "C-1", "20", "j-1", {"call_status": "Executing"})
    assert go_on(store, Poll(2, start.now + 10, 9e9, 3), "Executing", changed)
    call = store.calls(job_id="j-1")[0]
    assert (call.call_status, call.retry_count, call.poll_no) == ("Executing", 3, 2)
    assert call.due == pytest.approx(start.now + 10, abs=0.01)
    assert client.zscore("t:due", "j-1") == pytest.approx(call.due, abs=0.01)
    assert call.last_polled_at is not None
    assert call.executing_since is not None
    assert [event["kind"] for event in store.history("C-1")] == ["started", "status_changed"]
    begun(store, client, poll_no=2)
    assert go_on(store, Poll(3, 9e8, 9e9, 0), "Executing")
    assert store.calls(job_id="j-1")[0].executing_since == call.executing_since


def test_a_failed_query_leaves_the_status_as_it_is(store: RedisStore, client: redis.Redis) -> None:
    """S23."""
    started(store, "j-1")
    begun(store, client)
    assert go_on(store, Poll(2, 9e8, 9e9, 1), None)
    assert store.calls()[0].call_status == "Scheduling"


def test_an_overtaken_poll_writes_nothing_but_a_terminal_status(store: RedisStore, client: redis.Redis) -> None:
    """S28: the end of a poll is fenced too."""
    started(store, "j-1")
    begun(store, client)
    begun(store, client, poll_no=2)  # another poll has moved the number on meanwhile
    assert not go_on(store, Poll(2, 1.0, 9e9, 9), "Paused")
    assert not finish(store, "lost")
    assert not finish(store, "expired")
    assert store.calls()[0].call_status == "Scheduling"
    assert finish(store, "ended")
    assert [call.verdict for call in store.calls(job_id="j-1")] == ["ended"]


@pytest.mark.parametrize("first", ["ended", "lost", "expired"])
@pytest.mark.parametrize("second", ["ended", "lost", "expired"])
def test_a_verdict_stands(store: RedisStore, client: redis.Redis, first: Verdict, second: Verdict) -> None:
    """S27 S28: a late or repeated answer never brings a call back, nor changes how it ended."""
    started(store, "j-1")
    begun(store, client)
    assert finish(store, first)
    assert not finish(store, second)
    assert not go_on(store, Poll(2, 9e8, 9e9, 0), "Executing")
    assert store.begin_poll("j-1", 2) == Dropped("finished")
    assert [call.verdict for call in store.calls(job_id="j-1")] == [first]
    assert client.zcard("t:due") == 0
    assert [event["kind"] for event in store.history("C-1")] == ["started", first]


def test_the_pair_is_let_go_with_its_last_call(store: RedisStore, client: redis.Redis) -> None:
    """S5: not before; then a new trigger may call again."""
    started(store, "j-1", "j-2")
    begun(store, client, "j-1")
    assert finish(store)
    assert client.get("t:lock:C-1:20") == "tok"
    begun(store, client, "j-2")
    assert finish(store, job_id="j-2")
    assert client.exists("t:lock:C-1:20") == 0
    assert phase(store) == "done"
    assert client.exists("t:live:C-1:20") == 0


def test_a_strangers_lock_is_never_released(store: RedisStore, client: redis.Redis) -> None:
    """S5: compare and delete."""
    started(store, "j-1")
    client.set("t:lock:C-1:20", "stranger", px=60_000)
    begun(store, client)
    assert finish(store)
    assert client.get("t:lock:C-1:20") == "stranger"


@pytest.mark.parametrize("held_by", [{"phase": "unknown"}, {"phase": "sending"}, {"lookup": "1"}])
def test_the_pair_is_held_while_it_is_not_just_watching(
    store: RedisStore, client: redis.Redis, held_by: dict[str, str]
) -> None:
    """S5: phase other than watching, or an open look-up."""
    started(store, "j-1")
    client.hset("t:ledger:C-1:20", items=[part for item in held_by.items() for part in item])
    begun(store, client)
    assert finish(store)
    assert client.get("t:lock:C-1:20") == "tok"


@pytest.mark.parametrize(("verdict", "trouble"), [("ended", None), ("lost", "lost"), ("expired", "expired")])
def test_a_bad_end_is_remembered(store: RedisStore, client: redis.Redis, verdict: Verdict, trouble: str | None) -> None:
    """S5: the next trigger has to know."""
    started(store, "j-1")
    begun(store, client)
    assert finish(store, verdict)
    assert client.hget("t:ledger:C-1:20", "trouble") == trouble


def test_finished_calls_outlive_the_memory_of_a_bad_end(store: RedisStore, client: redis.Redis) -> None:
    """S5 S36: an ended call that was forgotten would pass for a new one. Their list is as long as the history."""
    started(store, "j-1")
    begun(store, client)
    client.zadd("t:finished", {"j-old": store.now() - 86_401, "j-recent": store.now() - 86_300})
    assert finish(store)
    assert client.zrange("t:finished", 0, -1) == ["j-recent", "j-1"]
    assert 86_400_000 < client.pttl("t:job:j-1") <= TERMS.job_ttl * 1_000
    assert [call.job_id for call in store.calls(finished=True)] == ["j-1"]
    assert store.calls() == []


def test_views_narrow_to_a_case_and_a_job(store: RedisStore, client: redis.Redis) -> None:
    started(store, "j-1", "j-2")
    begun(store, client)
    assert finish(store)
    assert [call.job_id for call in store.calls(case_id="C-1")] == ["j-2"]
    assert [call.job_id for call in store.calls(case_id="C-1", finished=True)] == ["j-1", "j-2"]
    assert [call.job_id for call in store.calls(job_id="j-1")] == ["j-1"]
    assert store.calls(case_id="C-2") == []
    assert store.calls(job_id="j-1", case_id="C-2") == []
    assert [one.phase for one in store.pairs(case_id="C-1")] == ["watching"]
    assert store.pairs(case_id="C-2") == []


def test_the_first_poll_is_never_due_after_the_deadline(store: RedisStore) -> None:
    """S20: at most 2 hours from `sending`, also for an answer that came late."""
    assert store.claim(PAIR, token="tok", task_id="task", arguments="{}", expires=None, enabled=True)
    store.settle(settlement("started", "watching", "tok", "j-1"))  # sent in 1970
    assert [call.due for call in store.calls()] == [1_007_200.0]

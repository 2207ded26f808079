"""Test the two ends of a poll: the fence, the record with its successor, the verdict and the release of the pair."""

from dataclasses import replace

import pytest
import redis

from tests.contract.conftest import TERMS
from tests.contract.steps import PAIR, begun, continue_watch, finish, phase, settlement, started
from tests.polls import begin_poll, continue_poll
from worker.core.decision import Next, Poll, Verdict
from worker.core.model import Event, Pair
from worker.core.poll_model import PollDropped, PollEnd, PollStarted, QueryResult
from worker.store import RedisStore

JOBS = ("j-1", "j-2", "j-3")


def test_only_one_delivery_of_a_poll_passes_the_fence(store: RedisStore, client: redis.Redis) -> None:
    """S28: the number has moved on; every duplicate delivery is dropped before its query."""
    started(store, "j-1")
    start = begun(store, client)
    assert (start.pair, start.poll.poll_no, start.call_status) == (PAIR, 1, "Scheduling")
    assert begin_poll(store, "j-1", 1) == PollDropped("fenced")
    assert begin_poll(store, "j-1", 3) == PollDropped("fenced")
    assert isinstance(begin_poll(store, "j-1", 2), PollStarted)


def test_failed_poll_leaves_the_others_of_its_batch_written(store: RedisStore, client: redis.Redis) -> None:
    started(store, "j-1", "j-2", "j-3")
    for job_id in ("j-1", "j-2", "j-3"):
        begun(store, client, job_id)
    client.delete("t:job:j-2")
    client.set("t:job:j-2", "no record", px=1_000)
    ends = [PollEnd(PAIR, job_id, 2, Next(Poll(2, 9e8, 9e9, 0)), "answer", "Paused") for job_id in JOBS]
    first, second, third = store.write_polls(ends)
    assert (first, third) == ("no_change", "no_change")
    assert isinstance(second, Exception)
    client.delete("t:job:j-2")
    assert {call.call_status for call in store.calls()} == {"Paused"}


def test_successful_answer_among_failures_prevents_an_outage(store: RedisStore, client: redis.Redis) -> None:
    """S29: polls written together are evaluated one by one."""
    started(store, *JOBS, "j-4", "j-5")
    ends = []
    words: tuple[QueryResult, ...] = ("unavailable", "answer", "answer")
    for job_id, result in zip(JOBS, words, strict=True):
        begun(store, client, job_id)
        ends.append(PollEnd(PAIR, job_id, 2, Next(Poll(2, 9e8, 9e9, 0)), result))
    client.hset("t:outage", "since", "1")
    assert store.write_polls(ends) == ["no_change", "outage_ended", "no_change"]
    assert store.counters()["polls:answer"] == 2


def test_s35_poll_end_sent_twice_is_published_once(store: RedisStore, client: redis.Redis) -> None:
    started(store, "j-1")
    start = begun(store, client)
    event = Event("status_changed", "C-1", "20", "j-1", {"label": "通话中"})
    successor = replace(start.poll, poll_no=2, due=start.poll.due + 10)
    for _ in range(2):
        assert continue_poll(store, PAIR, "j-1", successor, result="answer", call_status="Executing", event=event)
    assert [entry["kind"] for entry in store.history("C-1")].count("status_changed") == 1


def test_a_poll_without_a_record_is_dropped(store: RedisStore) -> None:
    """S20."""
    assert begin_poll(store, "j-none", 1) == PollDropped("absent")


def test_record_overrides_the_message(store: RedisStore, client: redis.Redis) -> None:
    """S20: retry count, due time and deadline come from the record."""
    started(store, "j-1")
    client.hset("t:job:j-1", mapping={"retry_count": 4, "deadline": "1234.500"})
    start = begun(store, client)
    assert (start.poll.retry_count, start.poll.deadline) == (4, 1234.5)


def test_poll_end_writes_the_record_and_its_successor(store: RedisStore, client: redis.Redis) -> None:
    """S11 S20 S31: with the event of a change and the first time of status Executing."""
    started(store, "j-1")
    start = begun(store, client)
    changed = Event("status_changed", "C-1", "20", "j-1", {"call_status": "Executing"})
    assert continue_watch(store, Poll(2, start.now + 10, 9e9, 3), "Executing", changed)
    call = store.calls(job_id="j-1")[0]
    assert (call.call_status, call.retry_count, call.poll_no) == ("Executing", 3, 2)
    assert call.due == pytest.approx(start.now + 10, abs=0.01)
    assert client.zscore("t:due", "j-1") == pytest.approx(call.due, abs=0.01)
    assert call.last_polled_at is not None
    assert call.executing_since is not None
    assert [event["kind"] for event in store.history("C-1")] == ["started", "status_changed"]
    begun(store, client, poll_no=2)
    assert continue_watch(store, Poll(3, 9e8, 9e9, 0), "Executing")
    assert store.calls(job_id="j-1")[0].executing_since == call.executing_since


def test_failed_query_keeps_the_last_status(store: RedisStore, client: redis.Redis) -> None:
    """S23."""
    started(store, "j-1")
    begun(store, client)
    assert continue_watch(store, Poll(2, 9e8, 9e9, 1), None)
    assert store.calls()[0].call_status == "Scheduling"


def test_overtaken_poll_writes_only_a_terminal_status(store: RedisStore, client: redis.Redis) -> None:
    """S28: the end of a poll is fenced as well."""
    started(store, "j-1")
    begun(store, client)
    begun(store, client, poll_no=2)  # another poll has moved the number on
    client.hset("t:job:j-1", "deadline", store.now() + 60)
    assert not continue_watch(store, Poll(2, 1.0, 9e9, 9), "Paused")
    assert not finish(store, "lost")
    assert not finish(store, "expired"), "its deadline is not reached"
    assert store.calls()[0].call_status == "Scheduling"
    assert finish(store, "ended")
    assert [call.verdict for call in store.calls(job_id="j-1")] == ["ended"]


@pytest.mark.parametrize("first", ["ended", "lost", "expired"])
@pytest.mark.parametrize("second", ["ended", "lost", "expired"])
def test_verdict_is_final(store: RedisStore, client: redis.Redis, first: Verdict, second: Verdict) -> None:
    """S27 S28: a late or repeated answer neither reopens a watch nor changes its verdict."""
    started(store, "j-1")
    begun(store, client)
    assert finish(store, first)
    assert not finish(store, second)
    assert not continue_watch(store, Poll(2, 9e8, 9e9, 0), "Executing")
    assert begin_poll(store, "j-1", 2) == PollDropped("finished")
    assert [call.verdict for call in store.calls(job_id="j-1")] == [first]
    assert client.zcard("t:due") == 0
    assert [event["kind"] for event in store.history("C-1")] == ["started", first]


def test_pair_is_released_with_its_last_call(store: RedisStore, client: redis.Redis) -> None:
    """S5: not earlier; a new trigger may call then."""
    started(store, "j-1", "j-2")
    begun(store, client, "j-1")
    assert finish(store)
    assert client.get("t:lock:C-1:20") == "tok"
    begun(store, client, "j-2")
    assert finish(store, job_id="j-2")
    assert client.exists("t:lock:C-1:20") == 0
    assert phase(store) == "done"
    assert client.exists("t:live:C-1:20") == 0


def test_lock_of_another_owner_is_never_released(store: RedisStore, client: redis.Redis) -> None:
    """S5: compare and delete."""
    started(store, "j-1")
    client.set("t:lock:C-1:20", "stranger", px=60_000)
    begun(store, client)
    assert finish(store)
    assert client.get("t:lock:C-1:20") == "stranger"


@pytest.mark.parametrize("held_by", [{"phase": "unknown"}, {"phase": "sending"}, {"lookup": "1"}])
def test_pair_is_held_in_other_phases_and_during_a_look_up(
    store: RedisStore, client: redis.Redis, held_by: dict[str, str]
) -> None:
    """S5: a phase other than watching, or an open look-up."""
    started(store, "j-1")
    client.hset("t:ledger:C-1:20", items=[part for item in held_by.items() for part in item])
    begun(store, client)
    assert finish(store)
    assert client.get("t:lock:C-1:20") == "tok"


@pytest.mark.parametrize(("verdict", "last_failure"), [("ended", None), ("lost", "lost"), ("expired", "expired")])
def test_failure_is_remembered(
    store: RedisStore, client: redis.Redis, verdict: Verdict, last_failure: str | None
) -> None:
    """S5: the next trigger must query upstream first."""
    started(store, "j-1")
    begun(store, client)
    assert finish(store, verdict)
    assert client.hget("t:ledger:C-1:20", "last_failure") == last_failure


@pytest.mark.parametrize(("verdict", "last_failure"), [("ended", None), ("lost", "lost")])
def test_end_of_a_call_that_moved_during_its_query_releases_both_pairs(
    store: RedisStore, client: redis.Redis, verdict: Verdict, last_failure: str | None
) -> None:
    """S5 S14: an answer has named the call's mediation since the poll began; it remembers the failure as well."""
    started(store, "j-1")
    client.hset("t:job:j-1", "person_id", "")  # a look-up adopted it
    begun(store, client)
    owner = Pair("C-1", "21")
    store.claim(owner, token="tok-21", task_id="task-21", arguments="{}", expires=None, enabled=True)
    assert isinstance(store.begin_sending(owner, "tok-21"), float)
    assert store.settle(replace(settlement("started", "watching", "tok-21", "j-1", task_id="task-21"), pair=owner))
    assert finish(store, verdict)
    for mediation_id in ("20", "21"):
        names = ["phase", "last_failure"]
        assert client.hmget(f"t:ledger:C-1:{mediation_id}", names) == ["done", last_failure]
        assert not client.exists(f"t:lock:C-1:{mediation_id}", f"t:live:C-1:{mediation_id}")


def test_finished_calls_outlive_the_last_failure(store: RedisStore, client: redis.Redis) -> None:
    """S5 S36: without its record, an ended call would pass for a new one.

    The list of finished calls is kept as long as the history.
    """
    started(store, "j-1")
    begun(store, client)
    client.zadd("t:finished", {"j-old": store.now() - 86_401, "j-recent": store.now() - 86_300})
    assert finish(store)
    assert client.zrange("t:finished", 0, -1) == ["j-recent", "j-1"]
    assert 86_400_000 < client.pttl("t:job:j-1") <= TERMS.job_ttl * 1_000
    assert [call.job_id for call in store.calls(finished=True)] == ["j-1"]
    assert store.calls() == []


def test_calls_and_pairs_are_filtered_by_case_and_job(store: RedisStore, client: redis.Redis) -> None:
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


def test_first_poll_is_never_due_after_the_deadline(store: RedisStore) -> None:
    """S20: at most 2 hours after `sending`, also for a late answer."""
    assert store.claim(PAIR, token="tok", task_id="task", arguments="{}", expires=None, enabled=True)
    store.settle(settlement("started", "watching", "tok", "j-1"))  # sent in 1970
    assert [call.due for call in store.calls()] == [1_007_200.0]

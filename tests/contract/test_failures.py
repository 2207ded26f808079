"""Test that failed queries and dials are remembered with their number, their times and the last reason (S29)."""

from typing import Any

import pytest
import redis

from api_client import Reason
from tests.pairs import PAIR, bring_to
from tests.polls import begin_poll
from worker.core.decision import Next, Poll
from worker.core.messages import TriggerResult
from worker.core.model import Pair
from worker.core.poll_model import PollEnd, QueryResult
from worker.core.trigger_model import Settlement
from worker.store import RedisStore
from worker.store.failures import FAILURES_KEPT


def end_polls(store: RedisStore, *ends: tuple[QueryResult, Reason | None]) -> None:
    """Carry a poll of a call of its own out for each result and reason, and write their ends together."""
    written = []
    for number, (heard, reason) in enumerate(ends):
        pair, job_id = Pair(f"C-{number}", "20"), f"job-{number}"
        if not store.calls(job_id=job_id):
            bring_to(store, "watching", pair, job_id)
        (call,) = store.calls(job_id=job_id)
        store.client.hset(store.keys.job(job_id), "due", store.now() - 1)
        begin_poll(store, job_id, call.poll_no)
        poll = Poll(call.poll_no + 1, store.now() + 10, call.deadline, 0)
        written.append(PollEnd(pair, job_id, poll.poll_no, Next(poll), heard, reason=reason))
    assert not any(isinstance(change, Exception) or change is None for change in store.write_polls(written))


def dial(store: RedisStore, outcome: Any, reason: str | None = None, *, number: int = 0) -> None:
    """Settle a dial of a pair of its own with this outcome."""
    pair, token = Pair(f"D-{number}", "20"), f"dial-{number}"
    store.claim(pair, token=token, task_id=token, arguments="{}", expires=None, enabled=True)
    sent_at = store.begin_sending(pair, token)
    assert isinstance(sent_at, float)
    result = TriggerResult(TriggerResult.of(outcome, pair.case_id, pair.mediation_id).data | {"reason": reason})
    phase: Any = "unknown" if outcome == "unknown" else "done"
    store.settle(Settlement(pair, token, token, result, phase, sent_at, [], []))


def back_date(store: RedisStore, client: redis.Redis, kind: str, seconds: float) -> None:
    """Move the remembered failures of a kind into the past."""
    for name in ("since", "at"):
        client.hset(store.keys.failed(kind), name, float(str(client.hget(store.keys.failed(kind), name))) - seconds)


def test_nothing_is_written_without_a_failure(store: RedisStore, client: redis.Redis) -> None:
    end_polls(store, ("answer", None), ("nothing", None))
    dial(store, "refused")
    assert (store.failures("query"), store.failures("dial")) == (None, None)
    assert list(client.scan_iter("t:failed:*")) == []


def test_s29_failed_queries_are_counted_with_fewer_than_five_calls(store: RedisStore, client: redis.Redis) -> None:
    end_polls(store, ("unavailable", "timeout"), ("unavailable", "http_401"))
    found = store.failures("query")
    assert found
    assert (found.number, found.reason, found.answered_at) == (2, "http_401", None)
    assert found.since == found.at == pytest.approx(store.now(), abs=60)
    assert 0 < client.ttl(store.keys.failed("query")) <= FAILURES_KEPT
    end_polls(store, ("unreadable", "no_status"), ("unavailable", "http_5xx"))
    again = store.failures("query")
    assert again
    assert (again.number, again.reason, again.since) == (4, "http_5xx", found.since)
    assert store.outage_since() is None


def test_an_answered_query_is_read_from_the_time_that_polls_write(store: RedisStore) -> None:
    end_polls(store, ("unavailable", "timeout"))
    end_polls(store, ("answer", None))
    found = store.failures("query")
    assert found
    assert found.answered_at is not None
    assert found.answered_at >= found.at


def test_a_query_that_the_fence_dropped_is_not_counted(store: RedisStore) -> None:
    bring_to(store, "watching", PAIR, "job-9")
    late = PollEnd(PAIR, "job-9", 7, Next(Poll(7, 1, 2, 0)), "unavailable", reason="timeout")
    assert store.write_polls([late]) == [None]
    assert store.failures("query") is None


@pytest.mark.parametrize("outcome", ["failed", "unknown"])
def test_s12_s13_failed_dials_are_counted_with_their_reason(store: RedisStore, outcome: str) -> None:
    dial(store, outcome, "http_401")
    dial(store, outcome, "http_403", number=1)
    found = store.failures("dial")
    assert found
    assert (found.number, found.reason, found.answered_at) == (2, "http_403", None)


def test_a_dial_without_a_reason_is_counted(store: RedisStore) -> None:
    """A worker of an earlier release gives none."""
    dial(store, "failed")
    found = store.failures("dial")
    assert found
    assert (found.number, found.reason) == (1, "")


def test_an_answered_dial_is_remembered_after_a_failed_one(store: RedisStore) -> None:
    dial(store, "failed", "connect")
    dial(store, "refused", number=1)
    found = store.failures("dial")
    assert found
    assert found.answered_at is not None
    assert found.answered_at >= found.at


@pytest.mark.parametrize(("pause", "number"), [(590, 2), (610, 1)], ids=["within ten minutes", "later"])
def test_a_pause_of_ten_minutes_starts_a_new_count(
    store: RedisStore, client: redis.Redis, pause: float, number: int
) -> None:
    dial(store, "failed", "connect")
    back_date(store, client, "dial", pause)
    dial(store, "failed", "tls", number=1)
    found = store.failures("dial")
    assert found
    assert (found.number, found.reason, found.since == found.at) == (number, "tls", number == 1)

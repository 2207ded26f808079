"""Claim, send, settle and poll one pair, step by step."""

import redis

from tests.polls import begin_poll, continue_poll, finish_poll
from worker.core.decision import Outcome, Phase, Poll, Verdict
from worker.core.messages import TriggerResult
from worker.core.model import Event, Pair
from worker.core.poll_model import PollStarted, QueryResult
from worker.core.trigger_model import ClaimAnswered, Claimed, DuplicateDelivery, NewJob, Settlement
from worker.store import RedisStore

PAIR = Pair("C-1", "20")


def claim(
    store: RedisStore, token: str = "tok", task_id: str = "task", pair: Pair = PAIR
) -> Claimed | ClaimAnswered | DuplicateDelivery:
    return store.claim(pair, token=token, task_id=task_id, arguments="{}", expires=None, enabled=True)


def settlement(
    outcome: Outcome = "started", phase: Phase = "watching", token: str = "tok", *jobs: str, task_id: str = "task"
) -> Settlement:
    return Settlement(
        pair=PAIR,
        token=token,
        task_id=task_id,
        result=TriggerResult.of(outcome, "C-1", "20", message="话"),
        phase=phase,
        sent_at=1_000_000.0,
        jobs=[NewJob(job, f"P-{job}", "Scheduling", 5) for job in jobs],
        events=[Event("started", "C-1", "20", job, {"label": "拨号中"}) for job in jobs],
    )


def started(store: RedisStore, *jobs: str) -> float:
    """A pair with watched jobs; return the store's time of the request."""
    assert claim(store) == Claimed()
    sent = store.begin_sending(PAIR, "tok")
    assert isinstance(sent, float)
    assert store.settle(settlement("started", "watching", "tok", *jobs))
    return sent


def phase(store: RedisStore) -> str | None:
    return next((one.phase for one in store.pairs(finished=True) if one.pair == PAIR), None)


def make_due(client: redis.Redis, job_id: str, *, ago: float = 0) -> float:
    seconds, micros = client.time()
    due = seconds + micros / 1e6 - ago
    client.hset(f"t:job:{job_id}", "due", f"{due:.3f}")
    return due


def begun(store: RedisStore, client: redis.Redis, job_id: str = "j-1", poll_no: int = 1) -> PollStarted:
    make_due(client, job_id)
    start = begin_poll(store, job_id, poll_no)
    assert isinstance(start, PollStarted)
    return start


def continue_watch(
    store: RedisStore, poll: Poll, status: str | None = "Scheduling", event: Event | None = None
) -> bool:
    result: QueryResult = "answer" if status else "unavailable"
    return continue_poll(store, PAIR, "j-1", poll, result=result, call_status=status, event=event) is not None


def finish(store: RedisStore, verdict: Verdict = "ended", poll_no: int = 1, job_id: str = "j-1") -> bool:
    written = finish_poll(
        store,
        PAIR,
        job_id,
        poll_no,
        verdict=verdict,
        retry_count=0,
        result="answer" if verdict == "ended" else "unavailable",
        call_status="Succeeded" if verdict == "ended" else None,
        event=Event(verdict, "C-1", "20", job_id),
    )
    return written is not None


def sending(store: RedisStore, pair: Pair = PAIR, token: str = "tok") -> float:
    assert claim(store, token=token, task_id=f"task-{token}", pair=pair) == Claimed()
    sent_at = store.begin_sending(pair, token)
    assert isinstance(sent_at, float)
    return sent_at

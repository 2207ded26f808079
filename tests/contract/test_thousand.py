"""Test that a thousand simultaneous triggers of one pair make exactly one request."""

import itertools
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis

from api_client import CallRecord, CallRequest, CallStatus, ConversationLog
from tests.fakes import job_id, record
from worker.container import SystemClock
from worker.flows.dial import Dial
from worker.flows.trigger import TriggerFlow
from worker.store import RedisStore


class CountingUpstream:
    """Count the requests of many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests: list[CallRequest] = []

    def dial(self, request: CallRequest, *, before_send: Any, within: float | None = None) -> list[CallRecord]:  # noqa: ARG002
        before_send()
        with self._lock:
            self.requests.append(request)
        return [record(job_id(len(self.requests)))]

    def status(self, **_: str | None) -> CallStatus:
        raise AssertionError

    def conversations(self, **_: str | None) -> list[ConversationLog]:
        raise AssertionError


def test_thousand_triggers_make_one_request(store: RedisStore, client: redis.Redis, record_property: Any) -> None:
    """S6: from 50 threads at once, with different task ids; the other triggers return the watched calls."""
    upstream = CountingUpstream()
    numbers = itertools.count()  # taking the next number is atomic
    dial = Dial(store, upstream, SystemClock(), interval=10)
    flow = TriggerFlow(dial, enabled=True, new_token=lambda: f"token-{next(numbers)}")
    barrier = threading.Barrier(50)

    def some(first: int) -> list[str]:
        barrier.wait()
        results = [
            flow({"case_id": "C-1", "mediation_id": "20"}, task_id=f"task-{number}")
            for number in range(first, 1_000, 50)
        ]
        return [result["outcome"] for result in results if result]

    begin = time.perf_counter()
    with ThreadPoolExecutor(50) as pool:
        outcomes = Counter(outcome for chunk in pool.map(some, range(50)) for outcome in chunk)
    record_property("seconds", time.perf_counter() - begin)
    assert len(upstream.requests) == 1
    assert outcomes == {"started": 1, "skipped": 999}
    assert client.get("t:lock:C-1:20") is not None

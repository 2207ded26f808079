"""Test that watches survive bad upstream answers, duplicate deliveries and a rolling restart, by upstream's log."""

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.deployment import Deployment, wait_until

INTERVAL = 1.0  # seconds
CASES = 15  # of two calls each
LATE = 5.0  # seconds by which a rolling restart may delay a poll
DISTURBED: list[dict[str, Any]] = [
    {"kind": "hang"},
    {"kind": "reset"},
    {"kind": "reset", "processed": True},
    {"kind": "drip_header", "seconds": 5},
    {"kind": "drip_body", "seconds": 5},
    {"kind": "garbage"},
    {"kind": "wrong_envelope"},
    {"kind": "null_data"},
    {"kind": "wrong_data"},
    {"kind": "other_job"},
    {"kind": "huge"},
    {"kind": "status", "status": 503},
    {"kind": "status", "status": 429, "headers": {"Retry-After": "2"}},
]


@pytest.fixture
def deployment(redis_url: str) -> Iterator[Deployment]:
    with Deployment(redis_url, poll_interval=INTERVAL, status_timeout=1, connect_timeout=1) as one:
        yield one


def watched(deployment: Deployment, *, app: str = "worker.app") -> list[str]:
    """Start calls that never end by themselves; return their jobs, each polled."""
    deployment.simulator.script("*", life="talking")
    deployment.worker(name="first", app=app)
    for number in range(CASES):
        deployment.trigger(f"W-{number}")
    wait_until(lambda: len(polls(deployment)) == 2 * CASES)
    return [job["job_id"] for job in deployment.simulator.jobs()]


def polls(deployment: Deployment, *, since: float = 0) -> Counter[str]:
    """Return the number of upstream's queries for each job."""
    return Counter(entry["job_id"] for entry in deployment.simulator.log("status") if entry["at"] > since)


def end_all(deployment: Deployment, jobs: list[str]) -> None:
    """End every call, and check that each has one verdict and its pair is free."""
    for job_id in jobs:
        deployment.simulator.end(job_id)
    wait_until(lambda: deployment.finished(len(jobs)))
    assert {call.verdict for call in deployment.store.calls(finished=True)} == {"ended"}
    cases = {job["case_id"] for job in deployment.simulator.jobs()}
    assert Counter(event["kind"] for case in cases for event in deployment.store.history(case))["ended"] == len(jobs)
    assert deployment.store.pairs() == []
    assert set(deployment.simulator.calls_per_pair().values()) == {1}


def test_bad_upstream_answers_lose_no_call(deployment: Deployment) -> None:
    """S23 S29: each kind of bad answer affects some calls; all are watched to their end."""
    jobs = watched(deployment)
    half = len(DISTURBED) // 2  # at most nine failures in a row, or the watch is lost
    for faults, disturbed in ((DISTURBED[:half], jobs[:4]), (DISTURBED[half:], jobs[4:8])):
        for fault, job_id in itertools.product(faults, disturbed):
            options = dict(fault)
            deployment.simulator.fault(options.pop("kind"), "status", count=1, job_id=job_id, **options)
    seen = polls(deployment)
    wait_until(lambda: all(polls(deployment)[job_id] >= seen[job_id] + half + 4 for job_id in jobs[:8]), limit=120)
    assert not deployment.workers[0].gone()
    end_all(deployment, jobs)


def test_duplicated_poll_messages_make_one_chain_per_call(deployment: Deployment) -> None:
    """S20 S28."""
    jobs = watched(deployment, app="tests.faults.doubled")
    begin = max(entry["at"] for entry in deployment.simulator.log("status"))
    wait_until(lambda: min(polls(deployment, since=begin)[job_id] for job_id in jobs) >= 10)
    end = max(entry["at"] for entry in deployment.simulator.log("status"))
    most = max(polls(deployment, since=begin).values())
    assert most <= (end - begin) / INTERVAL + 2
    end_all(deployment, jobs)


def test_rolling_restart_under_load_delays_and_loses_no_poll(deployment: Deployment) -> None:
    """S28: each worker shuts down in order and hands over its messages; no poll is very late, none is lost."""
    jobs = watched(deployment)
    deployment.worker(name="second")
    for name in ("third", "fourth"):
        deployment.worker(name=name)
        assert deployment.workers[-3].stop() == 0
        deployment.trigger(f"W-extra-{name}")
        seen = polls(deployment)
        wait_until(lambda seen=seen: all(polls(deployment)[job_id] >= seen[job_id] + 3 for job_id in jobs))  # type: ignore[misc]
    gaps = deployment.largest_gaps()
    assert max(gaps[job_id] for job_id in jobs) <= INTERVAL + LATE
    wait_until(lambda: len(deployment.simulator.jobs()) == 2 * (CASES + 2))
    end_all(deployment, [job["job_id"] for job in deployment.simulator.jobs()])


def test_s28_answers_of_a_slow_upstream_are_written(redis_url: str) -> None:
    """Its answers arrive within the time-out and after the lease: each is written, and hardly a query is repeated."""
    with Deployment(redis_url, poll_interval=2, status_timeout=20, connect_timeout=1, overdue_grace=1) as deployment:
        jobs = watched(deployment)
        begin = time.time()
        deployment.simulator.fault("delay", "status", seconds=5)
        rounds: Counter[str] = Counter()
        heard: dict[str, float] = {}

        def heard_again() -> bool:
            for call in deployment.store.calls():
                at = call.last_polled_at or 0
                if at > max(heard.get(call.job_id, 0), begin + 5):
                    heard[call.job_id] = at
                    rounds[call.job_id] += 1
            return len(rounds) == len(jobs) and min(rounds.values()) >= 3

        wait_until(heard_again)
        assert {call.retry_count for call in deployment.store.calls()} == {0}
        asked = polls(deployment, since=begin)
        assert {job: number for job, number in asked.items() if number > rounds[job] + 3} == {}
        deployment.simulator.clear()
        end_all(deployment, jobs)

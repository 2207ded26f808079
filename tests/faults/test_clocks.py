"""Test that differing wall clocks delay no poll for good: they affect a countdown only, and the record corrects it."""

import itertools

import pytest

from tests.deployment import Deployment, wait_until

INTERVAL, GRACE, SWEEP = 5, 1, 1


@pytest.mark.parametrize("skew", [30, -30], ids=["30 s ahead", "30 s behind"])
def test_worker_with_a_wrong_clock_neither_loses_nor_doubles_a_call(redis_url: str, skew: int) -> None:
    """S18 S20 S28: beside a worker with a correct clock; a delayed poll is reissued, an early one is put back."""
    with Deployment(redis_url, poll_interval=INTERVAL, overdue_grace=GRACE, sweep_interval=SWEEP) as deployment:
        deployment.simulator.script("*", life="talking")
        deployment.skewed_worker(skew, name="off")
        deployment.worker(name="right")
        for number in range(5):
            assert deployment.trigger(f"C-{number}").get(timeout=60)["outcome"] == "started"
        jobs = [job["job_id"] for job in deployment.simulator.jobs()]
        assert len(jobs) == 10
        wait_until(lambda: all(len(deployment.simulator.status_requests(job)) >= 5 for job in jobs))
        assert set(deployment.simulator.calls_per_pair().values()) == {1}
        for job in jobs:
            call = deployment.store.calls(job_id=job)[0]
            assert call.deadline - call.started_at == pytest.approx(7_200)
            gaps = [b["at"] - a["at"] for a, b in itertools.pairwise(deployment.simulator.status_requests(job))]
            assert deployment.polled_by_one(job)
            assert max(gaps) < 30  # delayed by the clock error, it would be lost for that long each time

"""Wall clocks differ between hosts: only a message's countdown is read by them, and the record puts it right."""

import itertools

import pytest

from tests.deployment import Deployment, wait_until

INTERVAL, GRACE, SWEEP = 5, 1, 1


@pytest.mark.parametrize("skew", [30, -30], ids=["30 s ahead", "30 s behind"])
def test_a_worker_whose_clock_is_off_neither_loses_nor_doubles_a_call(redis_url: str, skew: int) -> None:
    """S18 S20 S28: beside one whose clock is right; a poll it holds for too long is reissued, an early one put back."""
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
            assert max(gaps) < 30  # held for as long as the clock is off, it would be lost for that long each time

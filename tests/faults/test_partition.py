"""Test a partition in which the old primary keeps half of the workers for a while (S41)."""

import os
import time

import pytest

from tests.deployment import Deployment, wait_until
from tests.faults.failovers import INTERVAL, SETTLED, assert_watched_by_one_chain, watch
from tests.proxy import Proxy
from tests.replication import ReplicaSet

PARTITIONED = 20.0 if "SOAK_STEPS" in os.environ else 5.0  # seconds
PAIRS = 5  # triggered on both sides: their messages have reached every server before the partition


@pytest.mark.parametrize("min_replicas", [0, 1])
def test_s41_two_primaries_make_no_second_call_and_leave_one_chain(min_replicas: int) -> None:
    """S41: the old primary, which accepts writes without `min-replicas-to-write`, loses all its writes at the end."""
    with ReplicaSet(2, min_replicas=min_replicas) as servers:
        old, new, _ = servers.members
        with (
            Proxy(old.port) as here,
            Proxy(old.port) as there,
            Proxy(old.port) as link,
            Deployment(servers.url(there.port), poll_interval=INTERVAL, replicas=1) as deployment,
        ):
            for replica in servers.replicas:
                replica.follow(link.port)
            servers.wait_until_in_sync()
            behind = deployment.worker(name="behind", redis_url=servers.url(here.port))
            ahead = deployment.worker(name="ahead")
            jobs = watch(deployment)
            cases = [f"both-{number}" for number in range(PAIRS)]
            for worker in (behind, ahead):
                worker.pause()
            wait_until(lambda: old.blocked_clients() == 0)  # otherwise the suspended workers would take the messages
            deployment.send(*cases)
            servers.wait_until_in_sync()

            link.partition()
            servers.promote(new)
            there.target = new.port
            there.cut()
            ended = set(sorted(jobs)[:PAIRS])
            for job_id in ended:
                deployment.simulator.end(job_id)
            split_at = time.time()
            for worker in (behind, ahead):
                worker.resume()
            wait_until(lambda: time.time() > split_at + PARTITIONED)

            old.follow(new.port)
            here.target = new.port
            link.cut()
            healed_at = time.time()
            jobs = {job["job_id"] for job in deployment.simulator.jobs()} - ended
            assert_watched_by_one_chain(deployment, jobs, since=healed_at)
            assert set(deployment.simulator.calls_per_pair()) >= {(case, "20") for case in cases}
            assert not ended & deployment.polls(since=healed_at + SETTLED).keys()

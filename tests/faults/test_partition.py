"""Test a partition in which the old primary keeps half of the workers for a while (S41)."""

import os
import time

import pytest

from tests.deployment import Deployment, wait_until
from tests.faults.failovers import INTERVAL, SETTLED, assert_watched_by_one_chain, watch
from tests.proxy import Proxy
from tests.replication import ReplicaSet

LONG = "SOAK_STEPS" in os.environ
PARTITIONED = 20.0 if LONG else 5.0  # seconds
PAIRS = 5  # triggered on both sides: their messages have reached every server before the partition
INVISIBLE = 4.0  # seconds for which upstream processes a request before it knows of the calls
WITH_THE_WAIT = pytest.param(0, 1, 1, id="old primary accepts writes")
OTHERS = [
    pytest.param(1, 1, 1, id="old primary refuses writes"),
    pytest.param(0, 0, 2, id="without the wait both sides call"),
]


@pytest.mark.parametrize(
    ("min_replicas", "replicas", "requests"), [WITH_THE_WAIT, *OTHERS] if LONG else [WITH_THE_WAIT]
)
def test_s41_two_primaries_leave_one_chain_and_with_the_wait_one_call(
    min_replicas: int, replicas: int, requests: int
) -> None:
    """S41: the old primary keeps half of the workers; at the end it loses all its writes."""
    with ReplicaSet(2, min_replicas=min_replicas) as servers:
        old, new, _ = servers.members
        with (
            Proxy(old.port) as here,
            Proxy(old.port) as there,
            Proxy(old.port) as link,
            Deployment(servers.url(there.port), poll_interval=INTERVAL, replicas=replicas) as deployment,
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
            deployment.simulator.fault("delay", "call-v2", seconds=INVISIBLE, processed=False)
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
            known = {call.job_id for call in deployment.store.calls()} - ended
            if replicas:
                assert known == {job["job_id"] for job in deployment.simulator.jobs()} - ended
            assert_watched_by_one_chain(deployment, known, since=healed_at)
            called = deployment.simulator.calls_per_pair()
            assert {called.pop((case, "20")) for case in cases} == {requests}
            assert set(called.values()) == {1}
            assert not ended & deployment.polls(since=healed_at + SETTLED).keys()

"""Test failovers to a replica without the primary's last writes: the wait for replicas prevents a second call (S41).

Without the wait the same failover makes a second call, which proves that the test can find one.
"""

from collections.abc import Iterator

import pytest

from tests.deployment import Deployment, Worker, wait_until
from tests.proxy import Proxy
from tests.replication import ReplicaSet

SETTINGS = {
    "poll_interval": 1,
    "status_timeout": 2,
    "connect_timeout": 1,
    "call_timeout": 4,
    "unknown_lookup": 6,
    "unknown_hold": 4,
    "visibility_timeout": 10,
}
HELD_BACK = "next try in"  # the worker logs it after an attempt that sent nothing


@pytest.fixture
def servers() -> Iterator[ReplicaSet]:
    """A primary and one replica."""
    with ReplicaSet(1) as both:
        yield both


@pytest.mark.parametrize(("replicas", "requests"), [(0, 2), (1, 1)])
def test_s41_failover_that_lost_sending_makes_a_second_call_only_without_the_wait(
    servers: ReplicaSet, replicas: int, requests: int
) -> None:
    """S41: the replica has the trigger's message and none of the worker's writes; it is promoted after a crash."""
    primary, replica = servers.members
    address, link = Proxy(primary.port), Proxy(primary.port)
    with address, link, Deployment(servers.url(address.port), replicas=replicas, **SETTINGS) as deployment:
        deployment.simulator.script("*", life="talking")
        replica.follow(link.port)
        servers.wait_until_in_sync()
        deployment.send("F-1")
        with replica.client() as client:
            wait_until(lambda: client.llen("outbound.trigger") == 1)
        link.partition()

        worker = deployment.worker()
        wait_until(lambda: HELD_BACK in worker.log if replicas else len(deployment.simulator.jobs()) == 2)
        assert len(deployment.simulator.log("call-v2")) == (0 if replicas else 1)
        primary.kill()
        link.cut()
        servers.promote(replica)
        servers.restart(primary)
        address.target = replica.port
        address.cut()

        wait_until(lambda: called_and_watched(deployment, worker, requests))
        assert deployment.simulator.calls_per_pair() == {("F-1", "20"): requests}


def called_and_watched(deployment: Deployment, worker: Worker, requests: int) -> bool:
    """Tell whether so many requests were sent, and both calls of the last one have been polled."""
    assert not worker.gone(), worker.log[-3_000:]
    jobs = [job["job_id"] for job in deployment.simulator.jobs()]
    return len(jobs) == 2 * requests and set(jobs[-2:]) <= deployment.polls().keys()

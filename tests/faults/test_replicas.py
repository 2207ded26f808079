"""Test failovers to a replica without the primary's last writes: the wait for replicas prevents a second call (S41).

Without the wait the same failover makes a second call, which proves that the test can find one.
"""

import pytest

from tests.deployment import Deployment, Worker, wait_until
from tests.proxy import Proxy
from tests.replication import ReplicaSet

SETTINGS = {
    "poll_interval": 1,
    "status_timeout": 2,
    "connect_timeout": 1,
    "call_timeout": 20,
    "visibility_timeout": 60,
}
HELD_BACK = "next try in"  # the worker logs it after an attempt that sent nothing
INVISIBLE = 8.0  # seconds for which upstream processes a request before it knows of the calls


@pytest.mark.parametrize(
    ("replicas", "delay", "requests"),
    [
        pytest.param(0, INVISIBLE, 2, id="without the wait the telephone rings twice"),
        pytest.param(0, 0.0, 1, id="without the wait a visible call is found upstream"),
        pytest.param(1, INVISIBLE, 1, id="with the wait nothing is sent"),
    ],
)
def test_s41_failover_that_lost_sending(servers: ReplicaSet, replicas: int, delay: float, requests: int) -> None:
    """S41: the replica has the trigger's message, and none of the worker's writes; it is promoted after a crash."""
    primary, replica = servers.members
    address, link = Proxy(primary.port), Proxy(primary.port)
    with address, link, Deployment(servers.url(address.port), replicas=replicas, **SETTINGS) as deployment:
        replica.follow(link.port)
        servers.wait_until_in_sync()
        worker = deployment.worker()
        wait_until(deployment.store.last_sweep)  # it records the primary, so that a later one is noticed as promoted
        suspend(worker, servers)
        deployment.simulator.script("F-1", life="talking")
        deployment.simulator.fault("delay", "call-v2", count=1, seconds=delay, processed=False)
        deployment.send("F-1")
        with replica.client() as client:
            wait_until(lambda: client.llen("outbound.trigger") == 1)
        link.partition()
        worker.resume()
        wait_until(lambda: HELD_BACK in worker.log or calls_seen(deployment, delay))
        assert deployment.simulator.calls_per_pair().total() == (0 if replicas else 1)

        primary.kill()
        link.cut()
        servers.promote(replica)
        servers.restart(primary)
        address.target = replica.port
        address.cut()
        wait_until(lambda: calls_polled(deployment, worker, 2 * requests))
        assert deployment.simulator.calls_per_pair() == {("F-1", "20"): requests}


def suspend(worker: Worker, servers: ReplicaSet) -> None:
    """Suspend a worker that waits for messages, and let Redis give up on it: otherwise it would get the next one."""
    worker.pause()
    wait_until(lambda: servers.primary.blocked_clients() == 0)


def calls_seen(deployment: Deployment, delay: float) -> bool:
    """Tell whether the request has been received, and its calls are visible unless they are delayed."""
    received = deployment.simulator.calls_per_pair().total() == 1
    return received and (bool(delay) or len(deployment.simulator.jobs()) == 2)


def calls_polled(deployment: Deployment, worker: Worker, number: int) -> bool:
    """Tell whether so many calls were made, and each of the newest request has been polled."""
    assert not worker.gone(), worker.log[-3_000:]
    jobs = [job["job_id"] for job in deployment.simulator.jobs()]
    return len(jobs) == number and set(jobs[-2:]) <= deployment.polls().keys()

"""Test a planned switchover behind an unchanged address: every connection leaves the demoted server (S41)."""

import time
from pathlib import Path

from cli.main import main
from tests.deployment import Deployment, wait_until
from tests.faults.failovers import INTERVAL, assert_watched_by_one_chain, watch
from tests.proxy import Proxy
from tests.replication import Member, ReplicaSet


def test_s41_workers_leave_a_demoted_server_that_lives_on(servers: ReplicaSet, tmp_path: Path) -> None:
    """S41: the address leads to the new primary; the old one keeps its connections and refuses writes."""
    with (
        Proxy(servers.port) as address,
        Deployment(servers.url(address.port), poll_interval=INTERVAL, health_limit=3) as deployment,
    ):
        for name in ("first", "second"):
            deployment.worker(name=name, health_file=tmp_path / name)
        jobs = watch(deployment)
        demoted = servers.primary
        servers.switch_over()
        address.target = servers.port
        deployment.store.client.connection_pool.disconnect()

        jobs |= watch(deployment, "after")
        wait_until(lambda: connections(demoted) == 0)
        assert_watched_by_one_chain(deployment, jobs, since=time.time())
        assert set(deployment.simulator.calls_per_pair().values()) == {1}
        for name in ("first", "second"):
            wait_until(lambda name=name: main(["healthcheck", "--file", str(tmp_path / name)]) == 0)  # type: ignore[misc]


def connections(server: Member) -> int:
    """Return the number of a server's clients, except this one and its replicas."""
    with server.client() as client:
        ours = client.client_id()
        clients = [*client.client_list("normal"), *client.client_list("pubsub")]
    return sum(int(one["id"]) != ours for one in clients)

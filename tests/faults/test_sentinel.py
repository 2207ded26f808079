"""Test failovers by Sentinel: workers and producers follow the primary that the Sentinels name (S41)."""

import time
from collections.abc import Iterator

import pytest

from tests.deployment import Deployment
from tests.faults.failovers import INTERVAL, assert_watched_by_one_chain, watch
from tests.replication import ReplicaSet, Sentinels

DOWN_AFTER = 1.0  # seconds


@pytest.fixture
def servers() -> Iterator[ReplicaSet]:
    """A primary and one replica."""
    with ReplicaSet(1) as both:
        yield both


def test_s41_workers_follow_the_sentinels_after_a_crash_of_the_primary(servers: ReplicaSet) -> None:
    """S41: also while the first of the three Sentinels is away; the old primary returns as a replica."""
    with (
        Sentinels(servers, down_after=DOWN_AFTER) as sentinels,
        Deployment(sentinels.url, poll_interval=INTERVAL) as deployment,
    ):
        sentinels.kill(0)
        for name in ("first", "second"):
            deployment.worker(name=name)
        jobs = watch(deployment)
        lost = servers.primary
        lost.kill()
        since = time.time()
        sentinels.wait_for_failover(lost)
        servers.restart(lost)
        jobs |= watch(deployment, "after")
        assert_watched_by_one_chain(deployment, jobs, since=since)

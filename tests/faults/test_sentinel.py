"""Test failovers by Sentinel: workers and producers follow the primary that the Sentinels name (S41)."""

import time

import pytest

from cli.main import main
from tests.deployment import Deployment, Worker, wait_until
from tests.faults.failovers import INTERVAL, assert_watched_by_one_chain, watch
from tests.replication import SERVICE, ReplicaSet, Sentinels

DOWN_AFTER = 1.0  # seconds
AWAY = f"names a primary of the service {SERVICE}"


def test_s41_workers_follow_the_sentinels_after_a_crash_of_the_primary(servers: ReplicaSet) -> None:
    """S41: one worker starts before the Sentinels; later the first Sentinel and the primary die."""
    sentinels = Sentinels(servers, down_after=DOWN_AFTER, password="the-sentinels-own")
    with Deployment(sentinels.url, poll_interval=INTERVAL) as deployment:
        early = Worker(deployment.environment, name="early")
        deployment.workers.append(early)
        wait_until(lambda: AWAY in early.log)
        with sentinels:
            early.ready()
            deployment.worker(name="late")
            jobs = watch(deployment)
            sentinels.kill(0)
            lost = servers.primary
            lost.kill()
            sentinels.wait_for_failover(lost)
            servers.restart(lost)
            jobs |= watch(deployment, "after")
            assert_watched_by_one_chain(deployment, jobs, since=time.time())
            assert set(deployment.simulator.calls_per_pair().values()) == {1}
            for secret in (servers.password, "the-sentinels-own"):
                assert not any(secret in worker.log for worker in deployment.workers)


def test_s41_sentinels_that_are_all_away_are_named_in_one_line(
    servers: ReplicaSet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sentinels = Sentinels(servers, password="the-sentinels-own")
    monkeypatch.setenv("CALLWATCH_REDIS_URL", sentinels.url)
    assert main(["status"]) == 1
    shown = capsys.readouterr()
    places = ",".join(f"127.0.0.1:{port}" for port in sentinels.ports)
    assert f"no Sentinel at {places} {AWAY}" in shown.err
    assert shown.err.count("\n") == 1
    assert servers.password not in shown.err
    assert "the-sentinels-own" not in shown.err

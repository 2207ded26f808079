"""Test kill -9 at every point: by the simulator's log, no telephone rings twice and no call is lost (S14, S18, S28)."""

from pathlib import Path

import pytest

from cli.up.embedded_redis import EmbeddedServer
from tests.deployment import Deployment, wait_until

POINTS = [
    "before claim",
    "after claim",
    "before begin_sending",
    "after begin_sending",
    "before settle",  # the answer has arrived and is not stored
    "after settle",
    "before take_due",
    "after take_due",  # leased, and not published
    "before publish",
    "after publish",
    "before begin_polls",
    "after begin_polls",
    "after status",
    "before write_polls",  # the answer has arrived and is not stored
    "after write_polls",
    "after acquire_sweep_lock",
]
SETTINGS = {
    "poll_interval": 2,
    "status_timeout": 2,
    "connect_timeout": 1,
    "call_timeout": 4,
    "unknown_lookup": 8,
    "unknown_hold": 8,
    "visibility_timeout": 20,
}


@pytest.mark.parametrize("points", [POINTS[first::4] for first in range(4)], ids=["a", "b", "c", "d"])
def test_death_at_any_point_causes_no_second_call_and_loses_none(
    server: EmbeddedServer, tmp_path: Path, points: list[str]
) -> None:
    """Each point kills a worker in the middle of a case; then one healthy worker must finish all cases."""
    cases = [f"K-{number}" for number in range(len(points))]
    with Deployment(server.url, **SETTINGS) as deployment:
        deployment.simulator.script("*", life=[["Scheduling", 0], ["Executing", 4], ["Succeeded", 8]])
        for case, point in zip(cases, points, strict=True):
            fuse = tmp_path / case
            fuse.touch()
            deployment.trigger(case)
            worker = deployment.fused_worker(point, fuse)
            wait_until(worker.gone)
            assert not fuse.exists(), f"nothing died at {point!r}: {worker.log[-2_000:]}"
        deployment.worker(name="good")
        wait_until(lambda: settled(deployment, cases), limit=120)

        called = deployment.simulator.calls_per_pair()
        assert set(called.values()) == {1}
        assert set(deployment.simulator.rings_per_person().values()) == {1}
        jobs = {job["job_id"] for job in deployment.simulator.jobs()}
        assert len(jobs) == 2 * len(called) >= 4
        calls = deployment.store.calls(finished=True)
        assert {(call.verdict, call.call_status) for call in calls} == {("ended", "Succeeded")}
        assert {call.job_id for call in calls} == jobs
        for case in cases:
            kinds = [event["kind"] for event in deployment.store.history(case)]
            if (case, "20") in called:
                assert kinds.count("ended") == 2
            else:  # died between `sending` and the request: the outcome is published as unknown, nothing is sent again
                assert kinds == ["unknown", "nothing_found", "released"]


def settled(deployment: Deployment, cases: list[str]) -> bool:
    """Tell whether every case has ended."""
    done = {one.pair.case_id for one in deployment.store.pairs(finished=True) if one.phase == "done"}
    return done == set(cases)


def test_death_during_a_hanging_dial_causes_no_second_call(server: EmbeddedServer) -> None:
    """S14: the request had left and the telephone rang; the look-up finds the calls, and they are watched."""
    with Deployment(server.url, speed=1, **SETTINGS) as deployment:
        deployment.simulator.script("*", life=[["Scheduling", 0], ["Executing", 4], ["Succeeded", 40]])
        deployment.simulator.fault("hang", "call-v2", count=2, processed=True)
        worker = deployment.worker(name="first")
        for mediation_id in ("20", "21"):
            deployment.trigger("C-1", mediation_id)
        wait_until(lambda: len(deployment.simulator.jobs()) == 4)
        worker.kill()
        deployment.worker(name="second")
        wait_until(lambda: deployment.finished(4), limit=120)
        assert set(deployment.simulator.calls_per_pair().values()) == {1}
        assert set(deployment.simulator.rings_per_person().values()) == {1}
        kinds = [event["kind"] for event in deployment.store.history("C-1")]
        assert (kinds.count("unknown"), kinds.count("adopted"), kinds.count("ended")) == (2, 4, 4)
        wait_until(lambda: deployment.store.pairs() == [])


def test_stopped_process_does_not_dial_poll_or_write_after_waking(server: EmbeddedServer) -> None:
    """S18: SIGSTOP for longer than every lease, then SIGCONT; the other worker has taken over meanwhile."""
    with Deployment(server.url, speed=1, **SETTINGS) as deployment:
        deployment.simulator.script("*", life="talking")
        zombie = deployment.worker(name="zombie")
        for number in range(10):
            deployment.trigger(f"Z-{number}")
        wait_until(lambda: len(deployment.store.calls()) == 20)
        deployment.simulator.fault("delay", "call-v2", seconds=2)
        for number in range(10, 14):
            deployment.trigger(f"Z-{number}")
        wait_until(lambda: len(deployment.simulator.calls_per_pair()) == 14)
        zombie.pause()
        deployment.simulator.clear()
        deployment.worker(name="other")
        stopped_at = max(entry["at"] for entry in deployment.simulator.log())
        wait_until(lambda: max(entry["at"] for entry in deployment.simulator.log()) > stopped_at + 30, limit=90)
        zombie.resume()
        wait_until(lambda: max(entry["at"] for entry in deployment.simulator.log()) > stopped_at + 45, limit=90)

        assert set(deployment.simulator.calls_per_pair().values()) == {1}
        assert set(deployment.simulator.rings_per_person().values()) == {1}
        assert len(deployment.store.calls()) == 28
        for job in deployment.simulator.jobs():
            polls = deployment.simulator.status_requests(job["job_id"])
            assert sum(entry["at"] > stopped_at + 15 for entry in polls) >= 5
            assert deployment.polled_by_one(job["job_id"], since=stopped_at + 15)

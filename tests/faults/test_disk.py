"""Test a power failure under Redis: the data on disk when the telephone rang forbids a second call (S18)."""

from cli.up.embedded_redis import EmbeddedServer
from tests.deployment import Deployment, wait_until

SETTINGS = {
    "poll_interval": 1,
    "status_timeout": 2,
    "connect_timeout": 1,
    "call_timeout": 4,
    "unknown_lookup": 6,
    "unknown_hold": 4,
    "visibility_timeout": 10,
}


def tail(server: EmbeddedServer) -> int:
    """Return the length of the append-only file in bytes."""
    (file,) = server.data_dir.rglob("*.incr.aof")
    return file.stat().st_size


def cut(server: EmbeddedServer, size: int) -> None:
    """Cut the file at a length: after a kill alone, the operating system would still write the rest."""
    (file,) = server.data_dir.rglob("*.incr.aof")
    assert file.stat().st_size > size
    with file.open("r+b") as handle:
        handle.truncate(size)


def test_lost_tail_of_the_append_only_file_causes_no_second_call(server: EmbeddedServer) -> None:
    """S14 S18: the request has left; answer, jobs and outcome are lost with the tail; the trigger is redelivered."""
    with Deployment(server.url, **SETTINGS) as deployment:
        deployment.simulator.script("*", life=[["Scheduling", 0], ["Executing", 4], ["Succeeded", 30]])
        deployment.simulator.fault("delay", "call-v2", seconds=1)
        worker = deployment.worker(name="first")
        deployment.trigger("D-1", ignore_result=True)
        wait_until(lambda: len(deployment.simulator.jobs()) == 2)
        on_disk = tail(server)
        wait_until(lambda: len(deployment.store.calls()) == 2)
        worker.kill()
        server.kill()
        cut(server, on_disk)
        server.restart()
        assert deployment.store.calls() == []
        assert [one.phase for one in deployment.store.pairs()] == ["sending"]

        deployment.worker(name="second")
        wait_until(lambda: deployment.finished(2), limit=120)
        wait_until(lambda: deployment.store.pairs() == [])
        kinds = [event["kind"] for event in deployment.store.history("D-1")]
        assert (kinds.count("unknown"), kinds.count("adopted"), kinds.count("ended")) == (1, 2, 2)
        assert deployment.simulator.calls_per_pair() == {("D-1", "20"): 1}
        assert set(deployment.simulator.rings_per_person().values()) == {1}

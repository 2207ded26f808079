"""Test a Redis that fails and returns: the same worker process continues (S28) and makes no second call (S4)."""

import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict

import pytest
import redis

from cli.up.embedded_redis import HOST, EmbeddedServer
from tests.deployment import Deployment, Worker, wait_until

CASES = 12  # of two calls each
INTERVAL = 0.5  # seconds
POLLS = 10  # within which a call counts as watched again
MOST_POLLS = 1.5  # per interval: two chains would query twice; one may repeat a query that the fault left unanswered
SOCKET_TIMEOUT = 15  # seconds, see worker/app.py
LOST, REFUSED = "Connection to broker lost", "Connection refused"

Fault = Callable[[EmbeddedServer, Worker], None]


@pytest.fixture
def deployment(server: EmbeddedServer) -> Iterator[Deployment]:
    """One worker that must survive the fault, with calls that never end."""
    with Deployment(server.url, poll_interval=INTERVAL, status_timeout=1) as one:
        one.simulator.script("*", life="talking")
        one.worker("-E")
        call(one, {f"C-{number}" for number in range(CASES)})
        yield one


def call(deployment: Deployment, cases: set[str]) -> set[str]:
    """Enqueue triggers and return their jobs, once each job has been polled."""
    for case in cases:
        deployment.trigger(case, ignore_result=True)  # otherwise the producer would wait on a connection that gets cut
    jobs: set[str] = set()

    def made() -> bool:
        jobs.update(job["job_id"] for job in deployment.simulator.jobs() if job["case_id"] in cases)
        return len(jobs) == 2 * len(cases) or deployment.workers[0].gone()

    wait_until(made)
    wait_until(lambda: jobs <= polls(deployment).keys() or deployment.workers[0].gone())
    return jobs


def polls(deployment: Deployment, *, since: float = 0) -> dict[str, list[float]]:
    """Return the times of upstream's queries for each job."""
    arrivals = defaultdict(list)
    for entry in deployment.simulator.log("status"):
        if entry["at"] > since:
            arrivals[entry["job_id"]].append(entry["at"])
    return arrivals


def from_now(worker: Worker, text: str) -> Callable[[], None]:
    """Return a function that waits until the worker has logged a text again."""
    before = worker.log.count(text)
    return lambda: wait_until(lambda: worker.log.count(text) > before or worker.gone())


def restarts(server: EmbeddedServer, worker: Worker) -> None:
    """Kill the server, and restart it with its data once the worker has noticed."""
    noticed = from_now(worker, REFUSED)
    server.kill()
    noticed()
    server.restart()


def cuts_connections(server: EmbeddedServer, worker: Worker) -> None:
    """Cut all connections, the second time during the worker's reconnection."""
    lost = from_now(worker, LOST)
    with redis.Redis.from_url(server.url) as client:
        for kind in ("pubsub", "normal"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        lost()
        for kind in ("pubsub", "normal"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


def stalls(server: EmbeddedServer, worker: Worker) -> None:
    """Stop the server for longer than the socket time-out; connections stay open without an answer."""
    end = time.monotonic() + (60 if "SOAK_STEPS" in os.environ else 1.1 * SOCKET_TIMEOUT)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: time.monotonic() > end or worker.gone())
    finally:
        os.kill(server.pid, signal.SIGCONT)


def becomes_a_replica(server: EmbeddedServer, worker: Worker) -> None:
    """Make the server a replica, as in a failover: it answers, and refuses every write."""
    refused = from_now(worker, LOST)
    with redis.Redis.from_url(server.url) as client:
        client.replicaof(HOST, 1)  # an unused port
        refused()
        client.replicaof("NO", "ONE")


@pytest.mark.parametrize("fault", [restarts, cuts_connections, stalls, becomes_a_replica])
def test_worker_continues_after_a_fault_of_redis(deployment: Deployment, server: EmbeddedServer, fault: Fault) -> None:
    """S28: earlier calls stay watched, new calls are made."""
    jobs = set(polls(deployment))
    fault(server, deployment.workers[0])
    back = time.time()
    jobs |= call(deployment, {f"{fault.__name__}-{number}" for number in range(2)})
    assert_watched(deployment, jobs, since=back)


def test_worker_continues_with_an_emptied_redis(deployment: Deployment, server: EmbeddedServer) -> None:
    """The append-only file is lost: earlier calls are lost with their records, new calls are made and watched."""
    noticed = from_now(deployment.workers[0], REFUSED)
    server.kill()
    for file in server.data_dir.rglob("*.aof*"):
        file.unlink()
    noticed()
    server.restart()
    back = time.time()
    assert_watched(deployment, call(deployment, {"new-1", "new-2"}), since=back)


def test_worker_shuts_down_in_order_while_redis_is_away(deployment: Deployment, server: EmbeddedServer) -> None:
    noticed = from_now(deployment.workers[0], REFUSED)
    server.kill()
    noticed()
    assert deployment.workers[0].stop() == 0


def assert_watched(deployment: Deployment, jobs: set[str], *, since: float) -> None:
    """Assert that each job is polled on by one chain, and that the worker process is the same."""
    worker = deployment.workers[0]
    arrivals: dict[str, list[float]] = {}

    def watched() -> bool:
        arrivals.update(polls(deployment, since=since))
        return all(len(arrivals.get(job, ())) >= POLLS for job in jobs) or worker.gone()

    try:
        wait_until(watched)
    except AssertionError:
        silent = {job for job in jobs if len(arrivals.get(job, ())) < POLLS}
        records = [str(asdict(call)) for call in deployment.store.calls(finished=True) if call.job_id in silent]
        pytest.fail(f"{silent} are not watched: {records}\n{worker.log[-5_000:]}")
    assert not worker.gone(), worker.log[-3_000:]
    assert {job: at for job, at in arrivals.items() if len(at) > MOST_POLLS * (at[-1] - at[0]) / INTERVAL + 2} == {}
    assert set(deployment.simulator.calls_per_pair().values()) == {1}
    with deployment.producer.connection() as connection:  # a new connection: the faults cut those of tests too
        control = deployment.producer.control.inspect(timeout=0.5, connection=connection)
        wait_until(control.ping)

"""Redis goes away and comes back: the same worker process goes on by itself (S28), and nobody is rung twice (S4)."""

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
POLLS = 10  # after which a call counts as watched again
MOST_POLLS = 1.5  # in an interval: two chains ask twice; one may ask again what its fault left without an answer
SOCKET_TIMEOUT = 15  # seconds, see worker/app.py
LOST, REFUSED = "Connection to broker lost", "Connection refused"

Fault = Callable[[EmbeddedServer, Worker], None]


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """A server that the test may harm."""
    with EmbeddedServer(appendfsync="everysec") as one:
        yield one


@pytest.fixture
def deployment(server: EmbeddedServer) -> Iterator[Deployment]:
    """One worker that has to outlive the fault, with calls that never end."""
    with Deployment(server.url, poll_interval=INTERVAL, status_timeout=1) as one:
        one.simulator.script("*", life="talking")
        one.worker("-E")
        call(one, {f"C-{number}" for number in range(CASES)})
        yield one


def call(deployment: Deployment, cases: set[str]) -> set[str]:
    """Enqueue triggers and return the jobs that come of them, once each has been polled."""
    for case in cases:
        deployment.trigger(case, ignore_result=True)  # or the producer would listen on a connection that gets cut
    jobs: set[str] = set()

    def made() -> bool:
        jobs.update(job["job_id"] for job in deployment.simulator.jobs() if job["case_id"] in cases)
        return len(jobs) == 2 * len(cases) or deployment.workers[0].gone()

    wait_until(made)
    wait_until(lambda: jobs <= polls(deployment).keys() or deployment.workers[0].gone())
    return jobs


def polls(deployment: Deployment, *, since: float = 0) -> dict[str, list[float]]:
    """Return when upstream was asked for each job."""
    arrivals = defaultdict(list)
    for entry in deployment.simulator.log("status"):
        if entry["at"] > since:
            arrivals[entry["job_id"]].append(entry["at"])
    return arrivals


def from_now(worker: Worker, text: str) -> Callable[[], None]:
    """Return what waits until the worker has logged a text again."""
    before = worker.log.count(text)
    return lambda: wait_until(lambda: worker.log.count(text) > before or worker.gone())


def restarts(server: EmbeddedServer, worker: Worker) -> None:
    """Killed, and back with its data when the worker has noticed."""
    noticed = from_now(worker, REFUSED)
    server.kill()
    noticed()
    server.restart()


def cuts_connections(server: EmbeddedServer, worker: Worker) -> None:
    """The second time while the worker connects again."""
    lost = from_now(worker, LOST)
    with redis.Redis.from_url(server.url) as client:
        for kind in ("pubsub", "normal"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        lost()
        for kind in ("pubsub", "normal"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


def stalls(server: EmbeddedServer, worker: Worker) -> None:
    """Connections stay open and nobody answers, for longer than the socket time-out."""
    end = time.monotonic() + (60 if "SOAK_STEPS" in os.environ else 1.1 * SOCKET_TIMEOUT)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: time.monotonic() > end or worker.gone())
    finally:
        os.kill(server.pid, signal.SIGCONT)


def becomes_a_replica(server: EmbeddedServer, worker: Worker) -> None:
    """As in a failover: it is there and answers, and refuses every write."""
    refused = from_now(worker, LOST)
    with redis.Redis.from_url(server.url) as client:
        client.replicaof(HOST, 1)  # where nobody is
        refused()
        client.replicaof("NO", "ONE")


@pytest.mark.parametrize("fault", [restarts, cuts_connections, stalls, becomes_a_replica])
def test_the_worker_goes_on(deployment: Deployment, server: EmbeddedServer, fault: Fault) -> None:
    """S28: the calls of before stay watched, new ones are made."""
    jobs = set(polls(deployment))
    fault(server, deployment.workers[0])
    back = time.time()
    jobs |= call(deployment, {f"{fault.__name__}-{number}" for number in range(2)})
    assert_watched(deployment, jobs, since=back)


def test_the_worker_goes_on_with_a_redis_that_forgot_everything(deployment: Deployment, server: EmbeddedServer) -> None:
    """No append-only file survived: what was watched is lost with its records, what comes now is called and watched."""
    noticed = from_now(deployment.workers[0], REFUSED)
    server.kill()
    for file in server.data_dir.rglob("*.aof*"):
        file.unlink()
    noticed()
    server.restart()
    back = time.time()
    assert_watched(deployment, call(deployment, {"new-1", "new-2"}), since=back)


def test_the_worker_leaves_in_order_while_redis_is_away(deployment: Deployment, server: EmbeddedServer) -> None:
    noticed = from_now(deployment.workers[0], REFUSED)
    server.kill()
    noticed()
    assert deployment.workers[0].stop() == 0


def assert_watched(deployment: Deployment, jobs: set[str], *, since: float) -> None:
    """Assert that each job is polled on, by one chain, and that the worker is the one that it was."""
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
    with deployment.producer.connection() as connection:  # anew: the faults cut the connections of tests as well
        control = deployment.producer.control.inspect(timeout=0.5, connection=connection)
        wait_until(control.ping)

"""Test `callwatch healthcheck` with a real worker that is idle, suspended, not consuming, or without Redis."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.main import main
from cli.up.embedded_redis import EmbeddedServer
from tests.deployment import ROOT, Deployment, Worker, wait_until


@pytest.fixture(scope="module")
def health_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("health") / "health"


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.fixture(scope="module")
def deployment(server: EmbeddedServer, health_file: Path) -> Iterator[Deployment]:
    """A deployment with one worker that has a health file and short limits."""
    with Deployment(server.url, health_file=health_file, health_limit=2, sweep_interval=0.2) as deployment:
        deployment.worker(app="tests.system.obedient")
        yield deployment


@pytest.fixture
def worker(deployment: Deployment) -> Worker:
    return deployment.workers[0]


def healthy(health_file: Path) -> bool:
    return main(["healthcheck", "--file", str(health_file)]) == 0


def test_idle_worker_is_healthy(deployment: Deployment, health_file: Path) -> None:
    wait_until(lambda: healthy(health_file))
    command = (sys.executable, "-m", "cli.main", "healthcheck")
    done = subprocess.run(command, cwd=ROOT, env=deployment.environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("healthy: the last heartbeat is")
    assert done.stdout.count("\n") == 1


def test_suspended_worker_is_unhealthy(worker: Worker, health_file: Path) -> None:
    wait_until(lambda: healthy(health_file))
    worker.pause()
    wait_until(lambda: not healthy(health_file))
    worker.resume()
    wait_until(lambda: healthy(health_file))


def test_worker_that_stopped_consuming_is_unhealthy(deployment: Deployment, worker: Worker, health_file: Path) -> None:
    """It runs, sweeps and responds to pings, but takes no waiting message."""
    wait_until(lambda: healthy(health_file))
    control = deployment.producer.control
    control.cancel_consumer("outbound.trigger", reply=True)
    result = deployment.trigger("C-1")
    wait_until(lambda: not healthy(health_file))
    assert control.ping(timeout=5, limit=1)
    wait_until(lambda: "unhealthy: 1 messages wait in outbound.trigger" in worker.log)
    control.add_consumer("outbound.trigger", reply=True)
    assert result.get(timeout=60)["outcome"] == "started"
    wait_until(lambda: healthy(health_file))


def test_worker_without_redis_is_unhealthy(server: EmbeddedServer, worker: Worker, health_file: Path) -> None:
    wait_until(lambda: healthy(health_file))
    server.kill()
    wait_until(lambda: not healthy(health_file))
    wait_until(lambda: worker.gone() or "unhealthy: Redis does not answer" in worker.log)

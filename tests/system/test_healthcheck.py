"""Prove with a real worker that healthy means working: idle is well; stopped, deaf or without Redis is not."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.main import main
from cli.up.embedded_redis import EmbeddedServer
from tests.deployment import ROOT, Deployment, Worker, wait_until


@pytest.fixture(scope="module")
def sign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("health") / "sign"


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.fixture(scope="module")
def deployment(server: EmbeddedServer, sign: Path) -> Iterator[Deployment]:
    """One worker that signs, with short limits."""
    with Deployment(server.url, health_file=sign, health_limit=2, sweep_interval=0.2) as deployment:
        deployment.worker(app="tests.system.obedient")
        yield deployment


@pytest.fixture
def worker(deployment: Deployment) -> Worker:
    return deployment.workers[0]


def healthy(sign: Path) -> bool:
    return main(["healthcheck", "--file", str(sign)]) == 0


def test_an_idle_worker_is_healthy(deployment: Deployment, sign: Path) -> None:
    wait_until(lambda: healthy(sign))
    command = (sys.executable, "-m", "cli.main", "healthcheck")
    done = subprocess.run(command, cwd=ROOT, env=deployment.environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("healthy: the last heartbeat is")
    assert done.stdout.count("\n") == 1


def test_a_stopped_worker_is_not(worker: Worker, sign: Path) -> None:
    wait_until(lambda: healthy(sign))
    worker.pause()
    wait_until(lambda: not healthy(sign))
    worker.resume()
    wait_until(lambda: healthy(sign))


def test_a_deaf_worker_is_not(deployment: Deployment, worker: Worker, sign: Path) -> None:
    """It is up, sweeps and answers to pings, and does not take what waits."""
    wait_until(lambda: healthy(sign))
    control = deployment.producer.control
    control.cancel_consumer("outbound.trigger", reply=True)
    result = deployment.trigger("C-1")
    wait_until(lambda: not healthy(sign))
    assert control.ping(timeout=5, limit=1)
    wait_until(lambda: "unhealthy: 1 messages wait in outbound.trigger" in worker.log)
    control.add_consumer("outbound.trigger", reply=True)
    assert result.get(timeout=60)["outcome"] == "started"
    wait_until(lambda: healthy(sign))


def test_a_worker_whose_redis_is_away_is_not(server: EmbeddedServer, worker: Worker, sign: Path) -> None:
    wait_until(lambda: healthy(sign))
    server.kill()
    wait_until(lambda: not healthy(sign))
    wait_until(lambda: worker.gone() or "unhealthy: Redis does not answer" in worker.log)

"""`callwatch metrics` beside real workers: its counters agree with the simulator's log, also after a worker dies."""

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from cli.up.embedded_redis import EmbeddedServer
from tests.deployment import ROOT, Deployment, wait_until
from tests.scraping import TOKEN, Metrics, serving


@pytest.fixture(scope="module")
def alone(redis_server: EmbeddedServer) -> Iterator[Metrics]:
    """An installation without workers."""
    with Deployment(redis_server.url, metrics_token=TOKEN) as deployment, serving(deployment.environment) as metrics:
        yield metrics


@pytest.mark.parametrize(
    ("path", "authorization", "status"),
    [
        ("/metrics", None, 401),
        ("/metrics", "Bearer guess", 401),
        ("/metrics", "Bearer", 401),
        ("/metrics", f"Basic {TOKEN}", 401),
        ("/metrics", "Bearer Träger", 401),
        ("/metrics?token=x", None, 401),
        ("/", None, 401),
        ("/nothing", f"Bearer {TOKEN}", 404),
    ],
)
def test_s40_request_without_the_token_is_refused(
    alone: Metrics, path: str, authorization: str | None, status: int
) -> None:
    quoted = authorization and authorization.encode().decode("latin-1")
    with pytest.raises(urllib.error.HTTPError, match=str(status)) as refusal:
        alone.get(path, quoted)
    assert "callwatch_" not in refusal.value.read().decode()
    refusal.value.close()
    assert "callwatch_redis_up 1.0" in alone.get("/metrics")
    assert alone.get("/healthz", None) == "ok\n"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.invalid"])  # noqa: S104 - refused
def test_s40_metrics_without_a_token_listen_on_loopback_only(redis_url: str, host: str) -> None:
    environment = {"CALLWATCH_REDIS_URL": redis_url, "PATH": "/usr/bin"}
    command = (sys.executable, "-m", "cli.main", "metrics", "--host", host, "--port", "0")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"callwatch: --host {host}: reachable from elsewhere, CALLWATCH_METRICS_TOKEN or CALLWATCH_METRICS_TOKEN_FILE"
        " should give the required token\n"
    )


def test_metrics_survive_an_outage_of_redis(redis_url: str) -> None:
    """A scrape reports that Redis is away instead of failing."""
    nowhere = {"redis_url": "redis://127.0.0.1:1/0"}
    with Deployment(redis_url) as deployment, serving(deployment.environment | upper(nowhere)) as metrics:
        assert metrics.scrape() == {"redis_up": 0.0}


def upper(settings: dict[str, str]) -> dict[str, str]:
    return {f"CALLWATCH_{name.upper()}": value for name, value in settings.items()}


def test_counters_agree_with_the_simulator_after_a_worker_dies(redis_url: str) -> None:
    """S20 S28: of two workers one is killed; before and after, the counters equal the queries in the simulator's log.

    Only a poll whose worker was killed between its request and its end is in the log but not counted: at most one for
    each thread.
    """
    with Deployment(redis_url, speed=1, poll_interval=1) as deployment:
        deployment.simulator.script("*", life="talking")
        first = deployment.worker(name="first")
        deployment.worker(name="second")
        with serving(deployment.environment) as metrics:
            for number in range(10):
                deployment.trigger(f"C-{number}")
            wait_until(lambda: metrics.scrape()["watched_calls Executing"] == 20)
            wait_until(lambda: metrics.scrape()["polls_total answer"] > 60)
            before = metrics.scrape()
            first.kill()
            wait_until(lambda: metrics.scrape()["polls_total answer"] > before["polls_total answer"] + 60)
        with serving(deployment.environment) as metrics:  # another process: the counters are in Redis
            after = metrics.scrape()
            assert {name for name in before if name.endswith("_total") and after[name] < before[name]} == set()
            assert after["triggers_total started"] == after["call_requests_total"] == 10
            assert after["events_total started"] == 20
            assert len(deployment.simulator.log("call-v2")) == 10
            for worker in deployment.workers[1:]:
                worker.stop()
            last = metrics.scrape()
            asked = sum(len(deployment.simulator.status_requests(job["job_id"])) for job in deployment.simulator.jobs())
            counted = last["polls_total answer"]
            assert 0 <= asked - counted <= 3
            assert last["upstream_latency_seconds_count status"] == counted
            assert last["poll_lateness_seconds_count"] == counted
            assert last["polls_reissued_total"] >= asked - counted

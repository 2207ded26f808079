"""Run real workers on a real broker against the simulated upstream, with a producer that uses plain Celery."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import redis
from celery import Celery
from celery.result import AsyncResult
from kombu.exceptions import OperationalError

from config.settings import Settings
from simulator.testing import SimulatorProcess
from worker.container import build_store
from worker.store import RedisStore

ROOT = Path(__file__).parents[1]
LIMIT = 60.0  # seconds: generous, for shared machines


def wait_until(condition: Callable[[], object], *, limit: float = LIMIT) -> None:
    """Wait until a condition holds; AssertionError after `limit` seconds."""
    end = time.monotonic() + limit
    while True:
        begin = time.monotonic()
        if condition():
            return
        assert time.monotonic() < end, f"not within {limit} s"
        time.sleep(max(0.02, 3 * (time.monotonic() - begin)))  # polling must not slow the observed process down


def back_end(url: str) -> Celery:
    """Return a plain Celery application of a back end for a Redis URL of callwatch, which may name Sentinels.

    Transport and backend are named by their classes: callwatch registers its own for `sentinel://` in its processes.
    """
    parts = urlsplit(url)
    if parts.scheme != "sentinel":
        return Celery("back-end", broker=url, backend=url)
    user, _, places = parts.netloc.rpartition("@")
    addresses = ";".join(f"sentinel://{user}@{place}{parts.path}" for place in places.split(","))
    options = {name: values[0] for name, values in parse_qs(parts.query).items()}
    found = {"master_name": options["service"], "sentinel_kwargs": {"password": options.get("sentinel_password")}}
    return Celery(
        "back-end",
        broker=addresses,
        broker_transport="kombu.transport.redis:SentinelTransport",
        backend=f"celery.backends.redis:SentinelBackend+{addresses}",
        broker_transport_options=found,
        result_backend_transport_options=found,
    )


def variables(settings: Mapping[str, object]) -> dict[str, str]:
    """Return settings as environment variables."""
    return {f"CALLWATCH_{name.upper()}": str(value) for name, value in settings.items()}


class Worker:
    """A real worker process with its log file."""

    def __init__(self, environment: dict[str, str], *options: str, name: str = "w", app: str = "worker.app") -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="callwatch-worker-")
        self.log_file = Path(self._directory.name) / f"{name}.log"
        command = (sys.executable, "-m", "celery", "-A", app, "worker", "-n", f"{name}@%h", *options)
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def log(self) -> str:
        """The text of its log file."""
        return self.log_file.read_text(encoding="utf-8")

    def ready(self) -> Self:
        """Wait until the worker accepts tasks."""
        wait_until(lambda: self.process.poll() is not None or " ready." in self.log)
        assert self.process.poll() is None, self.log
        return self

    def gone(self) -> bool:
        """Tell whether the process has exited."""
        return self.process.poll() is not None

    def send(self, number: int) -> None:
        """Send a signal to the process."""
        self.process.send_signal(number)

    def pause(self) -> None:
        """Suspend the process, as on a starved or suspended machine."""
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the process."""
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process, as a crash does."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Kill the process if it is still running and delete its log."""
        if self.process.poll() is None:
            self.kill()
        self._directory.cleanup()

    def stop(self) -> int:
        """Stop the worker by SIGTERM and return its exit code."""
        self.send(signal.SIGTERM)
        try:
            return self.process.wait(LIMIT)
        finally:
            if self.process.poll() is None:
                self.kill()


class Deployment:
    """A Redis, a simulated upstream and workers; all of them end with the `with` block."""

    def __init__(self, redis_url: str, *, speed: float = 1.0, **settings: object) -> None:
        self.redis_url = redis_url
        self.simulator = SimulatorProcess(speed=speed)
        self.workers: list[Worker] = []
        self._settings = settings
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.simulator)
        self.producer = back_end(self.redis_url)
        self._stack.callback(self.producer.close)
        self.store: RedisStore = build_store(Settings(redis_url=self.redis_url))
        self._stack.callback(self.store.client.close)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.close()
        self._stack.close()

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of this deployment's workers."""
        theirs = {name: value for name, value in os.environ.items() if not name.startswith("CALLWATCH_")}
        redis_url = {} if "redis_url_file" in self._settings else {"CALLWATCH_REDIS_URL": self.redis_url}
        return theirs | redis_url | {"CALLWATCH_API_BASE_URL": self.simulator.url} | variables(self._settings)

    def worker(self, *options: str, name: str = "w", app: str = "worker.app", **settings: object) -> Worker:
        """Start a worker, with settings of its own, and wait until it accepts tasks."""
        worker = Worker(self.environment | variables(settings), *options, name=name, app=app)
        self.workers.append(worker)
        return worker.ready()

    def fused_worker(self, point: str, fuse: Path) -> Worker:
        """Start a worker that dies at one point (see tests/faults/fused.py), possibly during its start."""
        environment = self.environment | {"FUSE": point, "FUSE_FILE": str(fuse)}
        worker = Worker(environment, name="fused", app="tests.faults.fused")
        self.workers.append(worker)
        return worker

    def skewed_worker(self, seconds: float, name: str) -> Worker:
        """Start a worker whose wall clock is ahead by `seconds` (see tests/faults/skewed.py)."""
        worker = Worker(self.environment | {"SKEW": str(seconds)}, name=name, app="tests.faults.skewed")
        self.workers.append(worker)
        return worker.ready()

    def trigger(self, case_id: str, mediation_id: str | int = "20", **options: Any) -> AsyncResult:
        """Enqueue a trigger as a back end does."""
        kwargs = {"case_id": case_id, "mediation_id": mediation_id}
        return self.producer.send_task(
            "outbound.trigger", kwargs=kwargs, queue="outbound.trigger", expires=3600, **options
        )

    def send(self, *case_ids: str) -> None:
        """Enqueue a trigger of each case, again with the same task id until the broker accepts it."""
        left = [(case_id, str(uuid.uuid4())) for case_id in reversed(case_ids)]

        def accepted() -> bool:
            with contextlib.suppress(OperationalError, redis.RedisError), self.producer.connection() as connection:
                while left:
                    case_id, task_id = left[-1]
                    self.trigger(case_id, task_id=task_id, ignore_result=True, connection=connection, retry=False)
                    left.pop()
            return not left

        wait_until(accepted)

    def polls(self, *, since: float = 0) -> dict[str, list[float]]:
        """Return the times of upstream's status queries for each job after `since` (epoch seconds)."""
        arrivals: defaultdict[str, list[float]] = defaultdict(list)
        for entry in self.simulator.log("status"):
            if entry["job_id"] and entry["at"] > since:  # a query without a job is a look-up
                arrivals[entry["job_id"]].append(entry["at"])
        return dict(arrivals)

    def finished(self, number: int) -> bool:
        """Tell whether at least `number` calls have a verdict."""
        return sum(call.verdict is not None for call in self.store.calls(finished=True)) >= number

    def polled_by_one(self, job_id: str, *, since: float = 0.0) -> bool:
        """Tell whether a call had a single poller from `since` (epoch seconds) on; two would query twice as often.

        The number of queries decides, not their distance: a poll after a late one is due at its own time, and a worker
        wrongly considered dead costs one extra query.
        """
        arrivals: list[float] = [entry["at"] for entry in self.simulator.status_requests(job_id) if entry["at"] > since]
        intervals = (arrivals[-1] - arrivals[0]) / float(str(self._settings["poll_interval"]))
        return len(arrivals) <= 1.5 * intervals + 2

    def largest_gaps(self) -> dict[str, float]:
        """Return the longest time without a poll of each call between its first and last poll, in seconds."""
        return {
            job_id: max((later - earlier for earlier, later in itertools.pairwise(at)), default=0.0)
            for job_id, at in self.polls().items()
        }

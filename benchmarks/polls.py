"""Measure the CPU cost and lateness of a poll: callwatch against two Celery task chains and saq.

Run all contenders with `make bench`, or one with `python -m benchmarks.polls --only callwatch --seconds 30`. The table
has one row for each contender: CPU milliseconds per poll of the worker and of Redis, the ratios to `tuned` and `saq`,
and the lateness of polls (p50, p99, maximum).

Each contender polls 2,000 calls every 10 s against a minimal status server (`--delay` and `--hang` slow it down). The
CPU time (user and system) of its processes and of its Redis is divided by the number of polls that the server received.
CPU time on a shared machine varies, so a fixed loop is timed during each run and the ratios are normalised by it.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from cli.up.embedded_redis import EmbeddedServer

INTERVAL = 10.0  # seconds between two polls of a call
SHARE = 0.9  # of the calls must be polled before the warm-up begins
WARM_UP = 15.0  # seconds before the measurement: each call is polled at least once


@dataclass(frozen=True)
class Contender:
    """A measured implementation: its worker's command line, the name that starts its polls, and extra settings."""

    name: str
    worker: tuple[str, ...]
    start: str
    settings: tuple[tuple[str, str], ...] = ()


CALLWATCH = ("celery", "-A", "worker.app", "worker", "-Q", "outbound.poll")
CONTENDERS = (
    Contender("naive", ("celery", "-A", "benchmarks.naive_app", "worker", "-c", "4", "-E", "-l", "WARNING"), "naive"),
    Contender(
        "tuned",
        ("celery", "-A", "benchmarks.tuned_app", "worker", "-P", "threads", "-c", "32", "-l", "WARNING"),
        "tuned",
    ),
    Contender("saq", ("saq", "benchmarks.saq_app.settings", "--quiet"), "saq"),
    Contender("callwatch", CALLWATCH, "callwatch"),
    Contender("callwatch one", CALLWATCH, "callwatch", (("CALLWATCH_POLL_BATCH", "1"),)),
    Contender("callwatch all", CALLWATCH, "callwatch", (("CALLWATCH_POLL_EVENTS", "all"),)),
)


@dataclass(frozen=True)
class Result:
    """Figures of one contender: CPU milliseconds per poll, CPU milliseconds of the fixed loop, lateness in seconds."""

    name: str
    polls: int
    seconds: float
    worker_ms: float
    redis_ms: float
    loop_ms: float
    lateness: list[float]

    @property
    def normalised(self) -> float:
        """CPU time of a poll as a multiple of the fixed loop's."""
        return (self.worker_ms + self.redis_ms) / self.loop_ms


def main() -> None:
    """Measure the chosen contenders and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--calls", type=int, default=2_000, help="watched calls, each polled every 10 s")
    options.add_argument("--seconds", type=float, default=60, help="duration of the measurement of each contender")
    options.add_argument("--only", nargs="*", choices=[one.name for one in CONTENDERS], help="measure only these")
    options.add_argument("--delay", type=float, default=0, help="seconds before each response of the status server")
    options.add_argument("--hang", type=int, default=0, help="leave the queries of one call in N unanswered")
    options.add_argument("--warm-up", type=float, default=WARM_UP, help="seconds before the measurement")
    chosen = options.parse_args()
    results = [
        measure(contender, chosen) for contender in CONTENDERS if not chosen.only or contender.name in chosen.only
    ]
    report(results)


def measure(contender: Contender, chosen: argparse.Namespace) -> Result:
    """Run one contender with its own Redis and status server."""
    answers = ("--delay", str(chosen.delay), "--hang", str(chosen.hang))
    with EmbeddedServer() as redis_server, status_server(*answers) as server_url:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CALLWATCH_")} | {
            "BENCH_REDIS_URL": redis_server.url,
            "BENCH_API_URL": server_url,
            "BENCH_INTERVAL": str(INTERVAL),
            "CALLWATCH_REDIS_URL": redis_server.url,
            "CALLWATCH_API_BASE_URL": server_url,
            "CALLWATCH_LOG_LEVEL": "WARNING",
        }
        environment |= dict(contender.settings)
        command = (sys.executable, "-m", *contender.worker)
        with child(command, environment, stderr=subprocess.DEVNULL) as worker:
            starter = (sys.executable, "-m", "benchmarks.start_chains", contender.start, str(chosen.calls))
            subprocess.run(starter, env=environment, check=True)
            wait_for(lambda: len(received_queries(server_url)) >= chosen.calls * SHARE, 120)
            time.sleep(chosen.warm_up)
            return observe(contender, worker.pid, redis_server.pid, server_url, chosen.seconds, chosen.hang)


def observe(contender: Contender, worker: int, redis_server: int, server_url: str, seconds: float, hang: int) -> Result:
    """Read the CPU clocks before and after the measurement; unanswered calls do not count towards lateness."""
    loops: list[float] = []
    begin, before = time.time(), (cpu_seconds(worker), cpu_seconds(redis_server))
    while time.time() < begin + seconds:
        loops.append(fixed_loop())
        time.sleep(1)
    after, end = (cpu_seconds(worker), cpu_seconds(redis_server)), time.time()
    seen = received_queries(server_url)
    polls = sum(begin <= at < end for _, at in seen)
    return Result(
        contender.name,
        polls,
        end - begin,
        1_000 * (after[0] - before[0]) / polls,
        1_000 * (after[1] - before[1]) / polls,
        1_000 * statistics.median(loops),
        lateness([one for one in seen if not is_silent(one[0], hang)], begin, end),
    )


def lateness(seen: list[tuple[str, float]], begin: float, end: float) -> list[float]:
    """Return the lateness of each poll against the grid of its call, sorted, in seconds.

    The grid consists of whole intervals from the call's earliest arrival, so a chain that drifts becomes later.
    """
    times: defaultdict[str, list[float]] = defaultdict(list)
    for job_id, at in seen:
        times[job_id].append(at)
    late = []
    for arrivals in times.values():
        offsets = [at - number * INTERVAL for number, at in enumerate(arrivals)]
        base = min(offsets)
        late += [offset - base for offset, at in zip(offsets, arrivals, strict=True) if begin <= at < end]
    return sorted(late)


def is_silent(job_id: str, hang: int) -> bool:
    """Tell whether the status server leaves the queries of a call unanswered."""
    return bool(hang) and int(job_id[-12:], 16) % hang == 0


def report(results: list[Result]) -> None:
    """Print the table with the ratio to each reference."""
    by_name = {result.name: result for result in results}
    print("| | polls | polls/s | worker ms | Redis ms | loop ms | loops | of tuned | of saq | late p50 / p99 / max s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for one in results:
        ratios = [
            f"{one.normalised / by_name[name].normalised:.2f}" if name in by_name else "-" for name in ("tuned", "saq")
        ]
        late = " / ".join(f"{quantile(one.lateness, share):.3f}" for share in (0.5, 0.99, 1))
        rate = one.polls / one.seconds
        print(
            f"| {one.name} | {one.polls} | {rate:.0f} | {one.worker_ms:.2f} | {one.redis_ms:.2f} | {one.loop_ms:.2f} | "
            f"{one.normalised:.3f} | {ratios[0]} | {ratios[1]} | {late} |"
        )


def quantile(values: list[float], share: float) -> float:
    """Return the quantile `share` (0 to 1) of sorted values."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def fixed_loop() -> float:
    """Return the CPU seconds of a fixed amount of Python work."""
    start = time.process_time()
    total = 0
    for number in range(200_000):
        total += number % 7
    return time.process_time() - start


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds, user and system, of a process and its running children."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def received_queries(server_url: str) -> list[tuple[str, float]]:
    """Return the job id and arrival time (epoch seconds) of each query that the status server received."""
    with urllib.request.urlopen(server_url + "/queries") as answer:  # noqa: S310 - our own server on loopback
        return [(job_id, at) for job_id, at in json.load(answer)]


def wait_for(condition: Callable[[], bool], limit: float) -> None:
    """Wait until a condition holds; SystemExit after `limit` seconds."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            sys.exit("the chains did not start")
        time.sleep(0.5)


@contextmanager
def status_server(*options: str) -> Iterator[str]:
    """Start the status server; yields its URL."""
    command = (sys.executable, "-m", "benchmarks.status_server", *options)
    with child(command, dict(os.environ), stdout=subprocess.PIPE) as process:
        assert process.stdout
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"


@contextmanager
def child(command: tuple[str, ...], environment: dict[str, str], **options: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process and end it with its children."""
    process = subprocess.Popen(command, env=environment, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for one in itertools.chain((process,), children):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()


if __name__ == "__main__":
    main()

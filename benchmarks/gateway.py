"""Measure the cost of streams and the latency of changes: `python -m benchmarks.gateway [--streams 100 1000 …]`.

One gateway, one Redis, one process of clients and one that changes calls run on this machine. Each of the N streams
follows one case; the store's scripts make 100 changes a second; 1 % of the clients read nothing. Latency is the time
from the id of the stream entry to the client's first byte; the table also has the delay of the clients' event loop, its
lower bound. Further measurements: memory after all streams have closed, SIGTERM with all streams open, reconnection
after a restart, polling the same cases, and triggers. On a shared machine compare CPU times, relative to the time of
the fixed loop.
"""

import argparse
import asyncio
import os
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.gateway_load import CHANGES, Changes, Crowd, call, post_all
from cli.up.embedded_redis import EmbeddedServer
from config.settings import Settings
from tests.deployment import wait_until
from tests.gatewayprocess import Gateway, environment
from worker.container import build_store

WARM = 100  # streams opened and closed before the measurement
SETTLES = 6.0  # seconds from the last close to the memory reading
CONNECTIONS = (1, 32, 128)
POLLED = 300  # cases polled


def loop_time() -> float:
    """Return the CPU milliseconds of a fixed loop, a reference to compare machines and runs."""
    begin = time.process_time()
    total = 0
    for number in range(200_000):
        total += number
    assert total
    return (time.process_time() - begin) * 1_000


def percentile(values: list[float], share: float) -> float:
    """Return a percentile."""
    ordered = sorted(values) or [0.0]
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def cpu(process: psutil.Process) -> float:
    """Return the CPU time of a process in seconds."""
    times = process.cpu_times()
    return float(times.user + times.system)


@dataclass
class Row:
    """The figures of one size."""

    streams: int
    kilobytes: float
    share: float
    late: list[float]
    own: list[float]
    opened: float
    open_cpu: float
    kept: float
    stopped: float
    back: float
    back_cpu: float
    polled: float
    fixed: float

    def line(self) -> str:
        """Return the row of the table."""
        late = " / ".join(f"{percentile(self.late, share) * 1_000:.0f}" for share in (0.5, 0.99, 1))
        own = " / ".join(f"{percentile(self.own, share) * 1_000:.0f}" for share in (0.5, 0.99, 1))
        return (
            f"| {self.streams} | {self.kilobytes:.1f} | {self.share:.1%} | {late} | {own} | {len(self.late)}"
            f" | {self.opened:.1f} ({self.open_cpu:.2f}) | {self.kept:+.0%} | {self.stopped:.1f}"
            f" | {self.back:.1f} ({self.back_cpu:.2f}) | {self.polled:.2f} | {self.fixed:.0f} |"
        )

    def missed(self) -> list[str]:
        """Return the targets missed."""
        bars = {
            "p99 of at most 150 ms": percentile(self.late, 0.99) <= 0.150,  # noqa: PLR2004
            "at most 40 KB a stream": self.kilobytes <= 40 or self.streams < 1_000,  # noqa: PLR2004
            "at most 25 % of a core": self.share <= 0.25,  # noqa: PLR2004
            "memory back within 20 %": self.kept <= 0.2,  # noqa: PLR2004
            "all back within 30 s": self.back <= 30,  # noqa: PLR2004
        }
        return [f"{self.streams} streams: not {bar}" for bar, met in bars.items() if not met]


HEAD = (
    "| streams | KB each | CPU of a core | ms p50 / p99 / max | the client itself, ms | changes seen"
    " | s to open (ms CPU each) | memory after all left | s to stop | s until all are back (ms CPU each)"
    " | ms CPU to poll one | fixed loop ms |\n" + "| --- " * 12 + "|"
)


async def measure(server: EmbeddedServer, number: int, seconds: float) -> Row:
    """Measure one number of streams, for a time in seconds."""
    prefix = f"bench{number}"
    store = build_store(Settings(redis_url=server.url, key_prefix=prefix))
    loop = asyncio.get_running_loop()
    with Gateway(environment(server.url, key_prefix=prefix, gateway_rate=0)) as gateway:
        await loop.run_in_executor(None, call, store, [f"C-{n}" for n in range(number)])
        store.client.close()
        await come_and_go(gateway)
        process = psutil.Process(gateway.process.pid)
        before, used = process.memory_info().rss, cpu(process)
        crowd = Crowd(gateway, number)
        opened = await crowd.open()
        full, open_cpu = process.memory_info().rss, cpu(process) - used
        with Changes(server.url, prefix, number):
            begin, used, fixed = time.monotonic(), cpu(process), loop_time()
            await crowd.look(seconds)
            share = (cpu(process) - used) / (time.monotonic() - begin)
            late = list(crowd.late)
        polled = await poll_instead(gateway, process, number)
        await crowd.close()
        await loop.run_in_executor(None, wait_until, lambda: gateway.metric("callwatch_gateway_streams") == 0)
        await asyncio.sleep(SETTLES)
        left = process.memory_info().rss
        again = Crowd(gateway, number)
        await again.open()
        begin = time.monotonic()
        await loop.run_in_executor(None, gateway.stop)
        stopped = time.monotonic() - begin
        await loop.run_in_executor(None, gateway.start)
        process = psutil.Process(gateway.process.pid)
        used = cpu(process)
        back = await again.open()
        back_cpu = cpu(process) - used
        await again.close()
    return Row(
        number, (full - before) / 1024 / number, share, late, crowd.own, opened, open_cpu / number * 1_000,
        (left - before) / before, stopped, back, back_cpu / number * 1_000, polled, fixed,
    )  # fmt: skip


async def come_and_go(gateway: Gateway) -> None:
    """Open and close some streams: one-time costs of the process are not counted per stream."""
    first = Crowd(gateway, WARM)
    await first.open()
    await first.close()
    await asyncio.sleep(SETTLES)


async def poll_instead(gateway: Gateway, process: psutil.Process, number: int) -> float:
    """Request each case once, as polling pages would; return the CPU milliseconds per request."""
    asked, used = min(number, POLLED), cpu(process)

    def ask() -> None:
        for n in range(asked):
            gateway.get(f"/v1/cases/C-{n}")

    await asyncio.get_running_loop().run_in_executor(None, ask)
    return (cpu(process) - used) / asked * 1_000


def post(seconds: float) -> None:
    """Measure the triggers per second of one process; each number of connections has its own server."""
    print("\n| connections | POSTs a second | ms CPU each | ms p50 / p99 | fixed loop ms |\n" + "| --- " * 5 + "|")
    for connections in CONNECTIONS:
        with EmbeddedServer(appendfsync="no") as own, Gateway(environment(own.url, gateway_rate=0)) as gateway:
            process, took = psutil.Process(gateway.process.pid), list[float]()
            asyncio.run(post_all(gateway, [], time.monotonic() + 1, connections))
            used, fixed = cpu(process), loop_time()
            asyncio.run(post_all(gateway, took, time.monotonic() + seconds, connections))
            each = (cpu(process) - used) / len(took) * 1_000
        print(
            f"| {connections} | {len(took) / seconds:.0f} | {each:.2f} | {statistics.median(took) * 1_000:.0f}"
            f" / {percentile(took, 0.99) * 1_000:.0f} | {fixed:.0f} |",
            flush=True,
        )


def main() -> int:
    """Measure all sizes; return 1 if a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="*", default=[100, 500, 1_000, 5_000, 10_000])
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"{os.cpu_count()} processors, {CHANGES} changes a second, 1 % of the clients read nothing\n\n{HEAD}")
    missed = []
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(data_dir=Path(folder), appendfsync="no") as server:
        for number in given.streams:
            row = asyncio.run(measure(server, number, given.seconds))
            print(row.line(), flush=True)
            missed += row.missed()
        post(min(10, given.seconds))
    print("\n".join(missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

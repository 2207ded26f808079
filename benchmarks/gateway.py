"""What an open page costs, and how late it sees a change: `python -m benchmarks.gateway [--streams 100 1000 …]`.

One gateway, one Redis, one client process, all on this machine. N streams of a case each; 100 changes a second by the
store's own steps; one client in a hundred reads nothing. Latency is from the stream entry's id to the client's byte.
Then: SIGTERM with all of them, everyone back after a restart, and polling the same cases instead of following them.
"""

import argparse
import asyncio
import os
import random
import resource
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

from cli.up.embedded_redis import EmbeddedServer
from config.settings import Settings
from gateway.identity import Tokens
from tests.gatewayprocess import SECRET, Gateway, environment
from worker.container import build_store
from worker.core.messages import TriggerResult
from worker.core.model import Event, NewJob, Pair, Settlement
from worker.store import RedisStore

CHANGES = 100  # a second
SILENT = 100  # one client in so many reads nothing
OPENING_AT_ONCE = 200
MEBIBYTE = 1024 * 1024


@dataclass
class Page:
    """One stream as a client sees it."""

    case: str
    silent: bool = False
    snapshot: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    writer: asyncio.StreamWriter | None = None


class Crowd:
    """All streams of one run."""

    def __init__(self, gateway: Gateway, number: int) -> None:
        self._gateway = gateway
        self._tokens = Tokens(SECRET)
        self.pages = [Page(f"C-{n}", silent=n % SILENT == 1) for n in range(number)]
        self.late: list[float] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> float:
        """Open all; return how many seconds that took."""
        begin, gate = time.monotonic(), asyncio.Semaphore(OPENING_AT_ONCE)
        for page in self.pages:
            page.snapshot.clear()
            page.ended.clear()
            task = asyncio.create_task(self._follow(page, gate))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await asyncio.gather(*(page.snapshot.wait() for page in self.pages))
        return time.monotonic() - begin

    async def _follow(self, page: Page, gate: asyncio.Semaphore) -> None:
        token, _ = self._tokens.mint("bench", [page.case], page.case, now=time.time(), lives=900)
        head = f"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
        while not page.snapshot.is_set():
            async with gate:
                try:
                    reader, page.writer = await asyncio.open_connection("127.0.0.1", self._gateway.port, limit=MEBIBYTE)
                    page.writer.write(head.encode())
                    await reader.readuntil(b"event: snapshot")
                    page.snapshot.set()
                except (OSError, asyncio.IncompleteReadError):
                    await asyncio.sleep(random.uniform(0.05, 0.5))  # noqa: S311
        if page.silent:
            page.ended.set()
            return
        await self._listen(page, reader)

    async def _listen(self, page: Page, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                if line.startswith(b"id: "):
                    self.late.append(time.time() - int(line[4:].split(b"-")[0]) / 1000)
        except (OSError, ValueError):
            pass
        page.ended.set()

    async def close(self) -> None:
        """Leave."""
        for page in self.pages:
            if page.writer is not None:
                page.writer.close()
        await asyncio.gather(*(page.ended.wait() for page in self.pages))


class Changes:
    """Changes calls, `CHANGES` a second, as polls do."""

    def __init__(self, store: RedisStore, cases: list[str]) -> None:
        self._store, self._cases = store, cases
        self._stop = threading.Event()
        self.made = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def set_up(self) -> None:
        """Start a call for each case."""
        for case in self._cases:
            pair = Pair(case, "20")
            self._store.claim(pair, token=case, task_id=case, arguments="{}", expires=None, enabled=True)
            sent_at = self._store.begin_sending(pair, case)
            assert isinstance(sent_at, float)
            result = TriggerResult.of("started", case, "20")
            jobs = [NewJob(f"job-{case}", "P-0001", "Executing", 5)]
            self._store.settle(Settlement(pair, case, case, result, "watching", sent_at, jobs, []))

    def _run(self) -> None:
        keys = self._store.keys
        step = self._store.script("redis.call('HSET', KEYS[2], 'retry_count', ARGV[2])\n"
                                  "emit(PREFIX .. ':events', KEYS[1], HISTORY_TTL, now(), ARGV[1])")  # fmt: skip
        begin = time.monotonic()
        while not self._stop.is_set():
            case = random.choice(self._cases)  # noqa: S311
            event = Event("status_changed", case, "20", f"job-{case}")
            text = f'{{"kind": "{event.kind}", "case_id": "{case}", "mediation_id": "20", "job_id": "{event.job_id}"}}'
            self._store.run(step, [keys.history(case), keys.job(event.job_id)], [text, self.made % 10])
            self.made += 1
            self._stop.wait(max(0.0, begin + self.made / CHANGES - time.monotonic()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def loop_time() -> float:
    """Return the milliseconds of a fixed loop: to compare machines, and moments of one, by."""
    begin = time.monotonic()
    total = 0
    for number in range(200_000):
        total += number
    assert total
    return (time.monotonic() - begin) * 1_000


def percentile(values: list[float], share: float) -> float:
    """Return a percentile."""
    ordered = sorted(values) or [0.0]
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def measure(server: EmbeddedServer, number: int, seconds: float) -> None:
    """Measure one size and print its line."""
    store = build_store(Settings(redis_url=server.url, key_prefix=f"bench{number}"))
    settings = environment(server.url, key_prefix=f"bench{number}", gateway_rate=0)
    loop = asyncio.get_running_loop()
    with Gateway(settings) as gateway:
        process = psutil.Process(gateway.process.pid)
        changes = Changes(store, [f"C-{n}" for n in range(number)])
        await loop.run_in_executor(None, changes.set_up)
        before = process.memory_info().rss
        crowd = Crowd(gateway, number)
        opened = await crowd.open()
        full = process.memory_info().rss
        with changes:
            await asyncio.sleep(2)
            crowd.late.clear()
            cpu, begin, fixed = sum(process.cpu_times()[:2]), time.monotonic(), loop_time()
            await asyncio.sleep(seconds)
            used = (sum(process.cpu_times()[:2]) - cpu) / (time.monotonic() - begin)
            late = list(crowd.late)
        polled = await poll_instead(gateway, process, number) if number <= 1_000 else ""  # noqa: PLR2004
        await crowd.close()
        await asyncio.sleep(3)
        left = process.memory_info().rss
        again = Crowd(gateway, number)
        await again.open()
        end = time.monotonic()
        await loop.run_in_executor(None, gateway.stop)
        stopped = time.monotonic() - end
        gateway.start()
        back = await again.open()
        await again.close()
        print(
            f"| {number} | {(full - before) / 1024 / number:.1f} | {used:.1%} | {percentile(late, 0.5) * 1000:.0f}"
            f" / {percentile(late, 0.99) * 1000:.0f} / {max(late, default=0) * 1000:.0f} | {len(late)}"
            f" | {opened:.1f} | {(left - before) / max(1, before):.0%} | {stopped:.1f} | {back:.1f} | {fixed:.0f}"
            f" | {polled} |",
            flush=True,
        )
    store.client.close()


async def poll_instead(gateway: Gateway, process: "psutil.Process", number: int) -> str:
    """Ask for each case once, as pages would that poll; return the CPU of a request."""
    loop = asyncio.get_running_loop()
    asked = min(number, 300)
    cpu = sum(process.cpu_times()[:2])
    for n in range(asked):
        await loop.run_in_executor(None, gateway.get, f"/v1/cases/C-{n}")
    return f"{(sum(process.cpu_times()[:2]) - cpu) / asked * 1000:.2f}"


def post(server: EmbeddedServer, seconds: float) -> None:
    """Measure how many triggers one process takes a second, over 32 connections that are kept."""
    settings = environment(server.url, key_prefix="bench-post", gateway_rate=0)
    with Gateway(settings) as gateway:
        took: list[float] = []
        end = time.monotonic() + seconds
        asyncio.run(_post_all(gateway, took, end))
        rate = len(took) / seconds
        print(
            f"\nPOST /v1/triggers: {rate:.0f} a second, p50 {statistics.median(took) * 1000:.0f} ms,"
            f" p99 {percentile(took, 0.99) * 1000:.0f} ms; the fixed loop {loop_time():.0f} ms"
        )


async def _post_all(gateway: Gateway, took: list[float], end: float) -> None:
    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        count = 0
        while time.monotonic() < end:
            count += 1
            body = f'{{"case_id":"C-{number}-{count}","mediation_id":20}}'
            head = (
                f"POST /v1/triggers HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {gateway.key}\r\n"
                f"Content-Type: application/json\r\nIdempotency-Key: k-{number}-{count}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            begin = time.monotonic()
            writer.write((head + body).encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 202"), answer
            length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            took.append(time.monotonic() - begin)
        writer.close()

    await asyncio.gather(*map(one, range(32)))


def main() -> None:
    """Measure all sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="*", default=[100, 1_000, 5_000, 10_000])
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"{os.cpu_count()} processors, {CHANGES} changes a second, 1 % of the clients read nothing\n")
    print(
        "| streams | KB each | CPU of a core | ms p50 / p99 / max | changes seen | s to open | memory kept after"
        " | s to stop | s until all are back | fixed loop ms | ms CPU to poll one |\n" + "| --- " * 11 + "|"
    )
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(data_dir=Path(folder), appendfsync="no") as server:
        for number in given.streams:
            asyncio.run(measure(server, number, given.seconds))
        post(server, min(10, given.seconds))


if __name__ == "__main__":
    main()

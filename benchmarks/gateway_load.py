"""The load that `python -m benchmarks.gateway` puts on a gateway: pages that follow, calls that change, triggers."""

import argparse
import asyncio
import random
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Self

from config.settings import Settings
from gateway.identity import Tokens
from tests.gatewayprocess import SECRET, Gateway
from worker.container import build_store
from worker.core.messages import TriggerResult
from worker.core.model import Event, Pair
from worker.core.trigger_model import NewJob, Settlement
from worker.store import RedisStore

CHANGES = 100  # a second
SILENT = 100  # one client in so many reads nothing
OPENING_AT_ONCE = 200
CANARY = 0.01  # seconds between two looks at how late this process is itself
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
        self.own: list[float] = []
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

    async def look(self, seconds: float) -> None:
        """Measure for a while: how late events come, and how late this process itself is."""
        await asyncio.sleep(2)
        self.late.clear()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begin = time.monotonic()
            await asyncio.sleep(CANARY)
            self.own.append(time.monotonic() - begin - CANARY)

    async def close(self) -> None:
        """Leave."""
        for page in self.pages:
            if page.writer is not None:
                page.writer.close()
        await asyncio.gather(*(page.ended.wait() for page in self.pages))


def call(store: RedisStore, cases: list[str]) -> None:
    """Start a call for each case."""
    for case in cases:
        pair = Pair(case, "20")
        store.claim(pair, token=case, task_id=case, arguments="{}", expires=None, enabled=True)
        sent_at = store.begin_sending(pair, case)
        assert isinstance(sent_at, float)
        result = TriggerResult.of("started", case, "20")
        jobs = [NewJob(f"job-{case}", "P-0001", "Executing", 5)]
        store.settle(Settlement(pair, case, case, result, "watching", sent_at, jobs, []))


def change(store: RedisStore, number: int) -> None:
    """Change calls, `CHANGES` a second, as polls do, until the process is ended."""
    keys = store.keys
    step = store.script("redis.call('HSET', KEYS[2], 'retry_count', ARGV[2])\n"
                        "emit(PREFIX .. ':events', KEYS[1], HISTORY_TTL, now(), ARGV[1])")  # fmt: skip
    begin, made = time.monotonic(), 0
    while True:
        case = f"C-{random.randrange(number)}"  # noqa: S311
        event = Event("status_changed", case, "20", f"job-{case}")
        text = f'{{"kind": "{event.kind}", "case_id": "{case}", "mediation_id": "20", "job_id": "{event.job_id}"}}'
        store.run(step, [keys.history(case), keys.job(event.job_id)], [text, made % 10])
        made += 1
        time.sleep(max(0.0, begin + made / CHANGES - time.monotonic()))


class Changes:
    """A process that changes calls: in this one it would take turns with the clients that are measured."""

    def __init__(self, redis_url: str, prefix: str, number: int) -> None:
        self._command = (sys.executable, "-m", "benchmarks.gateway_load", redis_url, prefix, str(number))

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


async def post_all(gateway: Gateway, took: list[float], end: float, connections: int) -> None:
    """Send triggers over some connections until `end` (monotonic seconds); note how long each took."""
    run = secrets.token_hex(4)

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        count = 0
        while time.monotonic() < end:
            count += 1
            body = f'{{"case_id":"C-{run}-{number}-{count}","mediation_id":20}}'
            head = (
                f"POST /v1/triggers HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {gateway.key}\r\n"
                f"Content-Type: application/json\r\nIdempotency-Key: k-{run}-{number}-{count}\r\n"
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

    await asyncio.gather(*map(one, range(connections)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("redis_url")
    parser.add_argument("prefix")
    parser.add_argument("number", type=int)
    given = parser.parse_args()
    change(build_store(Settings(redis_url=given.redis_url, key_prefix=given.prefix)), given.number)

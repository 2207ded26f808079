"""Measure the cost of the largest upstream responses for workers and Redis: one at a time, then concurrently.

Run it with `make hostile` or `python -m benchmarks.large_answers --together 16`. It prints memory, Redis traffic and
duration for each shape of response, and exits with 1 if a worker exceeds its memory limit or dies.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import redis

from api_client.client import MAX_LOG_BYTES
from api_client.transport import MAX_ANSWER_BYTES
from benchmarks.fault_figures import Figure, at_most, exactly, for_information
from benchmarks.fuzz_answers import QUEUES
from benchmarks.fuzz_watch import MOST_MEMORY, begin_peak, largest_command, note_commands, report, start, status_of
from benchmarks.hostile import PERSON, good, http
from benchmarks.hostile_server import Answer, HostileServer, Request
from cli.up.embedded_redis import EmbeddedServer
from tests.deployment import Deployment, Worker, wait_until

HEAD = 1_000  # bytes of a response in addition to its records
ARRIVED = 1.0  # seconds until the requests of all triggers have arrived and are answered together
LOOKED = 12.0  # seconds for the look-ups of lost pairs, or the polls of watched calls
POLLED = 1_000  # watched calls whose queries are answered concurrently
HELD = 8.0  # seconds for which such a response stays incomplete
SETTLED = 120.0  # seconds for the results of all triggers
BOUNDS = {"call-v2": 60.0, "status": 60.0, "conversation-log": 60.0}


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of response of maximum size to dials, queries or look-ups; `alone` excludes it from concurrent runs."""

    name: str
    record: Callable[[int], bytes]
    where: Literal["call-v2", "status", "conversation-log"] = "call-v2"
    alone: bool = False

    def body(self) -> bytes:
        """Return an envelope filled with records up to the size limit."""
        most = MAX_LOG_BYTES if self.where == "conversation-log" else MAX_ANSWER_BYTES
        records, size = [], HEAD
        for number in itertools.count():
            record = self.record(number)
            size += len(record) + 1
            if size > most:
                break
            records.append(record)
        return b'{"code":201,"data":[%b]}' % b",".join(records)


def _json(**fields: object) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


def _call(number: int) -> bytes:
    return b'{"errorCode":0,"jobId":"%d-%d"}' % (time.time_ns() // 1_000_000, number)


def _entry(number: int) -> bytes:
    return _json(jobId=f"{time.time_ns() // 1_000_000}-{number}", callStatus="Succeeded", conversations="长" * 550)


SHAPES = (
    Shape("refusals by number alone", lambda _: b'{"errorCode":1002}'),
    Shape("refusals with long texts", lambda _: _json(errorCode=1002, personId=PERSON, message="长" * 400)),
    Shape("records without a field", lambda _: b"{}"),
    Shape("records that are none", lambda _: b"0"),
    Shape("records of lists", lambda _: b"[[]]"),
    Shape("calls", _call, alone=True),
    Shape("a log of transcripts", lambda _: _entry(0), "conversation-log"),
    Shape("a log of values", lambda _: b"[0,0,0,0,0,0,0%b]" % (b" " * 300), "conversation-log"),
    Shape("a log of calls", _entry, "conversation-log", alone=True),
    Shape(f"statuses of {POLLED:,} calls", lambda _: b'"%b"' % (b"x" * 10_000), "status", alone=True),
)


class Upstream:
    """Answer one kind of request with the body of a shape; for a log, dials are lost so that look-ups follow."""

    def __init__(self) -> None:
        self._shape = SHAPES[0]
        self._answer = Answer("none", [])

    def show(self, shape: Shape) -> None:
        """Use `shape` for subsequent responses."""
        whole = http(201, shape.body())
        at_once = len(whole) - 100 if shape.where == "status" else 0
        self._shape = shape
        self._answer = Answer(shape.name, [whole[:at_once], HELD if at_once else ARRIVED, whole[at_once:]])

    def __call__(self, request: Request) -> Answer:
        """Return the response to a request."""
        if request.endpoint == self._shape.where:
            return self._answer
        if request.endpoint == "status":
            return good({"jobId": request.query.get("jobId"), "callStatus": "Succeeded"})
        if self._shape.where == "status":
            return Answer("calls", [http(201, b'{"code":201,"data":[%b]}' % b",".join(map(_call, range(POLLED))))])
        return Answer("lost calls", [ARRIVED], "reset")


def measure(
    deployed: Deployment, workers: Sequence[Worker], upstream: Upstream, shape: Shape, number: int
) -> list[Figure]:
    """Trigger `number` pairs whose requests are answered concurrently, and return the figures."""
    client = deployed.store.client
    upstream.show(shape)
    for worker in workers:
        begin_peak(worker)
    client.execute_command("COMMANDLOG", "RESET", "large-request")  # type: ignore[no-untyped-call]
    client.execute_command("COMMANDLOG", "RESET", "slow")  # type: ignore[no-untyped-call]
    before, begin = written(client), time.monotonic()
    results = [deployed.trigger(f"{shape.name}-{number}-{one}") for one in range(number)]
    wait_until(lambda: any(worker.gone() for worker in workers) or all(one.ready() for one in results), limit=SETTLED)
    if shape.where != "call-v2":
        time.sleep(LOOKED)
    name = f"{shape.name}, {number} at a time"
    memory = max(status_of(worker, "VmHWM") for worker in workers) // 1_000
    return [
        at_most(f"{name}: memory", memory, MOST_MEMORY, "MB"),
        exactly(f"{name}: workers that died", sum(worker.gone() for worker in workers), 0),
        for_information(
            f"{name}: Redis",
            f"{(written(client) - before) / 1e6 / number:.2f} MB an answer,"
            f" largest command {largest_command(deployed.redis_url) / 1e6:.2f} MB,"
            f" slowest {largest_command(deployed.redis_url, 'slow') / 1e3:.0f} ms, {time.monotonic() - begin:.1f} s",
        ),
    ]


def written(client: "redis.Redis") -> int:
    """Return the number of bytes that Redis has received."""
    return int(client.info("stats")["total_net_input_bytes"])


def run(together: int, names: Sequence[str]) -> list[Figure]:
    """Measure each shape with new workers, so that no memory carries over."""
    upstream = Upstream()
    figures: list[Figure] = []
    with HostileServer(upstream, BOUNDS) as server:
        for shape in (one for one in SHAPES if not names or one.name in names):
            for number in (1,) if shape.alone else (1, together):
                with (
                    EmbeddedServer(appendfsync="no") as redis_server,
                    Deployment(redis_server.url, api_base_url=server.url, unknown_lookup=5) as deployed,
                ):
                    note_commands(deployed.redis_url)
                    workers = start(deployed, QUEUES)
                    figures += measure(deployed, workers, upstream, shape, number)
                    print(*(f"{one.name}: {one.measured}" for one in figures[-3:]), sep="\n", file=sys.stderr)
    return figures


def main(arguments: list[str] | None = None) -> int:
    """Measure the chosen shapes and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--together", type=int, default=16, help="number of concurrent responses")
    parser.add_argument("--shape", nargs="*", default=[], choices=[one.name for one in SHAPES], metavar="NAME")
    options = parser.parse_args(arguments)
    return report(run(options.together, options.shape))


if __name__ == "__main__":
    sys.exit(main())

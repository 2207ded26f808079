"""Observe workers and Redis during a fuzz: memory, threads, logs, largest and slowest commands.

Shared by `benchmarks.fuzz_answers`, `benchmarks.fuzz_receiver` and `benchmarks.large_answers`.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis

from benchmarks.fault_figures import Figure, at_most, exactly, for_information
from benchmarks.hostile import SECRETS
from benchmarks.hostile_server import Served
from tests.deployment import Deployment, Worker

MOST_MEMORY = 300  # MB of one worker
LARGE, SLOW = 16_384, 10_000  # bytes and microseconds above which Redis logs a command
SHOWN = 3  # offending log lines that are printed
NOTED = 10_000  # logged commands of each kind that Redis keeps


def note_commands(url: str) -> None:
    """Enable the log of large and slow commands in the Redis at `url`."""
    with redis.Redis.from_url(url) as client:
        client.config_set("commandlog-request-larger-than", LARGE)
        client.config_set("commandlog-large-request-max-len", NOTED)
        client.config_set("commandlog-execution-slower-than", SLOW)
        client.config_set("commandlog-slow-execution-max-len", NOTED)


def largest_command(url: str, kind: str = "large-request") -> int:
    """Return the bytes of the largest logged command, or the microseconds of the slowest; 0 if there are none."""
    with redis.Redis.from_url(url) as client:  # no decoding: Redis may truncate a quoted command within a character
        noted: Any = client.execute_command("COMMANDLOG", "GET", -1, kind)
    return max((int(entry[2]) for entry in noted), default=0)


def status_of(worker: Worker, field: str) -> int:
    """Return a number from the worker's /proc status, `VmHWM` in kB or `Threads`; 0 if it has exited."""
    if worker.gone():
        return 0
    text = Path(f"/proc/{worker.process.pid}/status").read_text(encoding="utf-8")
    return int(text.partition(f"{field}:")[2].split()[0])


def begin_peak(worker: Worker) -> None:
    """Reset the worker's peak memory (`VmHWM`)."""
    Path(f"/proc/{worker.process.pid}/clear_refs").write_text("5", encoding="utf-8")


def read_logs(workers: Iterable[Worker], *, secrets: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the log lines with personal data, and those with a control character or in another format."""
    personal, controls = [], []
    for worker in workers:
        for line in _records(worker):
            if any(secret in line for secret in secrets):
                personal.append(line)
            if not line.isprintable() or not _is_json(line):
                controls.append(line)
    return personal, controls


def _records(worker: Worker) -> list[str]:
    """Return the log lines after Celery's banner."""
    lines = worker.log.split("\n")
    begin = next((number for number, line in enumerate(lines) if " ready." in line), len(lines))
    return [line for line in lines[begin:] if line]


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def start(deployed: Deployment, queues: Mapping[str, str]) -> list[Worker]:
    """Start one worker per name with its queues, all at once."""
    deployed.workers += [Worker(deployed.environment, "-Q", served, name=name) for name, served in queues.items()]
    return [worker.ready() for worker in deployed.workers]


def common_figures(
    served: Served, workers: Sequence[Worker], *, threads: int, also_secret: Sequence[str]
) -> list[Figure]:
    """Return the figures common to all hostile servers.

    `threads` is the limit of one worker; `also_secret` are further texts that must not appear in a log.
    """
    personal, controls = read_logs(workers, secrets=(*SECRETS, *also_secret))
    for line in (*personal[:SHOWN], *controls[:SHOWN]):
        print(ascii(line)[:500], file=sys.stderr)
    held = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in sorted(served.held.items()))
    return [
        for_information("answers served", f"{served.answers} of {len(served.kinds)} kinds"),
        exactly("workers that died", sum(worker.gone() for worker in workers), 0),
        at_most(
            "largest memory of a worker", max(status_of(one, "VmHWM") for one in workers) // 1_000, MOST_MEMORY, "MB"
        ),
        at_most("most threads of a worker", max(status_of(one, "Threads") for one in workers), threads),
        for_information("longest stay of a client", held),
        exactly("clients that stayed beyond their bound", served.beyond, 0),
        exactly("redirects followed", served.followed, 0),
        exactly("log lines with personal data or an address", len(personal), 0),
        exactly("log lines with control characters, or forged", len(controls), 0),
    ]


def report(figures: Sequence[Figure]) -> int:
    """Print the figures; return 1 if one misses its goal, else 0."""
    for one in figures:
        missed = "" if one.passed in (True, None) else f"  MISSED, to reach {one.goal}"
        print(f"{one.name:46} {one.measured}{missed}")
    return int(any(one.passed is False for one in figures))

"""Fuzz the trigger queue of a real worker with the rights of the producer's Redis user.

Run it with `make fuzz` or `python -m benchmarks.fuzz_triggers --entries 100000 --seed 1`. It prints one line per figure
(workers that died, foreign keys, pairs dialled twice, memory, …), names those outside their bounds, and exits with 1 if
there are any.
"""

import argparse
import base64
import dataclasses
import gzip
import json
import random
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import redis

from tests.deployment import Deployment, Worker, wait_until
from tests.users import GuardedServer, guarded_server

QUEUE = "outbound.trigger"
PERSON = "person-secret-0001"
CHUNK = 500  # entries per push, followed by a valid trigger
WAITING = 3_000  # maximum length of the queue before more are pushed
LOSE_EVERY = 40  # chunks after which the worker's connections are killed and it restores unacknowledged messages
MUTANT = "C-mutant"
HOLD = 7_200  # seconds: a mutated person is unknown upstream, and such a pair may be called again after its hold (S14)
MOST_MEMORY = 300  # MB
DRAINED = 300.0  # seconds for the last entries to be consumed
PLACES = ("callwatch:due", "callwatch:paused", "callwatch:lock:C-good-0:20", "callwatch:history:C-x", "outbound.poll")
JUNK: tuple[Any, ...] = (
    *(None, True, 0, -1, 1e308, 2**63, 10**40, "", " ", "\x00", "\ud800", "\u202e", "x" * 300),
    *([], {}, [[]], {"a": []}, "callwatch:due", "2026-01-01", "zlib", "base64", "celery.starmap", "outbound.poll"),
    *({"__type__": kind, "__value__": "x"} for kind in ("datetime", "date", "decimal", "uuid", "bytes", "other")),
)


def trigger(case_id: str, place: str = QUEUE) -> dict[str, Any]:
    """Return a valid trigger message."""
    body = [[], {"case_id": case_id, "mediation_id": 20, "call_person_id": PERSON}, {}]
    return {
        "body": json.dumps(body),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": QUEUE, "id": str(uuid.uuid4()), "root_id": None, "eta": None, "argsrepr": PERSON},
        "properties": {
            "delivery_tag": str(uuid.uuid4()),
            "delivery_info": {"exchange": "", "routing_key": place},
            "body_encoding": None,
            "priority": 0,
        },
    }


class Fuzz:
    """Generate entries of every kind, reproducible by seed except for their UUIDs."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - repeatable
        self.kinds: tuple[Callable[[], bytes], ...] = (
            *(self.noise, self.cut, self.cut, self.replaced, self.replaced, self.inside, self.inside),
            *(self.deep, self.long, self.compressed, self.foreign, self.embedded),
        )

    def entries(self, number: int) -> Iterator[bytes]:
        """Generate `number` entries."""
        return (self.random.choice(self.kinds)() for _ in range(number))

    def noise(self) -> bytes:
        """Return random bytes."""
        return self.random.randbytes(self.random.randrange(200))

    def cut(self) -> bytes:
        """Return a valid message with some bytes replaced."""
        text = _text(trigger(MUTANT))
        at = self.random.randrange(len(text))
        return text[:at] + self.random.randbytes(self.random.randrange(4)) + text[at + self.random.randrange(8) :]

    def replaced(self) -> bytes:
        """Return a valid message with one field removed or of a wrong type."""
        message = trigger(MUTANT)
        self._spoil(message)
        return _text(message)

    def inside(self) -> bytes:
        """Return a valid message with one field of its body removed or of a wrong type."""
        message = trigger(MUTANT)
        body = json.loads(message["body"])
        self._spoil(body[1] if self.random.random() < 0.5 else body)  # noqa: PLR2004
        return _text(message | {"body": json.dumps(body)})

    def _spoil(self, value: Any) -> None:
        inner = list(value) if isinstance(value, dict) else list(range(len(value)))
        name = self.random.choice(inner)
        if isinstance(value[name], dict | list) and value[name] and self.random.random() < 0.8:  # noqa: PLR2004
            self._spoil(value[name])
        elif self.random.random() < 0.2:  # noqa: PLR2004
            del value[name]
        else:
            value[name] = self.random.choice(JUNK)

    def deep(self) -> bytes:
        """Return deeply nested lists, as the entry or in its body."""
        levels = self.random.choice((21, 100, 500, 850, 950, 990, 5_000))
        nested = "[" * levels + "]" * levels
        message = trigger(MUTANT) | {"body": f'[[], {{"case_id": {nested}}}, {{}}]'}
        return self.random.choice((nested.encode(), _text(message)))

    def long(self) -> bytes:
        """Return a number with many digits, or a long text."""
        size = self.random.choice((4_301, 5_000, 20_000, 100_000))
        message = trigger(MUTANT) | {"body": f'[[], {{"case_id": {"9" * size}}}, {{}}]'}
        return self.random.choice((b"9" * size, _text(message), _text(trigger("x" * size))))

    def compressed(self) -> bytes:
        """Return a compressed body that expands a thousandfold."""
        message = trigger(MUTANT) | {"body": BOMB}
        message["properties"]["body_encoding"] = "base64"
        if self.random.random() < 0.5:  # noqa: PLR2004
            message["headers"]["compression"] = "application/x-gzip"
        else:
            message["content-encoding"] = self.random.choice(("zlib", "bz2", "hex", "idna"))
        return _text(message)

    def foreign(self) -> bytes:
        """Return a message with another key as its routing key, and sometimes an invalid id."""
        message = trigger(MUTANT, self.random.choice(PLACES))
        message["headers"]["id"] = self.random.choice((None, 5, "\ud800", message["headers"]["id"]))
        return _text(message)

    def embedded(self) -> bytes:
        """Return a message with callbacks or a chain, or for another task."""
        message = trigger(MUTANT)
        after = {self.random.choice(("callbacks", "errbacks", "chain", "chord", "id")): self.random.choice(JUNK)}
        body = [[PERSON], {"case_id": MUTANT}, after]
        task = self.random.choice((QUEUE, QUEUE, "outbound.poll", "outbound.lookup", "celery.starmap", PERSON))
        message["headers"] |= {"task": task, "group": "g", "chord": self.random.choice(JUNK)}
        return _text(message | {"body": json.dumps(body)})


BOMB = base64.b64encode(gzip.compress(b" " * 8_000_000)).decode()


def _text(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()


@dataclasses.dataclass
class Figures:
    """The figures of a run; `bad` names those outside their bounds."""

    entries: int
    seconds: float
    workers_that_died: int
    messages_held: int
    foreign_keys: list[str]
    good_triggers: int
    good_not_dialled_once: int
    pairs_dialled_twice: int
    memory_mb: int
    lines_with_a_person: int
    put_aside: int
    connections_lost: int

    @property
    def bad(self) -> list[str]:
        """Return the names of the figures outside their bounds."""
        zero = ("workers_that_died", "messages_held", "foreign_keys", "good_not_dialled_once", "pairs_dialled_twice")
        found = [name for name in (*zero, "lines_with_a_person") if getattr(self, name)]
        return found + ["memory_mb"] * (self.memory_mb >= MOST_MEMORY) + ["put_aside"] * (self.put_aside == 0)


def run(entries: int, seed: int) -> Figures:
    """Push the entries with valid triggers between them and return the figures."""
    with (
        tempfile.TemporaryDirectory(prefix="callwatch-fuzz-") as folder,
        guarded_server(Path(folder)) as server,
        Deployment(server.url("admin"), poll_interval=60, unknown_hold=HOLD) as deployment,
        server.client("admin") as admin,
    ):
        deployment.redis_url = server.url("worker")
        deployment.simulator.script("*", life="talking", parties=[{"person_id": PERSON}])
        worker = deployment.worker("-c", "4")
        begin = time.monotonic()
        good, lost = _push(server, admin, worker, entries, seed)
        _drain(admin, worker)
        seconds = time.monotonic() - begin
        dialled = Counter(deployment.simulator.calls_per_pair())
        lines, aside = _read_log(worker)
        return Figures(
            entries=entries,
            seconds=round(seconds, 1),
            workers_that_died=int(worker.gone()),
            messages_held=int(str(admin.hlen("unacked"))),
            foreign_keys=sorted(_foreign_keys(admin, {case_id for case_id, _ in dialled})),
            good_triggers=len(good),
            good_not_dialled_once=sum(dialled[case_id, "20"] != 1 for case_id in good),
            pairs_dialled_twice=sum(times > 1 for times in dialled.values()),
            memory_mb=_peak(worker),
            lines_with_a_person=lines,
            put_aside=aside,
            connections_lost=lost,
        )


def _push(
    server: GuardedServer, admin: "redis.Redis", worker: Worker, entries: int, seed: int
) -> tuple[list[str], int]:
    fuzz, good, lost = Fuzz(seed), [], 0
    with redis.Redis.from_url(server.url("producer")) as producer:
        for chunk in range(-(-entries // CHUNK)):
            rest = min(CHUNK, entries - chunk * CHUNK)
            case_id = f"C-good-{chunk}"
            good.append(case_id)
            place = fuzz.random.choice((QUEUE, *PLACES))
            producer.lpush(QUEUE, *fuzz.entries(rest), _text(trigger(case_id, place)))
            while int(str(admin.llen(QUEUE))) > WAITING and not worker.gone():
                time.sleep(0.05)
            if worker.gone():
                break
            if chunk % LOSE_EVERY == LOSE_EVERY - 1:
                lost += 1
                admin.execute_command("CLIENT", "KILL", "USER", "worker")  # type: ignore[no-untyped-call]
    return good, lost


def _drain(admin: "redis.Redis", worker: Worker) -> None:
    def drained() -> bool:
        return worker.gone() or not (admin.llen(QUEUE) or admin.hlen("unacked"))

    try:
        wait_until(drained, limit=DRAINED)
    except AssertionError:
        print(f"queue not drained within {DRAINED:.0f} s", file=sys.stderr)


KINDS = {
    **dict.fromkeys(("lock", "task"), "string"),
    **dict.fromkeys(("ledger", "job", "counters"), "hash"),
    **dict.fromkeys(("due", "finished", "pairs", "done"), "zset"),
    **dict.fromkeys(("live", "mediations", "jobs"), "set"),
    "history": "list",
    "events": "stream",
}


def _foreign_keys(admin: "redis.Redis", cases: set[str]) -> Iterator[str]:
    """Yield the keys of cases without a dial and the keys whose type callwatch does not create."""
    for name in map(str, admin.scan_iter("*", count=1_000)):
        parts = name.split(":")
        if parts[0] != "callwatch":
            expected = name.startswith(("celery-task-meta-", "_kombu.binding", "unacked", "outbound.malformed"))
        else:
            of_a_case = parts[1] in {"lock", "ledger", "live", "mediations", "jobs", "history"}
            kind = KINDS.get(parts[1], str(admin.type(name)))
            known = not of_a_case or unquote(parts[2]) in cases
            expected = known and parts[1] != "paused" and kind == admin.type(name)
        if not expected:
            yield name


def _read_log(worker: Worker) -> tuple[int, int]:
    """Return how many log lines contain a whole person id, and how many entries were quarantined."""
    persons = aside = 0
    with worker.log_file.open(encoding="utf-8") as lines:
        for line in lines:
            persons += PERSON in line
            aside += "put aside in outbound.malformed" in line
    return persons, aside


def _peak(worker: Worker) -> int:
    """Return the worker's peak memory in MB; 0 if it has exited."""
    status = Path(f"/proc/{worker.process.pid}/status")
    text = "" if worker.gone() else status.read_text(encoding="utf-8")
    return int(text.partition("VmHWM:")[2].split()[0]) // 1_000 if text else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the fuzz and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    figures = run(options.entries, options.seed)
    for name, value in dataclasses.asdict(figures).items():
        print(f"{name.replace('_', ' '):24} {value}")
    if figures.bad:
        print(f"out of bounds: {', '.join(figures.bad)}")
    return bool(figures.bad)


if __name__ == "__main__":
    sys.exit(main())

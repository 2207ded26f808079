"""Fuzz real workers with a hostile upstream: malformed responses to dials, status queries and conversation logs.

Run it with `make hostile` or `python -m benchmarks.fuzz_answers --answers 5000 --seed 1`. It prints one line per
figure, marks those that miss their goal with `MISSED`, and exits with 1 if there are any.
"""

import argparse
import itertools
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.fault_figures import Figure, exactly, for_information
from benchmarks.fuzz_watch import common_figures, largest_command, note_commands, report, start, status_of
from benchmarks.hostile import NAME, PERSON, PHONE, TALK, Hostile, good
from benchmarks.hostile_server import Answer, HostileServer, Request
from cli.up.embedded_redis import EmbeddedServer
from simulator.script import RECORD_FIELDS
from tests.deployment import Deployment, wait_until

QUEUES = {"trigger": "outbound.trigger", "poll": "outbound.poll,outbound.control"}
ALL_QUEUES = {"worker": "outbound.trigger,outbound.poll,outbound.control"}
CONNECT = 1  # second: the workers' connect time-out
SLACK = 8.0  # seconds that a shared machine may add until a client disconnects
CALLING = 3  # true responses with an active status before the terminal one
WATCHED = 150  # maximum of watched calls before more are triggered, in a long run
SHARE = 10  # in a short run the maximum is the number of answers divided by this
DRAINED = 120.0  # seconds for the last calls to end
SPARE = 8  # threads in addition to the pool: poll executor, its store, notices, name resolution
ROUND = (*["bad"] * 5, *["mixed"] * 2, *["look"] * 1, *["good"] * 2)


@dataclass(frozen=True, slots=True)
class Pace:
    """The pace of a run: intervals and time-outs in seconds, and numbers of responses.

    Queries of a mixed call receive `hostile_first` hostile responses before the true ones, those of a bad call
    `true_after`, so that every watch ends. After `look_again` seconds a lost pair is free and is triggered again.
    Without `pauses` no response has a `Retry-After`.
    """

    interval: float
    status: float
    call: float
    look_up: float
    look_again: float
    hostile_first: int
    true_after: int
    pauses: bool

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the workers."""
        return {
            "poll_interval": self.interval,
            "connect_timeout": CONNECT,
            "status_timeout": self.status,
            "call_timeout": self.call,
            "unknown_lookup": self.look_up,
            "unknown_hold": self.look_up,
            "max_poll_duration": 90,
        }

    @property
    def bounds(self) -> dict[str, float]:
        """The maximum duration of a request in seconds, by the last segment of the path."""
        read = CONNECT + self.status + SLACK
        return {"call-v2": self.call + SLACK, "status": read, "conversation-log": read}


LONG = Pace(1, 2, 3, look_up=3, look_again=12, hostile_first=4, true_after=12, pauses=True)
SHORT = Pace(0.5, 1, 1, look_up=1, look_again=5, hostile_first=2, true_after=3, pauses=False)


class Upstream:
    """An upstream with true or hostile responses, depending on the case id's prefix: good, mixed, bad or look."""

    def __init__(self, seed: int, pace: Pace) -> None:
        self.dials: Counter[str] = Counter()
        self.hostile = 0
        self.elsewhere = ""
        self._seed = seed
        self._pace = pace
        self._queries: Counter[str] = Counter()
        self._jobs: dict[str, list[str]] = {}

    def __call__(self, request: Request) -> Answer:
        """Return the response to a request."""
        if request.endpoint == "call-v2":
            return self._call(str(request.body["caseId"]))
        if request.endpoint == "status":
            return self._status(request.query.get("caseRef", ""), request.query.get("jobId", ""))
        return self._log(request.query.get("caseId", ""))

    def _call(self, case_id: str) -> Answer:
        self.dials[case_id] += 1
        if case_id.startswith("look") and self.dials[case_id] == 1:
            return Answer("lost calls", [], "reset")
        jobs = self._jobs.setdefault(case_id, [_new_job(), _new_job()])
        records = [_record(job_id, number) for number, job_id in enumerate(jobs)]
        if case_id.startswith(("good", "mixed")):
            return good(records, 201)
        return self._spoilt(case_id, "call-v2", self.dials[case_id], records, 201)

    def _status(self, case_id: str, job_id: str) -> Answer:
        query = f"{case_id} {job_id}"
        self._queries[query] += 1
        number, kind = self._queries[query], case_id.partition("-")[0]
        false = {"good": 0, "mixed": self._pace.hostile_first}.get(kind, self._pace.true_after)
        status = "Executing" if number <= false + CALLING else "Succeeded"
        job_id = job_id or next(iter(self._jobs.get(case_id, [])), _new_job())
        data = {"caseRef": case_id, "phoneNumber": PHONE, "jobId": job_id, "callStatus": status}
        return good(data) if number > false else self._spoilt(query, "status", number, data, 200)

    def _log(self, case_id: str) -> Answer:
        self._queries[case_id] += 1
        data = [_entry(job_id) for job_id in self._jobs.get(case_id, [])]
        return self._spoilt(case_id, "conversation-log", self._queries[case_id], data or [_entry(_new_job())], 200)

    def _spoilt(self, about: str, endpoint: str, number: int, data: Any, code: int) -> Answer:
        self.hostile += 1
        seed = f"{self._seed} {about.partition(' ')[0]} {endpoint} {number}"
        pauses = self._pace.pauses and not about.startswith("mixed")
        return Hostile(seed, data, code, elsewhere=self.elsewhere, pauses=pauses).answer()


def _new_job() -> str:
    return f"{int(time.time() * 1_000)}-{str(uuid.uuid4())[9:]}"


def _record(job_id: str, number: int) -> dict[str, Any]:
    fields: dict[str, Any] = dict.fromkeys(RECORD_FIELDS)
    fields |= {"errorCode": 0, "message": "success", "personId": f"{PERSON}-{number}", "jobId": job_id}
    return fields | {"callStatus": "Scheduling", "taskName": NAME, "mediationId": 20, "creator": "system"}


def _entry(job_id: str) -> dict[str, Any]:
    said = f'[{{"timestamp": 1770463012000, "speaker": "Robot", "script": "{TALK}", "action": "Dialogue"}}]'
    return {"callType": "intent_survey", "jobId": job_id, "callStatus": "Executing", "conversations": said}


class Run:
    """The workers, the triggered cases, and the times at which lost pairs may be triggered again."""

    def __init__(self, deployed: Deployment, upstream: Upstream, *, seed: int, look_again: float) -> None:
        self.deployed = deployed
        self._look_again = look_again
        self.triggers: Counter[str] = Counter()
        self._upstream = upstream
        self._random = random.Random(seed)  # noqa: S311 - repeatable
        self._again: list[tuple[float, str]] = []
        self._numbers = itertools.count()

    def push(self, answers: int, limit: float) -> None:
        """Trigger cases until `answers` hostile responses were sent, for at most `limit` seconds."""
        end = time.monotonic() + limit
        while self._upstream.hostile < answers and time.monotonic() < end and not self.died:
            if int(str(self.deployed.store.client.zcard("callwatch:due"))) < min(WATCHED, answers // SHARE):
                self._round()
            time.sleep(0.1)

    def drain(self) -> None:
        """Trigger the remaining lost pairs again and wait until all calls have ended."""
        while self._again and not self.died:
            self._trigger_again()
            time.sleep(0.1)
        client = self.deployed.store.client
        try:
            wait_until(lambda: self.died or not (self._waiting() or client.zcard("callwatch:due")), limit=DRAINED)
        except AssertionError:
            print("not drained", file=sys.stderr)

    @property
    def died(self) -> bool:
        """Whether a worker has exited."""
        return any(worker.gone() for worker in self.deployed.workers)

    def _waiting(self) -> int:
        client = self.deployed.store.client
        return int(str(client.llen("outbound.trigger"))) + int(str(client.hlen("unacked")))

    def _round(self) -> None:
        for kind in self._random.sample(ROUND, len(ROUND)):
            case_id = f"{kind}-{next(self._numbers)}"
            self._trigger(case_id)
            if kind == "look":
                self._again.append((time.monotonic() + self._look_again, case_id))
        self._trigger_again()

    def _trigger(self, case_id: str) -> None:
        self.triggers[case_id] += 1
        self.deployed.trigger(case_id)

    def _trigger_again(self) -> None:
        while self._again and self._again[0][0] < time.monotonic():
            self._trigger(self._again.pop(0)[1])

    def figures(self) -> Iterator[Figure]:
        """Yield the figures of the triggers and the calls."""
        store, dials = self.deployed.store, self._upstream.dials
        calls = store.calls(finished=True)
        ended = Counter(call.case_id for call in calls if call.verdict == "ended")
        sound = [case_id for case_id in self.triggers if case_id.startswith(("good", "mixed"))]
        verdicts = Counter(f"{call.case_id.partition('-')[0]} {call.verdict}" for call in calls)
        yield for_information("verdicts", ", ".join(f"{name} {number}" for name, number in sorted(verdicts.items())))
        yield for_information("triggers", f"{sum(self.triggers.values())} of {len(self.triggers)} pairs")
        yield exactly(
            "pairs with more requests than triggers", sum(dials[one] > self.triggers[one] for one in dials), 0
        )
        yield exactly("messages held", self._waiting(), 0)
        yield exactly("polls held", int(str(store.client.zcard("callwatch:due"))), 0)
        yield for_information("good pairs in between", str(len(sound)))
        yield exactly("of these not dialled once", sum(dials[one] != 1 for one in sound), 0)
        yield exactly("of their calls not ended", sum(2 - ended[one] for one in sound), 0)


def run(answers: int, seed: int, pace: Pace, *, threads: int, limit: float) -> Sequence[Figure]:
    """Let a hostile upstream send `answers` responses, and return the figures."""
    upstream = Upstream(seed, pace)
    with (
        HostileServer(upstream, pace.bounds) as server,
        EmbeddedServer(appendfsync="no") as redis_server,
        Deployment(redis_server.url, api_base_url=server.url, worker_concurrency=threads, **pace.settings) as deployed,
    ):
        upstream.elsewhere = server.elsewhere
        note_commands(deployed.redis_url)
        workers = start(deployed, ALL_QUEUES if pace is SHORT else QUEUES)
        most_threads = max(status_of(worker, "Threads") for worker in workers) + threads + SPARE
        begin = time.monotonic()
        fuzz = Run(deployed, upstream, seed=seed, look_again=pace.look_again)
        fuzz.push(answers, limit)
        fuzz.drain()
        return [
            for_information("seconds", f"{time.monotonic() - begin:.1f}"),
            for_information("hostile answers", str(upstream.hostile)),
            *common_figures(server.served, workers, threads=most_threads, also_secret=(server.url[7:],)),
            *fuzz.figures(),
            for_information("largest command to Redis", f"{largest_command(deployed.redis_url)} bytes"),
            for_information("slowest command", f"{largest_command(deployed.redis_url, 'slow') / 1_000:.1f} ms"),
        ]


def main(arguments: list[str] | None = None) -> int:
    """Run the fuzz and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=5_000, help="number of hostile responses")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=32, help="threads of each worker")
    parser.add_argument("--limit", type=float, default=300, help="seconds after which no more cases are triggered")
    parser.add_argument("--short", action="store_true", help="one worker, short time-outs and watches")
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}")
    pace = SHORT if options.short else LONG
    return report(run(options.answers, options.seed, pace, threads=options.threads, limit=options.limit))


if __name__ == "__main__":
    sys.exit(main())

"""Run one fault scenario under load and collect its figures from the upstream's request log.

`benchmarks.fault_scenarios` composes its methods into scenarios; `python -m benchmarks.faults` runs them. Progress and
the details of suspicious calls go to standard error.
"""

import contextlib
import math
import os
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from benchmarks.fault_figures import (
    Figure,
    Watched,
    at_least,
    at_most,
    count_doubled,
    exactly,
    for_information,
    is_lost,
    latest,
    longest_silence,
    widest_gap,
)
from cli.up.embedded_redis import EmbeddedServer
from tests.deployment import Deployment, Worker, wait_until

INTERVAL = 10.0  # seconds between two polls of a call
FIRST_POLL = 20.0  # seconds within which a new call is polled first: one interval, and one more for lateness
WARM_UP = 10.0  # seconds after every call has been polled once: one interval
SHARE = 0.9  # of the expected polls must arrive before the fault; with fewer the machine is too busy
PARTIES = 40  # calls of one case, so that few dials start many calls
ENDING = tuple(f"E-{number}" for number in range(10))  # cases triggered once before the fault; their two calls end
TALKING = tuple(f"T-{number}" for number in range(40))  # triggered before or after the fault, and again later
BEFORE = 15  # of TALKING before the fault; with ENDING as many as the dial slots of one or two workers
LIFE = 20.0  # seconds until the calls of ENDING end
DIAL_DELAY = 1.5  # seconds per dial, so that the fault hits some of them in flight
AGAIN = 10.0  # seconds from the fault to the second triggers
IN_FLIGHT = 1.0  # seconds from the triggers to the fault
MOST = 0.9  # of the pairs must be dialled: a worker killed between `sending` and the request makes no dial
TICK = 0.1  # seconds
# Short, so that the look-up of a dial whose response was lost falls within the run instead of two minutes later.
SETTINGS: dict[str, Any] = {"call_timeout": 5}


class Control:
    """Tick in a plain thread; its largest gap distinguishes a pause of the machine from a fault of callwatch."""

    def __init__(self) -> None:
        self.largest = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def start(self) -> None:
        """Start ticking."""
        self._thread.start()

    def stop(self) -> None:
        """Stop ticking, because the evaluation that follows would delay the thread."""
        self._over.set()

    def _tick(self) -> None:
        before = time.monotonic()
        while not self._over.wait(TICK):
            now = time.monotonic()
            self.largest, before = max(self.largest, now - before), now


class Run:
    """A deployment with watched calls; everything ends with the `with` block.

    `url` leads to servers that the scenario runs by itself; without it the run has a `server` of its own. `settings`
    are those of the workers.
    """

    def __init__(self, calls: int, *, url: str | None = None, **settings: object) -> None:
        self.calls = calls
        self.server = EmbeddedServer(appendfsync="everysec")
        self._url = url
        self._settings = SETTINGS | settings
        self._ended: list[Worker] = []  # ended on purpose
        self.fault_at = math.inf
        self._began_at = math.inf
        self._control = Control()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        url = self._url or self._stack.enter_context(self.server).url
        self.deployment = self._stack.enter_context(Deployment(url, **self._settings))
        self.simulator = self.deployment.simulator
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, workers: int, *, clocks: Sequence[float] = ()) -> list[Worker]:
        """Start workers of all queues, dial the calls that are watched for the whole run, and warm up.

        `clocks` adds one worker per entry, its wall clock ahead by that many seconds.
        """
        started = [self.deployment.worker(name=f"w{number}") for number in range(workers)]
        started += [self.deployment.skewed_worker(seconds, f"s{number}") for number, seconds in enumerate(clocks)]
        self.simulator.script("*", life="talking", dial_delay=DIAL_DELAY)
        for case_id in ENDING:
            self.simulator.script(case_id, life=[["Scheduling", 0], ["Succeeded", LIFE]], dial_delay=DIAL_DELAY)
        for first in range(0, self.calls, PARTIES):
            parties = [{"person_id": f"P-{first + n}"} for n in range(min(PARTIES, self.calls - first))]
            self.simulator.script(f"W-{first}", life="talking", dial_delay=0, parties=parties)
            self.deployment.send(f"W-{first}")
        self._wait_until_all_are_polled()
        time.sleep(WARM_UP)
        self._began_at = time.time()
        self._control.start()
        self._stack.callback(self._control.stop)
        return started

    def trigger_before(self) -> None:
        """Trigger some pairs, as a back end does, and return while their dials are in flight."""
        self.deployment.send(*ENDING, *TALKING[:BEFORE])
        time.sleep(IN_FLIGHT)

    def dial_many(self, pairs: int) -> float:
        """Trigger `pairs` new pairs at once; return the seconds from the first dial to the last."""
        cases = [f"R-{number}" for number in range(pairs)]
        self.simulator.script("*", life="talking", dial_delay=0)
        self.deployment.send(*cases)
        wait_until(lambda: len({dial["case_id"] for dial in self.simulator.log("call-v2")} & set(cases)) == pairs)
        times = [dial["at"] for dial in self.simulator.log("call-v2") if dial["case_id"] in set(cases)]
        return float(max(times) - min(times))

    def trigger_after(self) -> None:
        """Trigger the other pairs, then all of `TALKING` again, as a reloaded page does."""
        self.deployment.send(*TALKING[BEFORE:])
        self.sleep_until(AGAIN)
        self.deployment.send(*TALKING)

    def break_now(self, act: Callable[[], object]) -> None:
        """Cause the fault and record its time."""
        self.fault_at = time.time()
        act()

    def replace(self) -> None:
        """Start a replacement worker."""
        number = len(self.deployment.workers)
        self.deployment.worker(name=f"w{number}")
        print(f"w{number} accepted tasks {time.time() - self.fault_at:.1f} s after the fault", file=sys.stderr)

    def kill(self, worker: Worker) -> None:
        """Kill a worker by SIGKILL."""
        self._ended.append(worker)
        worker.kill()

    def stop(self, worker: Worker) -> None:
        """Stop a worker by SIGTERM and wait for its exit; a non-zero exit status counts as a death."""
        begin = time.time()
        if worker.stop() == 0:
            self._ended.append(worker)
        print(f"worker exited {time.time() - begin:.1f} s after SIGTERM", file=sys.stderr)

    def sleep_until(self, seconds: float) -> None:
        """Wait until `seconds` after the fault."""
        time.sleep(max(0.0, self.fault_at + seconds - time.time()))

    def finish(self, seconds: float) -> "Seen":
        """Wait until `seconds` after the fault, then evaluate the upstream's request log.

        An overloaded worker dials late, so the wait extends until the newest call should have been polled.
        """
        self.sleep_until(seconds)
        while (newest := max(job["created_at"] for job in self.simulator.jobs())) > time.time() - FIRST_POLL:
            time.sleep(max(0.0, newest + FIRST_POLL - time.time()))
        self._control.stop()
        return self._read()

    def _died(self) -> int:
        """Return how many workers died on their own; print the end of their logs to stderr."""
        left = [worker for worker in self.deployment.workers if worker not in self._ended]
        dead = [worker for worker in left if worker.process.poll() is not None]
        for worker in dead:
            print(f"died with {worker.process.returncode}:\n{worker.log[-3_000:]}", file=sys.stderr)
        return len(dead)

    def health(self) -> list[Figure]:
        """Return the number of workers that died on their own and two indicators of a noisy machine."""
        one, five, _ = os.getloadavg()
        return [
            exactly("workers that died", self._died(), 0),
            for_information("largest gap of a plain 0.1 s tick", f"{self._control.largest:.2f} s"),
            for_information("load over 1 and 5 minutes", f"{one:.1f}, {five:.1f}"),
        ]

    def _wait_until_all_are_polled(self) -> None:
        limit = time.monotonic() + 120
        while len({entry["job_id"] for entry in self.simulator.log("status")}) < self.calls:
            if time.monotonic() > limit:
                sys.exit(f"not every one of {self.calls} calls was polled within 120 s")
            time.sleep(0.5)

    def _read(self) -> "Seen":
        end = time.time()
        times: defaultdict[str, list[float]] = defaultdict(list)
        for entry in self.simulator.log("status"):
            if entry["job_id"] and entry["at"] < end:  # a query without a job is a look-up
                times[entry["job_id"]].append(entry["at"])
        watched = [Watched(job["job_id"], times[job["job_id"]], _ended_at(job)) for job in self.simulator.jobs()]
        dials = self.simulator.log("call-v2")
        in_flight = sum(dial["at"] < self.fault_at < (dial["done_at"] or math.inf) for dial in dials)
        requests = Counter((dial["case_id"], dial["mediation_id"]) for dial in dials)
        return Seen(watched, requests, in_flight, self._began_at, self.fault_at, end)


def _ended_at(job: dict[str, Any]) -> float:
    return job["created_at"] + LIFE if job["case_id"] in ENDING else math.inf


@dataclass(frozen=True, slots=True)
class Seen:
    """The upstream's request log of a run; times are epoch seconds.

    `requests` counts the dial requests of each pair; `in_flight` of them had no response yet at the time of the fault.
    """

    calls: list[Watched]
    requests: Counter[tuple[str, str]]
    in_flight: int
    begin: float
    fault_at: float
    end: float

    def largest_gap(self, limit: float) -> Figure:
        """Return the figure for the longest time without a poll of any one call."""
        gap = self._worst("largest gap", lambda call: widest_gap(call, self.end))
        return at_most("largest gap between two polls of a call", gap, limit, "s")

    def long_gaps(self, seconds: float, share: float) -> Figure:
        """Return the figure for the number of calls with a gap above `seconds`; `share` of all calls may have one."""
        number = sum(widest_gap(call, self.end)[0] > seconds for call in self.calls)
        return at_most(f"calls with a gap above {seconds:g} s", number, int(share * len(self.calls)))

    def silence(self, limit: float) -> Figure:
        """Return the figure for the longest time in which no call was polled."""
        return at_most("no call was polled for", longest_silence(self.calls, self.begin, self.end), limit, "s")

    def latest_poll(self, limit: float) -> Figure:
        """Return the figure for the latest poll."""
        late = self._worst("latest poll", lambda call: latest(call, INTERVAL, self.end))
        return at_most("latest poll against its grid", late, limit, "s")

    def _worst(self, name: str, measure: Callable[[Watched], tuple[float, float]]) -> float:
        """Return the highest value of all calls, infinite if there are none; print its call and time to stderr."""
        seconds, since, job_id = max(
            ((*measure(call), call.job_id) for call in self.calls), default=(math.inf, -math.inf, "none")
        )
        print(f"{name}: {seconds:.2f} s from {since - self.fault_at:+.2f} s after the fault, {job_id}", file=sys.stderr)
        return seconds

    def common(self, watched: int, *, triggered: bool = True, reissues: bool = True) -> list[Figure]:
        """Return the figures common to all scenarios, including those that prove that the fault took effect."""
        doubled = [call for call in self.calls if count_doubled(call, INTERVAL, reissues=reissues)]
        lost = [call for call in self.calls if is_lost(call, self.end)]
        self._explain("lost", lost)
        self._explain("doubled", doubled)
        endless = sum(math.isinf(call.ended_at) for call in self.calls)
        pairs = [
            at_least("dials in flight at the fault", self.in_flight, 1),
            at_least("pairs dialled", self._dialled(ENDING + TALKING), math.ceil(MOST * len(ENDING + TALKING))),
            at_least("calls watched to their end", sum(call.end_seen for call in self.calls), len(ENDING)),
        ]
        return [
            at_least("polls per second before the fault", self._rate_before(), SHARE * watched / INTERVAL),
            at_least("calls watched", endless, watched),
            exactly("calls lost", len(lost), 0),
            exactly("calls doubled", len(doubled), 0),
            at_most("most dial requests of one pair", max(self.requests.values(), default=math.inf), 1),
            *(pairs if triggered else ()),
        ]

    def _dialled(self, case_ids: tuple[str, ...]) -> int:
        return len({case_id for case_id, _ in self.requests} & set(case_ids))

    def _explain(self, name: str, calls: list[Watched]) -> None:
        for call in calls[:5]:
            after = [round(at - self.fault_at, 2) for at in call.arrivals]
            print(f"{name}: {call.job_id}, polled at {after} s after the fault", file=sys.stderr)

    def _rate_before(self) -> float:
        """Return the polls per second in the last `WARM_UP` seconds before the run begins."""
        number = sum(self.begin - WARM_UP <= at < self.begin for call in self.calls for at in call.arrivals)
        return number / WARM_UP

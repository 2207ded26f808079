"""Measure the cost of monitoring and of scale: `python -m benchmarks.operators [events] [counters] [flower] [scale]`.

Without arguments all scenarios run. `events`: CPU time of Flower, a worker and Redis for each value of
`CALLWATCH_POLL_EVENTS`. `counters`: metrics against the status server's own count while a worker is killed, and the
cost of a scrape. `flower`: searches among 10,000 tasks, and requests without a credential. `scale`: the highest load
that 1, 2 and 3 poll workers sustain. Each scenario has its own Redis, status server and real workers. The output is one
Markdown table per scenario with goals and measured values; the exit status is 1 if a goal is missed.
"""

import base64
import contextlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

import psutil

from benchmarks.backends import INTERVAL, Site, site, watch_calls
from benchmarks.fault_figures import Figure, at_least, at_most, exactly, for_information
from benchmarks.faults import table
from benchmarks.polls import cpu_seconds, quantile, received_queries
from cli.up.tcp_ports import choose_ports
from tests import fakes
from tests.deployment import ROOT, Worker, wait_until
from tests.scraping import Metrics, serving

POLLS = ("-Q", "outbound.poll,outbound.control")  # queues of a poll worker
SETTLED = 25.0  # seconds until overdue first polls are done and a second round is on time
SECONDS = 60.0  # duration of a measurement
CALLS = 1_000  # watched calls: 100 polls/s, well within the capacity of one worker
SMALL, LARGE = 80, 10_000  # calls, or tasks in Flower
SCRAPES, SEARCHES, COUNTED = 20, 20, 20_000
LEAST, STEP = 1_000, 500  # watched calls per worker in the first measurement; calls added before each further one
THREADS = 32  # of a worker: at most this many queries are sent but not counted when it is killed
HELD = 1.0  # seconds: a load is sustained while the p99 of lateness is below this
COLUMNS = {"draw": 1, "start": 0, "length": 10, "order[0][column]": 0, "columns[0][data]": "name"}  # query of a search
CREDENTIAL = "operator:a-password-of-the-benchmark"


# -- Flower ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flower:
    """One `callwatch flower` process."""

    pid: int
    url: str

    def get(self, path: str, credential: str | None = CREDENTIAL) -> tuple[int, str]:
        """Return the status code and the body."""
        headers = {"Authorization": "Basic " + base64.b64encode(credential.encode()).decode()} if credential else {}
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(urllib.request.Request(self.url + path, headers=headers), timeout=60) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read().decode()

    def search(self, text: str) -> int:
        """Return how many tasks match a text in Flower's task list; an empty text matches all."""
        query = urllib.parse.urlencode(COLUMNS | {"search[value]": text})
        status, body = self.get(f"/tasks/datatable?{query}")
        assert status == HTTPStatus.OK, status
        return int(json.loads(body)["recordsFiltered"])


@contextlib.contextmanager
def flower(here: Site) -> Iterator[Flower]:
    """Start Flower and wait until it responds."""
    port = choose_ports({"flower": None}, print)["flower"]
    command = (sys.executable, "-m", "cli.main", "flower", "--port", str(port))
    environment = here.environment | {"CALLWATCH_FLOWER_AUTH": CREDENTIAL}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        one = Flower(process.pid, f"http://127.0.0.1:{port}")
        try:
            wait_until(lambda: answers(one))
            yield one
        finally:
            process.terminate()


def answers(one: Flower) -> bool:
    """Tell whether Flower accepts requests."""
    try:
        return one.get("/healthcheck")[0] == HTTPStatus.OK
    except OSError:
        return False


def events() -> list[Figure]:
    """Measure the cost of each setting of `CALLWATCH_POLL_EVENTS`, one after another."""
    return [figure for setting in ("changes", "all") for figure in events_as(setting)]


def events_as(setting: str) -> list[Figure]:
    """Measure one setting at 100 polls per second with Flower connected."""
    with site(poll_events=setting) as here, flower(here) as observer:
        worker = here.worker("w", *POLLS).ready()
        watch_calls(here.store, range(CALLS))
        time.sleep(SETTLED)
        pids = {"worker": worker.process.pid, "Redis": here.server.pid, "Flower": observer.pid}
        before, polls = {name: cpu_seconds(pid) for name, pid in pids.items()}, len(received_queries(here.upstream))
        time.sleep(SECONDS)
        after, polls = (
            {name: cpu_seconds(pid) for name, pid in pids.items()},
            len(received_queries(here.upstream)) - polls,
        )
        lines = observer.search("")
    costs = (f"{name} {100_000 * (after[name] - before[name]) / polls:.0f}" for name in pids)
    return [
        at_least(f"`{setting}`: polls a second", polls / SECONDS, 0.9 * CALLS / INTERVAL),
        for_information(f"`{setting}`: CPU ms per 100 polls", ", ".join(costs)),
        for_information(f"`{setting}`: lines in Flower", str(lines)),
    ]


def searches() -> list[Figure]:
    """Search for some of 10,000 calls in Flower, then request its pages without a credential."""
    with site() as here, flower(here) as observer, serving(here.environment | {"CALLWATCH_METRICS_TOKEN": "t"}) as page:
        worker = here.worker("w", *POLLS).ready()
        watch_calls(here.store, range(LARGE))
        wait_until(lambda: observer.search("") >= LARGE, limit=300)
        worker.kill()
        time.sleep(INTERVAL)  # Flower receives the events still in transit
        took, found = [], 0
        for number in range(0, LARGE, LARGE // SEARCHES):
            for text in (f"C-{number}'", fakes.job_id(number)):
                begin = time.monotonic()
                found += observer.search(text) == 1
                took.append(time.monotonic() - begin)
        memory = psutil.Process(observer.pid).memory_info().rss / 2**20
        codes = {path: observer.get(path, None)[0] for path in FLOWERS_PATHS}
        codes |= {f"{path} of callwatch metrics": refused(page, path) for path in ("/metrics", "/", "/healthz")}
    return [
        exactly(f"one task found, of {LARGE}, by case or job; searches", found, len(took)),
        for_information("a search: p50, max", f"{quantile(sorted(took), 0.5) * 1000:.0f}, {max(took) * 1000:.0f} ms"),
        for_information("Flower's memory", f"{memory:.0f} MB"),
        *(for_information(f"without a credential: {path}", str(code)) for path, code in codes.items()),
    ]


FLOWERS_PATHS = ("/", "/tasks", "/workers", "/broker", "/api/tasks", "/api/workers", "/metrics", "/healthcheck")


def refused(page: Metrics, path: str) -> int:
    """Return the HTTP status of a metrics page requested without a token."""
    try:
        page.get(path, None)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code
    return HTTPStatus.OK


# -- metrics -----------------------------------------------------------------------------------------------------------


def counters() -> list[Figure]:
    """Kill one of two workers, compare the counters with the queries received, and measure scrapes."""
    with site() as here, serving(here.environment) as page:
        workers = [here.worker(f"w{number}", *POLLS).ready() for number in range(2)]
        watch_calls(here.store, range(CALLS))
        time.sleep(SETTLED)
        before, seen = page.scrape(), len(received_queries(here.upstream))
        workers[0].kill()
        time.sleep(SETTLED)
        workers[1].stop()
        after, total = page.scrape(), len(received_queries(here.upstream))
    answered = after["polls_total answer"]
    return [
        for_information("polls received upstream before and after the kill", f"{seen}, {total - seen}"),
        at_least("counters that decreased", -sum(after[name] < before[name] for name in before if "_total" in name), 0),
        at_least("polls counted, of those received upstream", int(answered), total - THREADS),
        at_most("polls counted but not received", max(0, int(answered) - total), 0),
        exactly("lateness and latency samples, against polls counted", int(agreeing(after)), int(answered)),
        *scrapes(SMALL),
        *scrapes(LARGE),
        counting(),
    ]


def agreeing(page: dict[str, float]) -> float:
    """Return the number of polls if both histograms agree, else -1."""
    late, took = page["poll_lateness_seconds_count"], page["upstream_latency_seconds_count status"]
    return took if late == took else -1


def scrapes(calls: int) -> Iterator[Figure]:
    """Measure a scrape with `calls` watched calls and no other load."""
    with site() as here, serving(here.environment) as page:
        watch_calls(here.store, range(calls))
        page.scrape()
        pids = (page.process.pid, here.server.pid)
        before, begin = [cpu_seconds(pid) for pid in pids], time.monotonic()
        for _ in range(SCRAPES):
            page.get("/metrics")
        took = time.monotonic() - begin
        ours, redis = (1000 * (cpu_seconds(pid) - was) / SCRAPES for pid, was in zip(pids, before, strict=True))
    text = f"{ours:.1f} + Redis {redis:.1f} ms CPU, answered in {1000 * took / SCRAPES:.0f} ms"
    yield for_information(f"a scrape with {calls} calls", text)


def counting() -> Figure:
    """Measure the cost of a poll's counters in Redis: five `HINCRBY` on one hash."""
    increases = "for i = 1, ARGV[1] do for n = 1, 5 do redis.call('HINCRBY', KEYS[1], 'field:' .. n, 1) end end"
    with site() as here:
        before = cpu_seconds(here.server.pid)
        for _ in range(10):
            here.store.client.eval(increases, 1, "counted", COUNTED)
        spent = cpu_seconds(here.server.pid) - before
    return for_information("counting a poll", f"{1_000_000 * spent / (10 * COUNTED):.1f} µs of Redis' CPU")


# -- scaling out -------------------------------------------------------------------------------------------------------


def scale() -> list[Figure]:
    """Increase the load until 1, 2 and 3 poll workers no longer sustain it."""
    return [figure for number in (1, 2, 3) for figure in scale_of(number)]


def scale_of(number: int) -> Iterator[Figure]:
    """Add calls until polls are late; yield the last sustained rate and the first that was not."""
    with site() as here:
        workers: list[Worker] = [here.worker(f"w{one}", *POLLS).ready() for one in range(number)]
        due, held = watch_calls(here.store, range(number * LEAST)), "none"
        while True:
            time.sleep(SETTLED)
            begin, cpu = time.time(), sum(cpu_seconds(one.process.pid) for one in workers)
            time.sleep(2 * INTERVAL)
            cpu, end = sum(cpu_seconds(one.process.pid) for one in workers) - cpu, time.time()
            late = lateness(received_queries(here.upstream), due, begin, end)
            p99, idle = quantile(late, 0.99), psutil.cpu_percent(interval=1)
            load = f"{len(late) / (end - begin):.0f} polls/s, p99 {p99:.2f} s, workers' CPU {cpu / (end - begin):.2f}"
            print(f"{number} workers, {len(due)} calls: {load}, machine {idle:.0f} % busy", file=sys.stderr)
            if p99 >= HELD or len(late) < 0.95 * len(due) * (end - begin) / INTERVAL:
                break
            held = load
            due |= watch_calls(here.store, range(len(due), len(due) + STEP))
    yield for_information(f"{number} poll workers sustain", held)
    yield for_information(f"{number} poll workers do not sustain", load)


def lateness(seen: list[tuple[str, float]], due: dict[str, float], begin: float, end: float) -> list[float]:
    """Return the sorted lateness (seconds) of the polls between `begin` and `end`; up to 1 s early is on time (S20)."""
    late = ((at - due[job] + 1) % INTERVAL - 1 for job, at in seen if begin <= at < end)
    return sorted(max(0.0, one) for one in late)


def main() -> None:
    """Run the chosen scenarios and print a table for each."""
    scenarios = {"events": events, "counters": counters, "flower": searches, "scale": scale}
    chosen = sys.argv[1:] or list(scenarios)
    missed = False
    for name in chosen:
        figures = scenarios[name]()
        print(table({name: figures}), flush=True)
        missed |= any(one.passed is False for one in figures)
    sys.exit(missed)


if __name__ == "__main__":
    main()

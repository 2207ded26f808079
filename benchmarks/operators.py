"""What looking on costs and shows: `python -m benchmarks.operators [events] [counters] [flower] [scale]`.

`events`: CPU of Flower, the worker and Redis in each setting of `CALLWATCH_POLL_EVENTS`. `counters`: the metrics beside
what upstream saw, one of two workers killed, and what a scrape and counting cost. `flower`: searches among 10,000
tasks, and what somebody without a credential gets. `scale`: the polls a second that 1, 2 and 3 poll workers hold.
Each has a server, a status server and real workers of its own. The exit status is 1 when a figure is missed.
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
from benchmarks.polls import asked, cpu_seconds, quantile
from cli.up.tcp_ports import choose_ports
from tests import fakes
from tests.deployment import ROOT, Worker, wait_until
from tests.scraping import Metrics, serving

POLLS = ("-Q", "outbound.poll,outbound.control")  # what a poll worker serves
SETTLED = 25.0  # seconds until first polls that nobody published have come, and a second round is on time
SECONDS = 60.0  # of a measured time
CALLS = 1_000  # watched calls: 100 polls/s, which one worker holds with ease
SMALL, LARGE = 80, 10_000  # calls, or tasks of Flower
SCRAPES, SEARCHES, COUNTED = 20, 20, 20_000
LEAST, STEP = 1_000, 500  # watched calls of each worker in the first measured time; more in each that follows
THREADS = 32  # of a worker: so many polls at most are asked and not counted when it is killed
HELD = 1.0  # seconds: the p99 of lateness up to which a number of polls is held
COLUMNS = {"draw": 1, "start": 0, "length": 10, "order[0][column]": 0, "columns[0][data]": "name"}  # of a search
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
        """Return how many tasks its list finds for a text; all for none."""
        query = urllib.parse.urlencode(COLUMNS | {"search[value]": text})
        status, body = self.get(f"/tasks/datatable?{query}")
        assert status == HTTPStatus.OK, status
        return int(json.loads(body)["recordsFiltered"])


@contextlib.contextmanager
def flower(here: Site) -> Iterator[Flower]:
    """Start Flower and wait until it answers."""
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
    """Tell whether it takes requests."""
    try:
        return one.get("/healthcheck")[0] == HTTPStatus.OK
    except OSError:
        return False


def events() -> list[Figure]:
    """Measure what each setting costs, one after the other."""
    return [figure for setting in ("changes", "all") for figure in events_as(setting)]


def events_as(setting: str) -> list[Figure]:
    """Measure one setting: 100 polls a second, Flower looking on."""
    with site(poll_events=setting) as here, flower(here) as looking:
        worker = here.worker("w", *POLLS).ready()
        watch_calls(here.store, range(CALLS))
        time.sleep(SETTLED)
        pids = {"worker": worker.process.pid, "Redis": here.server.pid, "Flower": looking.pid}
        before, polls = {name: cpu_seconds(pid) for name, pid in pids.items()}, len(asked(here.upstream))
        time.sleep(SECONDS)
        after, polls = {name: cpu_seconds(pid) for name, pid in pids.items()}, len(asked(here.upstream)) - polls
        lines = looking.search("")
    costs = (f"{name} {100_000 * (after[name] - before[name]) / polls:.0f}" for name in pids)
    return [
        at_least(f"`{setting}`: polls a second", polls / SECONDS, 0.9 * CALLS / INTERVAL),
        for_information(f"`{setting}`: CPU ms per 100 polls", ", ".join(costs)),
        for_information(f"`{setting}`: lines in Flower", str(lines)),
    ]


def searches() -> list[Figure]:
    """Give Flower a line for each of 10,000 calls and look for some of them; then look without a credential."""
    with site() as here, flower(here) as looking, serving(here.environment | {"CALLWATCH_METRICS_TOKEN": "t"}) as page:
        worker = here.worker("w", *POLLS).ready()
        watch_calls(here.store, range(LARGE))
        wait_until(lambda: looking.search("") >= LARGE, limit=300)
        worker.kill()
        time.sleep(INTERVAL)  # Flower takes in what was still under way
        took, found = [], 0
        for number in range(0, LARGE, LARGE // SEARCHES):
            for text in (f"C-{number}'", fakes.job_id(number)):
                begin = time.monotonic()
                found += looking.search(text) == 1
                took.append(time.monotonic() - begin)
        memory = psutil.Process(looking.pid).memory_info().rss / 2**20
        codes = {path: looking.get(path, None)[0] for path in FLOWERS_PATHS}
        codes |= {f"{path} of callwatch metrics": refused(page, path) for path in ("/metrics", "/", "/healthz")}
    return [
        exactly(f"one task found, of {LARGE}, by case or job; searches", found, len(took)),
        for_information("a search: p50, max", f"{quantile(sorted(took), 0.5) * 1000:.0f}, {max(took) * 1000:.0f} ms"),
        for_information("Flower's memory", f"{memory:.0f} MB"),
        *(for_information(f"without a credential: {path}", str(code)) for path, code in codes.items()),
    ]


FLOWERS_PATHS = ("/", "/tasks", "/workers", "/broker", "/api/tasks", "/api/workers", "/metrics", "/healthcheck")


def refused(page: Metrics, path: str) -> int:
    """Return what the metrics answer without a token."""
    try:
        page.get(path, None)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code
    return HTTPStatus.OK


# -- metrics -----------------------------------------------------------------------------------------------------------


def counters() -> list[Figure]:
    """Kill one of two workers; compare what is counted with what upstream was asked, and measure scrapes."""
    with site() as here, serving(here.environment) as page:
        workers = [here.worker(f"w{number}", *POLLS).ready() for number in range(2)]
        watch_calls(here.store, range(CALLS))
        time.sleep(SETTLED)
        before, seen = page.scrape(), len(asked(here.upstream))
        workers[0].kill()
        time.sleep(SETTLED)
        workers[1].stop()
        after, total = page.scrape(), len(asked(here.upstream))
    answered = after["polls_total answer"]
    return [
        for_information("polls that upstream saw before and after the kill", f"{seen}, {total - seen}"),
        at_least("counters that went back", -sum(after[name] < before[name] for name in before if "_total" in name), 0),
        at_least("polls counted, of those that upstream saw", int(answered), total - THREADS),
        at_most("polls counted and not seen", max(0, int(answered) - total), 0),
        exactly("lateness and latency counted, beside polls counted", int(agreeing(after)), int(answered)),
        *scrapes(SMALL),
        *scrapes(LARGE),
        counting(),
    ]


def agreeing(page: dict[str, float]) -> float:
    """Return the number of polls by both histograms, or -1 where they differ."""
    late, took = page["poll_lateness_seconds_count"], page["upstream_latency_seconds_count status"]
    return took if late == took else -1


def scrapes(calls: int) -> Iterator[Figure]:
    """Measure a scrape with so many watched calls and nothing else going on."""
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
    """Measure what the counters of a poll cost Redis: five fields of one hash."""
    increases = "for i = 1, ARGV[1] do for n = 1, 5 do redis.call('HINCRBY', KEYS[1], 'field:' .. n, 1) end end"
    with site() as here:
        before = cpu_seconds(here.server.pid)
        for _ in range(10):
            here.store.client.eval(increases, 1, "counted", COUNTED)
        spent = cpu_seconds(here.server.pid) - before
    return for_information("counting a poll", f"{1_000_000 * spent / (10 * COUNTED):.1f} µs of Redis' CPU")


# -- scaling out -------------------------------------------------------------------------------------------------------


def scale() -> list[Figure]:
    """Let the calls grow until 1, 2 and 3 poll workers no longer hold them."""
    return [figure for number in (1, 2, 3) for figure in scale_of(number)]


def scale_of(number: int) -> Iterator[Figure]:
    """Add calls until the polls come late; tell the last rate that was held and the first that was not."""
    with site() as here:
        workers: list[Worker] = [here.worker(f"w{one}", *POLLS).ready() for one in range(number)]
        due, held = watch_calls(here.store, range(number * LEAST)), "none"
        while True:
            time.sleep(SETTLED)
            begin, cpu = time.time(), sum(cpu_seconds(one.process.pid) for one in workers)
            time.sleep(2 * INTERVAL)
            cpu, end = sum(cpu_seconds(one.process.pid) for one in workers) - cpu, time.time()
            late = lateness(asked(here.upstream), due, begin, end)
            p99, idle = quantile(late, 0.99), psutil.cpu_percent(interval=1)
            told = f"{len(late) / (end - begin):.0f} polls/s, p99 {p99:.2f} s, workers' CPU {cpu / (end - begin):.2f}"
            print(f"{number} workers, {len(due)} calls: {told}, machine {idle:.0f} % busy", file=sys.stderr)
            if p99 >= HELD or len(late) < 0.95 * len(due) * (end - begin) / INTERVAL:
                break
            held = told
            due |= watch_calls(here.store, range(len(due), len(due) + STEP))
    yield for_information(f"{number} poll workers hold", held)
    yield for_information(f"{number} poll workers do not hold", told)


def lateness(seen: list[tuple[str, float]], due: dict[str, float], begin: float, end: float) -> list[float]:
    """Return how late the polls of a span of time came, sorted, in seconds; up to one early is on time (S20)."""
    late = ((at - due[job] + 1) % INTERVAL - 1 for job, at in seen if begin <= at < end)
    return sorted(max(0.0, one) for one in late)


def main() -> None:
    """Run the chosen scenarios and print the table."""
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

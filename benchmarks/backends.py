"""Measure notice delivery and the query limit from outside: `python -m benchmarks.backends [notices] [restart]`.

Without arguments both scenarios run. `notices`: a webhook is down for a minute at 100 polls/s. `restart`: two workers
are killed and replaced with 5,000 watched calls and a limit of 100 queries/s. Each scenario has its own Redis with an
append-only file and real workers. The figures come from the receiver's and the status server's own records. The output
is a Markdown table of goals and measured values; the exit status is 1 if a goal is missed.
"""

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from benchmarks.fault_figures import Figure, at_least, at_most, exactly, for_information
from benchmarks.faults import table
from benchmarks.polls import quantile, received_queries
from cli.up.embedded_redis import EmbeddedServer
from config.settings import Settings
from tests import fakes
from tests.deployment import Worker, wait_until
from tests.receiver import SECRET, Receiver
from worker.container import build_store
from worker.core.messages import TriggerResult
from worker.core.model import Event, Pair
from worker.core.trigger_model import NewJob, Settlement
from worker.store import RedisStore

INTERVAL = 10.0  # seconds between two polls of a call
CALLS, PAIRS, REFUSALS = 1_000, 40, 20  # watched calls (100 polls/s), pairs with notices, notices per second
BEFORE, DOWN = 15.0, 60.0  # seconds for which the receiver is up, and then down
ENDS_APART = 0.5  # seconds between the ends of two calls
RESTARTED, RATE = 5_000, 100  # watched calls, queries per second


@dataclass
class Site:
    """A Redis, a status server and workers; all of them end with the `with` block."""

    server: EmbeddedServer
    upstream: str
    store: RedisStore
    environment: dict[str, str]
    stack: contextlib.ExitStack

    def worker(self, name: str, *options: str) -> Worker:
        """Start a worker."""
        worker = Worker(self.environment, *options, name=name)
        self.stack.callback(worker.close)
        return worker


@contextlib.contextmanager
def site(*, apart: float = 0, **settings: object) -> Iterator[Site]:
    """Yield a site whose calls end `apart` seconds after each other, or never if that is 0."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer(appendfsync="everysec"))
        command = (sys.executable, "-m", "benchmarks.status_server", "--apart", str(apart))
        status = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        stack.callback(status.kill)
        assert status.stdout
        upstream = f"http://127.0.0.1:{int(status.stdout.readline())}"
        values = {"redis_url": server.url, "api_base_url": upstream, **settings}
        ours = {f"CALLWATCH_{name.upper()}": str(value) for name, value in values.items()}
        theirs = {name: value for name, value in os.environ.items() if not name.startswith("CALLWATCH_")}
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="callwatch-bench-"))
        store = build_store(Settings(_env_file=None, **values))  # type: ignore[arg-type]
        stack.callback(store.client.close)
        # No dials here, so thousands of writes need not wait for fsync.
        stack.enter_context(mock.patch.object(RedisStore, "durability", "none"))
        yield Site(server, upstream, store, theirs | ours | {"TMPDIR": folder}, stack)


def settle(store: RedisStore, pair: Pair, task_id: str, jobs: list[NewJob], events: list[Event]) -> Any:
    """Claim the pair and settle its trigger, as a worker does."""
    store.claim(pair, token=task_id, task_id=task_id, arguments="{}", expires=None, enabled=True)
    sent_at = store.begin_sending(pair, task_id)
    assert isinstance(sent_at, float)
    outcome, phase = ("started", "watching") if jobs else ("refused", "done")
    result = TriggerResult.of(outcome, pair.case_id, pair.mediation_id)  # type: ignore[arg-type]
    return store.settle(Settlement(pair, task_id, task_id, result, phase, sent_at, jobs, events))  # type: ignore[arg-type]


def watch_calls(store: RedisStore, numbers: range) -> dict[str, float]:
    """Watch calls with their first polls spread over one interval; return the first due time of each."""
    due = {}
    for number in numbers:
        job_id = fakes.job_id(number)
        pair = Pair(f"C-{number}", "20")
        delay = INTERVAL * (number - numbers.start + 1) / len(numbers)
        job = NewJob(job_id, f"P-{number}", "Scheduling", delay)
        settled = settle(store, pair, f"start-{number}", [job], [])
        due[job_id] = settled.polls[job_id].due
    return due


# -- a webhook that is down --------------------------------------------------------------------------------------------


def notices() -> list[Figure]:
    """Stop the receiver for a minute while 20 refusals per second and the ends of calls produce notices."""
    with Receiver() as receiver, site(apart=ENDS_APART, notice_url=receiver.url, notice_secret=SECRET) as here:
        due = watch_calls(here.store, range(CALLS))
        workers = [here.worker(f"w{number}") for number in range(2)]
        for worker in workers:
            worker.ready()
        over, refusals = threading.Event(), Counter[str]()
        refusing = threading.Thread(target=refuse_triggers, args=(here.store, over, refusals))
        refusing.start()
        time.sleep(INTERVAL)  # the first polls are late: they were due before the workers started
        marks = [time.time()]
        time.sleep(BEFORE)
        receiver.stop()
        marks.append(time.time())
        time.sleep(DOWN)
        over.set()
        refusing.join()
        waiting = int(here.store.client.xlen(here.store.keys.outbox("webhook")))
        receiver.start()
        marks.append(time.time())
        wait_until(lambda: not here.store.client.xlen(here.store.keys.outbox("webhook")), limit=120)
        drained = time.time() - marks[-1]
        time.sleep(INTERVAL)
        until = marks[-1] + drained
        ended = {call.job_id for call in here.store.calls(finished=True) if (call.finished_at or until) < until}
        seen = received_queries(here.upstream)
        taken = list(receiver.taken)
    made = sum(refusals.values()) + len(ended)
    ids = Counter(notice["id"] for notice in taken)
    refused = {notice["id"] for notice in taken if notice["kind"] == "refused"}
    there = {notice["job_id"] for notice in taken if notice["kind"] == "ended"}
    windows = zip(
        ("with the receiver up", "while it is down", "while it catches up"),
        marks,
        [*marks[1:], marks[-1] + max(drained, 5)],
        strict=True,
    )
    return [
        exactly(f"notices delivered, of {made}", len(refused) + len(ended & there), made),
        for_information("of them waiting when the receiver came back", str(waiting)),
        for_information("caught up after", f"{drained:.1f} s"),
        for_information("duplicates", str(sum(ids.values()) - len(ids))),
        exactly("notices out of order within their pair", out_of_order(taken), 0),
        *(for_information(f"polls late {name}: p50, p99, max", lateness(seen, due, a, b)) for name, a, b in windows),
    ]


def refuse_triggers(store: RedisStore, over: threading.Event, refusals: Counter[str]) -> None:
    """Settle triggers as refused until `over` is set; their error codes increase so that the order can be checked."""
    for number in itertools.count():
        if over.wait(1 / REFUSALS):
            return
        pair = Pair(f"R-{number % PAIRS}", "20")
        event = Event("refused", pair.case_id, "20", detail={"message": "未到时间", "error_code": number + 1})
        settle(store, pair, f"refused-{number}", [], [event])
        refusals[pair.case_id] += 1


def out_of_order(taken: list[dict[str, Any]]) -> int:
    """Count the first deliveries that arrived after a later notice of the same pair."""
    last: defaultdict[str, int] = defaultdict(int)
    wrong, known = 0, set()
    for notice in taken:
        if notice["kind"] == "refused" and notice["id"] not in known:
            known.add(notice["id"])
            wrong += notice["error_code"] < last[notice["case_id"]]
            last[notice["case_id"]] = max(last[notice["case_id"]], notice["error_code"])
    return wrong


def lateness(seen: list[tuple[str, float]], due: dict[str, float], begin: float, end: float) -> str:
    """Return the lateness of the polls between `begin` and `end`, measured from the first due times, as text."""
    late = [(at - due[job]) % INTERVAL for job, at in seen if begin <= at < end and at > due[job] - 1]
    late = sorted(one if one < INTERVAL - 1 else 0.0 for one in late)  # up to 1 s early is allowed
    if not late:
        return "no polls"
    return (
        f"{quantile(late, 0.5) * 1000:.0f}, {quantile(late, 0.99) * 1000:.0f}, {max(late) * 1000:.0f} ms ({len(late)})"
    )


# -- a restart under a limit -------------------------------------------------------------------------------------------


def restart() -> list[Figure]:
    """Kill two workers and start two others, with every call overdue by then."""
    with site(status_rate=RATE) as here:
        watch_calls(here.store, range(RESTARTED))
        first = [here.worker(f"a{number}") for number in range(2)]
        for worker in first:
            worker.ready()
        time.sleep(BEFORE)
        for worker in first:
            worker.kill()
        killed = time.time()
        second = [here.worker(f"b{number}") for number in range(2)]
        for worker in second:
            worker.ready()
        ready = time.time()

        def polled() -> dict[str, float]:
            once: dict[str, float] = {}
            for job, at in received_queries(here.upstream):
                if at > killed:
                    once.setdefault(job, at)
            return once

        with contextlib.suppress(AssertionError):
            end = time.monotonic() + 2 * RESTARTED / RATE
            while len(polled()) < RESTARTED and time.monotonic() < end:
                time.sleep(2)
        once = polled()
        times = sorted(at for _, at in received_queries(here.upstream))
    after = [at for at in times if at > killed]
    return [
        exactly(f"calls polled, of {RESTARTED}", len(once), RESTARTED),
        at_most("queries in the busiest second, at any time", busiest(times), RATE * 1.1),
        for_information("in the busiest second after the restart", str(busiest(after))),
        for_information("queries per second on average after it", f"{len(after) / (after[-1] - after[0]):.1f}"),
        for_information("first query, after the workers were ready", f"{after[0] - ready:+.1f} s"),
        at_least(
            "queries per second until every call was polled", RESTARTED / (max(once.values()) - after[0]), 0.8 * RATE
        ),
        for_information("every call polled, from the first query", f"{max(once.values()) - after[0]:.1f} s"),
        for_information("every call polled, from the kill", f"{max(once.values()) - killed:.1f} s"),
    ]


def busiest(times: list[float]) -> int:
    """Return the largest number of sorted times that fall within any window of one second."""
    first = most = 0
    for last, moment in enumerate(times):
        while moment - times[first] >= 1:
            first += 1
        most = max(most, last - first + 1)
    return most


def main() -> None:
    """Run the chosen scenarios and print the table."""
    scenarios = {"notices": notices, "restart": restart}
    chosen = sys.argv[1:] or list(scenarios)
    figures = {name: scenarios[name]() for name in chosen}
    print(table(figures))
    sys.exit(any(one.passed is False for several in figures.values() for one in several))


if __name__ == "__main__":
    main()

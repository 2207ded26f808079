"""Define the fault scenarios, one function each; all figures come from the upstream's request log.

`python -m benchmarks.faults --scenario NAME` runs one of `SCENARIOS`.
"""

import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.fault_figures import (
    Figure,
    at_least,
    at_most,
    exactly,
    longest_return,
    longest_silence,
)
from benchmarks.fault_idle import idle_cost
from benchmarks.fault_run import INTERVAL, Run

OBSERVED = 50.0  # seconds after a fault: the look-up of a killed dial takes 24, the first poll up to 10 more
REDIS_AWAY = 5.0  # seconds
UPSTREAM_AWAY = 180.0  # seconds
PAIRS = 1_500  # triggered at once
SKEW = 30.0  # seconds by which a clock is wrong


def kill_one_of_two(calls: int) -> list[Figure]:
    """Kill one of two workers; the other takes over its polls."""
    with Run(calls) as run:
        first, _ = run.start(2)
        run.trigger_before()
        run.break_now(lambda: run.kill(first))
        run.trigger_after()
        seen = run.finish(OBSERVED)
        return [seen.largest_gap(12.5), seen.long_gaps(11, 0.02), *seen.common(calls), *run.health()]


def kill_the_only_one(calls: int) -> list[Figure]:
    """Kill the only worker; a new one starts a second later."""
    with Run(calls) as run:
        (only,) = run.start(1)
        run.trigger_before()
        run.break_now(lambda: run.kill(only))
        time.sleep(1)
        run.replace()
        run.trigger_after()
        seen = run.finish(OBSERVED)
        return [seen.largest_gap(13), *seen.common(calls), *run.health()]


def kill_redis(calls: int, *, workers: int) -> list[Figure]:
    """Kill Redis and restart it from its append-only file."""
    with Run(calls) as run:
        run.start(workers)
        run.trigger_before()
        run.break_now(run.server.kill)
        run.sleep_until(REDIS_AWAY)
        run.server.start()
        run.trigger_after()
        seen = run.finish(OBSERVED + REDIS_AWAY)
        return [seen.largest_gap(16.5), seen.silence(6.5), *seen.common(calls), *run.health()]


def cut_upstream_off(calls: int) -> list[Figure]:
    """Let the upstream refuse connections for minutes: one outage notice, and every call is polled soon afterwards."""
    with Run(calls) as run:
        run.start(2)
        run.break_now(lambda: run.simulator.outage(UPSTREAM_AWAY))
        run.sleep_until(UPSTREAM_AWAY - 1)
        back = when_it_listens(run.simulator.port)
        seen = run.finish(back - run.fault_at + 3 * INTERVAL)
        notices = Counter(event["kind"] for _, event in run.deployment.store.events("0", wait=0.001))
        return [
            at_least("no status query for", longest_silence(seen.calls, seen.begin, seen.end), UPSTREAM_AWAY - 5, "s"),
            exactly("notices of the outage's begin", notices["outage_began"], 1),
            exactly("notices of the outage's end", notices["outage_ended"], 1),
            at_most("last call polled again", longest_return(seen.calls, back), INTERVAL + 2, "s"),
            *seen.common(calls, triggered=False),
            *run.health(),
        ]


def when_it_listens(port: int) -> float:
    """Wait until the port accepts connections again; return that time (epoch seconds)."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return time.time()


def restart_all(calls: int) -> list[Figure]:
    """Stop and replace each of two workers, one after the other, as a rolling deployment does."""
    with Run(calls) as run:
        old = run.start(2)
        run.trigger_before()
        run.break_now(lambda: run.stop(old[0]))
        run.replace()
        run.trigger_after()
        run.stop(old[1])
        run.replace()
        seen = run.finish(OBSERVED)
        return [
            seen.latest_poll(1),
            *seen.common(calls, reissues=False),
            *run.health(),
        ]


def dial_beside_polls(calls: int) -> list[Figure]:
    """Trigger many pairs at once on one worker that serves all queues and keeps polling."""
    with Run(calls) as run:
        run.start(1)
        run.break_now(lambda: None)
        seconds = run.dial_many(PAIRS)
        seen = run.finish(3 * INTERVAL)
        return [
            at_least("triggers per second", PAIRS / seconds, 100),
            seen.latest_poll(1),
            *seen.common(calls, triggered=False),
            *run.health(),
        ]


def skew_clocks(calls: int) -> list[Figure]:
    """Run two workers with wall clocks half a minute behind and half a minute ahead."""
    with Run(calls) as run:
        run.start(0, clocks=(-SKEW, SKEW))
        run.break_now(lambda: None)
        seen = run.finish(OBSERVED)
        return [
            seen.largest_gap(INTERVAL + 1),
            seen.latest_poll(1),
            *seen.common(calls, triggered=False),
            *run.health(),
        ]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario's function and its default number of watched calls."""

    act: Callable[[int], list[Figure]]
    calls: int


SCENARIOS = {
    "kill-one-of-two": Scenario(kill_one_of_two, 2_000),
    "kill-the-only-one": Scenario(kill_the_only_one, 2_000),
    "kill-redis-one-worker": Scenario(partial(kill_redis, workers=1), 2_000),
    "kill-redis-two-workers": Scenario(partial(kill_redis, workers=2), 2_000),
    "upstream-away": Scenario(cut_upstream_off, 500),
    "idle-cost": Scenario(idle_cost, 20_000),
    "rolling-restart": Scenario(restart_all, 2_000),
    "dials-beside-polls": Scenario(dial_beside_polls, 2_000),
    "skewed-clocks": Scenario(skew_clocks, 2_000),
}

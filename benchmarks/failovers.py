"""Measure the effect of a Redis that fails over on watched calls and on dials.

Run all scenarios with `make failovers`, or one with `python -m benchmarks.failovers --scenario switchover`. The output
has the form of `python -m benchmarks.faults`. Each scenario has its own primary with one replica, in some cases three
Sentinels, a simulated upstream and two real workers. All figures except the cost of a dial are those
of the upstream's request log.
"""

import math
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.fault_figures import Figure, at_least, at_most, count_doubled, exactly, for_information, is_lost
from benchmarks.fault_run import DIAL_DELAY, INTERVAL, Run, Seen
from benchmarks.fault_scenarios import OBSERVED, Scenario
from benchmarks.faults import main
from tests.deployment import Deployment, wait_until
from tests.proxy import Proxy
from tests.replication import AppendFsync, ReplicaSet, Sentinels

DOWN_AFTER = 3.0  # seconds without an answer after which the Sentinels replace the primary
TRIGGERS = 300  # during the failovers of one run, spread evenly
ENOUGH = 0.9  # of them must be dialled: a crash may lose the message of a trigger, which rings no telephone
LAG = 1.5  # seconds by which a replica lags at the most
DIALS_AT_A_TIME = 4  # by the trigger worker of the runs with a lagging replica
MOMENT = 3.0  # seconds within which a failover follows its triggers, at random
SETTLED = 5.0  # seconds after the last failover from which each call must have one chain of polls
DIALS = 200  # one after the other, with each setting
AT_ONCE = 300  # then triggered together


def switch_over(calls: int) -> list[Figure]:
    """Exchange primary and replica behind an unchanged address; the demoted server keeps its connections."""
    with ReplicaSet() as servers, Proxy(servers.port) as address:

        def exchange() -> None:
            servers.switch_over()
            address.target = servers.port

        with Run(calls, url=servers.url(address.port)) as run:
            run.start(2)
            run.trigger_before()
            run.break_now(exchange)
            run.trigger_after()
            seen = run.finish(OBSERVED)
            return [seen.largest_gap(16), *seen.common(calls), *run.health()]


def kill_the_primary(calls: int) -> list[Figure]:
    """Kill the primary; the Sentinels promote the replica, and the killed server returns as a replica."""
    with (
        ReplicaSet() as servers,
        Sentinels(servers, down_after=DOWN_AFTER) as sentinels,
        Run(calls, url=sentinels.url) as run,
    ):
        run.start(2)
        run.trigger_before()
        killed = servers.primary
        run.break_now(killed.kill)
        sentinels.wait_for_failover(killed)
        promoted = time.time() - run.fault_at
        servers.restart(killed)
        run.trigger_after()
        seen = run.finish(OBSERVED)
        return [
            seen.largest_gap(20),
            for_information("replica promoted", f"{promoted:.1f} s after the kill"),
            *seen.common(calls),
            *run.health(),
        ]


def fail_over_often_behind_an_address(calls: int, *, failovers: int) -> list[Figure]:
    """Kill the primary at random moments and promote the replica at once; the address follows."""
    with ReplicaSet() as servers, Proxy(servers.port) as address:

        def fail_over() -> None:
            killed = servers.primary
            killed.kill()
            servers.promote(servers.replicas[0])
            address.target = servers.port
            address.cut()
            servers.restart(killed)

        with Run(calls, url=servers.url(address.port), replicas=1) as run:
            run.start(2)
            return figures_of(run, *fail_over_often(run, servers, fail_over, failovers, TRIGGERS))


def fail_over_often_by_sentinel(calls: int, *, failovers: int) -> list[Figure]:
    """Kill the primary at random moments; the Sentinels promote the replica."""
    with ReplicaSet() as servers, Sentinels(servers, down_after=DOWN_AFTER) as sentinels:

        def fail_over() -> None:
            killed = servers.primary
            killed.kill()
            sentinels.wait_for_failover(killed)
            servers.restart(killed)

        with Run(calls, url=sentinels.url, replicas=1) as run:
            run.start(2)
            return figures_of(run, *fail_over_often(run, servers, fail_over, failovers, TRIGGERS))


def fail_over_to_a_lagging_replica(calls: int, *, failovers: int, replicas: int) -> list[Figure]:
    """Let the replica lag for a random time before each crash, so that it is promoted without the last writes.

    Few dials run at a time, so that triggers wait in the queue, and upstream shows a call only some time after its
    request. Without the wait for replicas some pairs are then called twice: this proves that the search can find it.
    """
    lags = random.Random(1)  # noqa: S311 - repeatable lags, not a secret
    with ReplicaSet() as servers, Proxy(servers.port) as address, Proxy(servers.port) as link:

        def fail_over() -> None:
            killed, promoted = servers.primary, servers.replicas[0]
            link.partition()
            time.sleep(lags.uniform(0, LAG))
            killed.kill()
            link.cut()
            link.target = promoted.port
            link.resume()
            servers.promote(promoted)
            address.target = promoted.port
            address.cut()
            killed.follows = link.port
            killed.start()

        servers.replicas[0].follow(link.port)
        servers.wait_until_in_sync()
        with Run(calls, url=servers.url(address.port), replicas=replicas) as run:
            run.deployment.worker("-Q", "outbound.poll,outbound.control", name="polls")
            run.deployment.worker("-Q", "outbound.trigger", name="triggers", worker_concurrency=DIALS_AT_A_TIME)
            run.start(0)
            run.simulator.fault("delay", "call-v2", seconds=DIAL_DELAY, processed=False)
            ends = fail_over_often(run, servers, fail_over, failovers, failovers * TRIGGERS // 50)
            if replicas:
                return figures_of(run, *ends)
            twice = sum(number > 1 for number in ends[0].requests.values())
            return [at_least("pairs called twice", twice, 1), *run.health()]


def fail_over_often(
    run: Run, servers: ReplicaSet, fail_over: Callable[[], object], failovers: int, triggers: int
) -> tuple[Seen, list[float], set[str]]:
    """Fail over again and again while pairs are triggered; return the log, the times and the triggered cases."""
    moments = random.Random(0)  # noqa: S311 - repeatable moments, not a secret
    cases = [f"F-{number}" for number in range(triggers)]
    times: list[float] = []
    for number in range(failovers):
        run.deployment.send(*cases[number::failovers])
        time.sleep(moments.uniform(0, MOMENT))
        run.break_now(fail_over)
        times.append(run.fault_at)
        servers.wait_until_in_sync()
        print(f"failover {number + 1} of {failovers}: {time.time() - run.fault_at:.1f} s", file=sys.stderr)
    return run.finish(OBSERVED), times, set(cases)


def figures_of(run: Run, seen: Seen, times: list[float], cases: set[str]) -> list[Figure]:
    """Return the figures of a run with many failovers."""
    dialled = len({case_id for case_id, _ in seen.requests} & cases)
    dials = run.simulator.log("call-v2")
    return [
        for_information("failovers", str(len(times))),
        at_least("dials in flight at one of them", sum(in_flight(dial, times) for dial in dials), len(times)),
        at_most("most dial requests of one pair", max(seen.requests.values()), 1),
        at_least(f"of {len(cases)} pairs triggered meanwhile, dialled", dialled, ENOUGH * len(cases)),
        at_least("calls watched", len(seen.calls), run.calls + dialled),
        exactly("calls lost", sum(is_lost(call, seen.end) for call in seen.calls), 0),
        exactly("calls doubled after the last failover", doubled_since(seen, seen.fault_at + SETTLED), 0),
        *run.health(),
    ]


def in_flight(dial: dict[str, Any], times: list[float]) -> bool:
    """Tell whether a request had no response yet at one of `times` (epoch seconds)."""
    return any(dial["at"] < at < (dial["done_at"] or math.inf) for at in times)


def doubled_since(seen: Seen, begin: float) -> int:
    """Return how many calls had more than one chain of polls after `begin` (epoch seconds)."""
    calls = [replace(call, arrivals=[at for at in call.arrivals if at >= begin]) for call in seen.calls]
    return sum(count_doubled(call, INTERVAL) > 0 for call in calls if call.arrivals)


def dial_cost(dials: int) -> list[Figure]:
    """Trigger one pair after the other, alternately without and with the wait for one replica."""
    modes: tuple[AppendFsync, ...] = ("everysec", "always")
    return [figure for appendfsync in modes for figure in cost_of(appendfsync, dials)]


def cost_of(appendfsync: AppendFsync, dials: int) -> list[Figure]:
    """Return the time from trigger to result with each setting; both deployments use the same servers."""
    seconds: dict[int, list[float]] = {0: [], 1: []}
    with ReplicaSet(appendfsync=appendfsync) as servers:
        url = servers.url(servers.port).removesuffix("/0")
        with Deployment(f"{url}/0", replicas=0) as without, Deployment(f"{url}/1", replicas=1) as with_one:
            for deployment in (without, with_one):
                deployment.simulator.script("*", life="talking", dial_delay=0)
                deployment.worker()
                deployment.trigger("warm-up").get(timeout=60)
            for number in range(dials):
                for replicas, deployment in enumerate((without, with_one)):
                    begin = time.monotonic()
                    outcome = deployment.trigger(f"D-{number}").get(timeout=60)["outcome"]
                    assert outcome == "started", outcome
                    seconds[replicas].append(time.monotonic() - begin)
            rates = [rate_of(deployment) for deployment in (without, with_one)]
    return [
        for_information(
            f"appendfsync {appendfsync}, {replicas} replicas: from trigger to result, p50 / p99",
            f"{as_milliseconds(seconds[replicas])}; {rates[replicas]:.0f} dials/s of {AT_ONCE} triggered together",
        )
        for replicas in seconds
    ]


def rate_of(deployment: Deployment) -> float:
    """Return the dials per second of pairs that are triggered together, from the first request to the last."""
    cases = {f"A-{number}" for number in range(AT_ONCE)}
    deployment.send(*cases)
    times: list[float] = []

    def all_dialled() -> bool:
        times[:] = [dial["at"] for dial in deployment.simulator.log("call-v2") if dial["case_id"] in cases]
        return len(times) == AT_ONCE

    wait_until(all_dialled, limit=600)
    return AT_ONCE / (max(times) - min(times))


def as_milliseconds(seconds: list[float]) -> str:
    """Return the median and the 99th percentile."""
    ordered = sorted(seconds)
    return " / ".join(f"{1_000 * ordered[int(share * (len(ordered) - 1))]:.0f} ms" for share in (0.5, 0.99))


SCENARIOS = {
    "switchover": Scenario(switch_over, 500),
    "kill-the-primary": Scenario(kill_the_primary, 500),
    "failovers-behind-an-address": Scenario(partial(fail_over_often_behind_an_address, failovers=50), 500),
    "failovers-by-sentinel": Scenario(partial(fail_over_often_by_sentinel, failovers=20), 500),
    "lagging-replica": Scenario(partial(fail_over_to_a_lagging_replica, failovers=50, replicas=1), 500),
    "lagging-replica-no-wait": Scenario(partial(fail_over_to_a_lagging_replica, failovers=15, replicas=0), 100),
    "dial-cost": Scenario(dial_cost, DIALS),
}


if __name__ == "__main__":
    main(SCENARIOS, __doc__)

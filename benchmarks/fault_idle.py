"""Measure the idle cost: a worker's Redis commands per second, and Redis memory per watched call.

Run it with `python -m benchmarks.faults --scenario idle-cost`.
"""

import time
from typing import cast

import redis

from benchmarks.fault_figures import Figure, at_most, exactly
from cli.up.embedded_redis import EmbeddedServer
from config.settings import Settings
from tests.deployment import Deployment
from worker.container import build_store, new_token
from worker.core.messages import TriggerResult
from worker.core.model import Pair
from worker.core.trigger_model import NewJob, Settlement
from worker.store import RedisStore

OBSERVED = 30.0  # seconds
FAR = 3_600.0  # seconds until the first polls
OF_ONE_ANSWER = 1_000  # calls


def idle_cost(calls: int) -> list[Figure]:
    """Return a worker's commands per second, without calls and with calls not yet due, and the memory of a call."""
    with EmbeddedServer(appendfsync="everysec") as server, Deployment(server.url) as deployment:
        deployment.worker()
        store = build_store(Settings(redis_url=server.url))
        without = commands_a_second(store.client)
        before = memory(store.client)
        pair = Pair("C-1", "20")
        for first in range(0, calls, OF_ONE_ANSWER):
            watch(store, pair, range(first, min(first + OF_ONE_ANSWER, calls)))
        watched = store.number_of_calls()
        kilobytes = (memory(store.client) - before) / calls / 1_000
        not_due = commands_a_second(store.client)
        counters = store.counters()
        store.client.close()
    return [
        at_most("commands per second of an idle worker", without, 30),
        at_most("the same with calls not yet due", not_due, 30),
        exactly("calls watched", watched, calls),
        at_most("memory of a watched call", kilobytes, 1.0, "KB"),
        exactly("polls carried out", sum(n for name, n in counters.items() if name.startswith("polls:")), 0),
    ]


def watch(store: RedisStore, pair: Pair, numbers: range) -> None:
    """Store one dial response of a pair; its calls are first due in an hour."""
    jobs = [
        NewJob(f"{1_770_463_000_000 + number}-447e-96ea-{number:012x}", f"P-{number}", "Scheduling", FAR)
        for number in numbers
    ]
    result = TriggerResult.of("started", pair.case_id, pair.mediation_id)
    store.settle(Settlement(pair, new_token(), f"task-{numbers.start}", result, "watching", None, jobs, []))


def commands_a_second(client: redis.Redis) -> float:
    """Return the commands per second that clients send to the server, without those inside scripts."""
    number, end = 0, time.monotonic() + OBSERVED
    with client.monitor() as monitor:  # type: ignore[no-untyped-call]
        while time.monotonic() < end:
            number += monitor.next_command()["client_type"] != "lua"
    return number / OBSERVED


def memory(client: redis.Redis) -> int:
    """Return the bytes that the server uses for its data set."""
    return int(cast("dict[str, int]", client.info("memory"))["used_memory_dataset"])

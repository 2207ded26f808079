"""What the sweep costs where nothing is overdue: its thread and its share of the server, with many watched calls."""

import time
from typing import cast

import redis

from benchmarks.fault_figures import Figure, at_most, exactly, for_information
from cli.embedded import EmbeddedServer
from config.settings import Settings
from worker.messages import PollMessage, TriggerResult
from worker.store import RedisStore
from worker.sweep import Sweep
from worker.values import Abandoned, NewJob, Pair, Settlement
from worker.wiring import build_store, new_token

PARTIES = 2  # calls of one pair
FAR = 3_600.0  # seconds until their first polls
SWEEPS = 300
BREATH = 0.01  # seconds between two of them, so that each finds the caches as cold as a sweep a second does


class Recorder:
    """Publishes nothing, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def polls(self, messages: list[PollMessage]) -> None:
        """Remember polls."""
        self.asked += messages

    def trigger(self, abandoned: Abandoned) -> None:
        """Remember a trigger."""
        self.asked.append(abandoned)

    def look_up(self, pair: Pair, *, expires: float) -> None:
        """Remember a look-up."""
        self.asked.append((pair, expires))


def sweep_cost(calls: int) -> list[Figure]:
    """Return what one sweep a second takes of a core."""
    with EmbeddedServer(appendfsync="everysec") as server:
        settings = Settings(redis_url=server.url)
        store = build_store(settings)
        for first in range(0, calls, PARTIES):
            watch(store, first, min(PARTIES, calls - first))
        recorder = Recorder()
        sweep = Sweep(store, recorder, "faults", settings.sweep_interval, new_token)
        thread_seconds, server_seconds, turns = measure(sweep, store)
        watched = store.client.zcard(store.keys.due)
        for_nothing = len(recorder.asked)
        make_one_overdue(store)
        sweep()
        reissued = len(recorder.asked) - for_nothing
        store.client.close()
    share = 100 * (thread_seconds + server_seconds) / SWEEPS / settings.sweep_interval
    return [
        at_most("a sweep each second", share, 1, "% of a core"),
        for_information("of which in the worker's thread", f"{1_000 * thread_seconds / SWEEPS:.3f} ms"),
        for_information("of which in the server", f"{1_000 * server_seconds / SWEEPS:.3f} ms"),
        exactly("calls watched", watched, calls),
        exactly("sweeps that had the turn", turns, SWEEPS),
        exactly("messages published by them", for_nothing, 0),
        exactly("polls reissued once one call is overdue", reissued, 1),
    ]


def watch(store: RedisStore, first: int, number: int) -> None:
    """Store one pair's answer; its calls are due in an hour."""
    pair = Pair(f"C-{first}", "20")
    jobs = [
        NewJob(f"{1_770_463_000_000 + first + n}-447e-96ea-{n:012x}", f"P-{n}", "Scheduling", FAR)
        for n in range(number)
    ]
    result = TriggerResult.of("started", pair.case_id, pair.mediation_id)
    store.settle(Settlement(pair, new_token(), f"task-{first}", result, "watching", None, jobs, []))


def measure(sweep: Sweep, store: RedisStore) -> tuple[float, float, int]:
    """Return the CPU seconds of the thread and of the server, and how many of the sweeps had the turn.

    The turn is taken away after each sweep, so that the next one need not wait for a second; the server's share of
    that is counted as the sweep's.
    """
    thread_seconds, turns = 0.0, 0
    sweep()
    store.client.delete(store.keys.sweeper)
    before = server_cpu(store.client)
    for _ in range(SWEEPS):
        begin = time.thread_time()
        sweep()
        thread_seconds += time.thread_time() - begin
        turns += store.client.delete(store.keys.sweeper)
        time.sleep(BREATH)
    return thread_seconds, server_cpu(store.client) - before, turns


def server_cpu(client: redis.Redis) -> float:
    """Return the server's CPU time so far, in seconds, user and system, of all its threads."""
    info = cast("dict[str, float]", client.info("cpu"))
    return info["used_cpu_user"] + info["used_cpu_sys"]


def make_one_overdue(store: RedisStore) -> None:
    """Let one of the calls be due a minute ago: the proof that the sweeps looked at these very calls."""
    (job_id,) = cast("list[str]", store.client.zrange(store.keys.due, 0, 0))
    store.client.zadd(store.keys.due, {job_id: time.time() - 60})

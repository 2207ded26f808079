"""What `callwatch metrics` shows: the counters of all processes and the state as it stands, as Prometheus reads it.

Everything is read from Redis when asked, so it is the same whichever process is asked, and survives every one of them.
No label holds a person, a case or a call (S37): the values of each are few and known beforehand.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast, get_args

import redis
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from config.settings import Settings
from worker.core.decision import Outcome, Phase
from worker.core.interfaces import StoreUnavailable
from worker.core.model import EventKind, QueryResult
from worker.core.texts import LABELS
from worker.store import RedisStore
from worker.store.histograms import BEYOND, LATENCY_BOUNDS, LATENESS_BOUNDS, MICROSECONDS
from worker.store.metrics import TALLY_EVERY, CachedCounts
from worker.store.outbox import Waiting
from worker.store.server_status import LastSweep, Memory, memory_of

QUEUES = ("outbound.trigger", "outbound.poll", "outbound.control")
STALE = 4 * TALLY_EVERY  # seconds
OTHER = "other"  # a status that upstream has made up: as a label of its own it would have no bound

POLLS = (*get_args(QueryResult), "fenced", "finished", "absent", "early", "overtaken")
TRIGGERS = (*get_args(Outcome), "handled", "copy")

Counters = dict[str, int]


@dataclass(frozen=True, slots=True)
class State:
    """What one scrape has read; `now` and `outage_since` in epoch seconds, None where there is none."""

    counters: Counters
    tally: CachedCounts | None
    sweep: LastSweep | None
    now: float
    outage_since: float | None
    paused: bool
    queues: dict[str, int]
    unacknowledged: int
    notices: list[Waiting] = field(default_factory=list)
    dead_letters: int = 0
    memory: dict[str, Memory] = field(default_factory=dict)


def read_state(store: RedisStore, broker: "redis.Redis", settings: Settings) -> State:
    """Read it all: counters and sizes alone, no record.

    Raises StoreUnavailable where the Redis of the state or that of the broker does not answer.
    """
    with store.translated():
        pipeline = broker.pipeline(transaction=False)
        for queue in QUEUES:
            pipeline.llen(queue)
        pipeline.hlen("unacked")
        *waiting, unacknowledged = cast("list[int]", pipeline.execute())
        memories = [("state", store.memory())]
        if settings.broker_url != settings.redis_url:
            memories.append(("broker", memory_of(broker)))
    tally = store.cached_counts()
    return State(
        counters=store.counters(),
        tally=tally,
        sweep=store.last_sweep(),
        now=store.now(),
        outage_since=store.outage_since(),
        paused=store.is_paused() or not settings.enabled,
        queues=dict(zip(QUEUES, waiting, strict=True)),
        unacknowledged=unacknowledged,
        notices=store.waiting(tally.oldest if tally else {}),
        dead_letters=store.number_of_dead_letters(),
        memory={name: memory for name, memory in memories if memory},
    )


def families(state: State) -> Iterator[Metric]:
    """Return the metrics of what was read."""
    yield from _counters(state.counters)
    yield from _gauges(state)


def _counters(counters: Counters) -> Iterator[Metric]:
    def labelled(name: str, text: str, label: str, prefix: str, values: Sequence[str]) -> Metric:
        family = CounterMetricFamily(name, text, labels=[label])
        for value in values:  # those that never counted, too: an alert on an increase needs the zero before it
            family.add_metric([value], counters.get(f"{prefix}:{value}", 0))
        return family

    def plain(name: str, text: str, field: str) -> Metric:
        return CounterMetricFamily(name, text, value=counters.get(field, 0))

    yield labelled("callwatch_triggers", "Triggers by what came of them.", "outcome", "triggers", TRIGGERS)
    yield plain("callwatch_call_requests", "Call requests that were let through to upstream.", "call_requests")
    yield labelled("callwatch_polls", "Poll messages by what came of them.", "outcome", "polls", POLLS)
    yield plain("callwatch_polls_reissued", "Polls whose lease ended, published again.", "reissued")
    yield plain("callwatch_triggers_requeued", "Triggers whose owner was gone, published again.", "requeued")
    yield labelled("callwatch_events", "What happened to calls and pairs.", "kind", "events", get_args(EventKind))
    text = "From a poll's due time to its beginning."
    yield _histogram("callwatch_poll_lateness_seconds", text, counters, {"": "lateness"}, LATENESS_BOUNDS)
    text = "Answers of upstream: a status query; a call request until its answer is stored."
    endpoints = {"status": "status_latency", "call": "call_latency"}
    yield _histogram("callwatch_upstream_latency_seconds", text, counters, endpoints, LATENCY_BOUNDS)


def _histogram(
    name: str, text: str, counters: Counters, fields: dict[str, str], bounds: Sequence[str]
) -> HistogramMetricFamily:
    """Return a histogram; `fields` by the endpoint, the only label, empty where there is none."""
    family = HistogramMetricFamily(name, text, labels=[] if "" in fields else ["endpoint"])
    for endpoint, counted in fields.items():
        buckets, number = [], 0
        for bound, shown in (*((bound, bound) for bound in bounds), (BEYOND, "+Inf")):
            number += counters.get(f"{counted}:{bound}", 0)
            buckets.append((shown, float(number)))
        total = counters.get(f"{counted}:sum", 0) / MICROSECONDS
        family.add_metric([endpoint] if endpoint else [], buckets=buckets, sum_value=total)
    return family


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def _tallied(tally: CachedCounts, now: float) -> Iterator[Metric]:
    statuses = {**dict.fromkeys(LABELS, 0), OTHER: 0}
    for status, number in tally.calls.numbers.items():
        statuses[status if status in LABELS else OTHER] += number
    phases = {phase: tally.pairs.numbers.get(phase, 0) for phase in get_args(Phase) if phase != "done"}
    yield _gauge("callwatch_watched_calls", "Calls being watched, by upstream's last status.", "status", statuses)
    yield _gauge("callwatch_pairs", "Cases with a mediation that are taken, by phase.", "phase", phases)
    yield GaugeMetricFamily("callwatch_overdue_polls", "Polls later than the grace.", tally.calls.beyond)
    # Without a worker nothing is tallied and nothing polled: what is watched grows later all the same.
    age = now - tally.at
    silent = age if age > STALE and tally.calls.numbers else 0.0
    text = "How late the latest poll is; 0 where none is."
    yield GaugeMetricFamily("callwatch_oldest_overdue_poll_seconds", text, tally.calls.longest + silent)


def _memory(memory: Mapping[str, Memory]) -> Iterator[Metric]:
    used = {name: float(one.used) for name, one in memory.items()}
    limits = {name: float(one.limit) for name, one in memory.items() if one.limit}
    yield _gauge("callwatch_redis_memory_bytes", "Memory that Redis uses.", "redis", used)
    yield _gauge("callwatch_redis_memory_limit_bytes", "Beyond it Redis refuses writes.", "redis", limits)


def _gauges(state: State) -> Iterator[Metric]:
    if state.tally is not None:  # else no worker has tallied within a day; an alert on the sweep says so
        yield from _tallied(state.tally, state.now)
    yield _gauge("callwatch_queue_messages", "Messages that no worker has taken.", "queue", state.queues)
    yield GaugeMetricFamily("callwatch_unacknowledged_messages", "Messages that workers hold.", state.unacknowledged)
    waiting: dict[str, int] = {one.channel: one.waiting for one in state.notices}
    ages: dict[str, float] = {one.channel: max(0.0, state.now - (one.oldest_at or state.now)) for one in state.notices}
    yield _gauge("callwatch_notices_waiting", "Notices that no back end has taken yet.", "channel", waiting)
    yield _gauge("callwatch_oldest_notice_seconds", "Since when the oldest of them waits.", "channel", ages)
    yield GaugeMetricFamily("callwatch_dead_letters", "Notices that were given up, and are kept.", state.dead_letters)
    yield from _memory(state.memory)
    outage = state.outage_since is not None
    yield GaugeMetricFamily("callwatch_upstream_outage", "1 while upstream answers no status query.", outage)
    yield GaugeMetricFamily("callwatch_new_calls_stopped", "1 while new calls are stopped.", state.paused)
    if state.sweep is not None:  # else nobody has swept within a day; an alert on its absence says so
        age = max(0.0, state.now - state.sweep.at)
        yield GaugeMetricFamily("callwatch_sweep_age_seconds", "Since a worker last took the turn to sweep.", age)


class StateCollector(Collector):
    """Reads at each scrape; while Redis is away the one thing that is said is that it is."""

    def __init__(self, read: Callable[[], State]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Return what stands."""
        try:
            state = self._read()
        except StoreUnavailable:
            yield GaugeMetricFamily("callwatch_redis_up", "1 while Redis answers.", 0)
            return
        yield GaugeMetricFamily("callwatch_redis_up", "1 while Redis answers.", 1)
        yield from families(state)


def expose(read: Callable[[], State]) -> bytes:
    """Return the text of one scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StateCollector(read))
    return generate_latest(registry)

"""Expose the counters of all processes and the current state in the text format of Prometheus: `callwatch metrics`.

Each scrape reads Redis, so every process shows the same values, and no restart loses one. No label contains a person, a
case or a call (S37): each label has few values, which are known beforehand.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast, get_args

import redis
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from api_client import REASONS, REQUEST_REASONS
from config.settings import Settings
from worker.core.decision import Outcome, Phase
from worker.core.interfaces import StoreUnavailable
from worker.core.model import EventKind
from worker.core.poll_model import QueryResult
from worker.core.texts import LABELS
from worker.runtime.malformed import MALFORMED_QUEUE
from worker.store import RedisStore
from worker.store.histograms import BEYOND, LATENCY_BOUNDS, LATENESS_BOUNDS, MICROSECONDS
from worker.store.metrics import COUNT_INTERVAL, CachedCounts
from worker.store.outbox import Waiting
from worker.store.server_status import LastSweep, Memory, memory_of

QUEUES = ("outbound.trigger", "outbound.poll", "outbound.control")
STALE = 4 * COUNT_INTERVAL  # seconds
OTHER = "other"  # any status that is not in the API: labels with upstream's own texts would have no bound

POLLS = (*get_args(QueryResult), "fenced", "finished", "absent", "early", "overtaken")
TRIGGERS = (*get_args(Outcome), "handled", "copy")

Counters = dict[str, int]


@dataclass(frozen=True, slots=True)
class State:
    """The values of one scrape; `now` and `outage_since` in epoch seconds, an absent value is None."""

    counters: Counters
    counts: CachedCounts | None
    sweep: LastSweep | None
    now: float
    outage_since: float | None
    paused: bool
    queues: dict[str, int]
    unacknowledged: int
    malformed: int = 0
    notices: list[Waiting] = field(default_factory=list)
    dead_letters: int = 0
    memory: dict[str, Memory] = field(default_factory=dict)
    replicas: int | None = None


def read_state(store: RedisStore, broker: "redis.Redis", settings: Settings) -> State:
    """Read the counters and sizes, but no record of a call.

    Raises StoreUnavailable if the Redis of the state or of the broker does not answer.
    """
    with store.translated():
        pipeline = broker.pipeline(transaction=False)
        for queue in QUEUES:
            pipeline.llen(queue)
        pipeline.hlen("unacked")
        pipeline.llen(MALFORMED_QUEUE)
        *waiting, unacknowledged, malformed = cast("list[int]", pipeline.execute())
        memories = [("state", store.memory())]
        if settings.broker_url != settings.redis_url:
            memories.append(("broker", memory_of(broker)))
    counts, replicas = store.cached_counts(), store.replicas()
    return State(
        counters=store.counters(),
        counts=counts,
        sweep=store.last_sweep(),
        now=store.now(),
        outage_since=store.outage_since(),
        paused=store.is_paused() or not settings.enabled,
        queues=dict(zip(QUEUES, waiting, strict=True)),
        unacknowledged=unacknowledged,
        malformed=malformed,
        notices=store.waiting(counts.oldest if counts else {}),
        dead_letters=store.number_of_dead_letters(),
        memory={name: memory for name, memory in memories if memory},
        replicas=None if replicas is None else len(replicas),
    )


def families(state: State) -> Iterator[Metric]:
    """Yield the metrics of one scrape."""
    yield from _counters(state.counters)
    yield from _gauges(state)


def _counters(counters: Counters) -> Iterator[Metric]:
    def labelled(name: str, text: str, label: str, prefix: str, values: Sequence[str]) -> Metric:
        family = CounterMetricFamily(name, text, labels=[label])
        for value in values:  # zeros too: an alert on an increase needs the value before it
            family.add_metric([value], counters.get(f"{prefix}:{value}", 0))
        return family

    def plain(name: str, text: str, field: str) -> Metric:
        return CounterMetricFamily(name, text, value=counters.get(field, 0))

    yield labelled("callwatch_triggers", "Triggers by outcome.", "outcome", "triggers", TRIGGERS)
    text = "Triggers without a started call, by reason."
    yield labelled("callwatch_trigger_reasons", text, "reason", "reasons:trigger", REASONS)
    yield plain("callwatch_call_requests", "Call requests that were sent to upstream.", "call_requests")
    text = "Attempts of call requests that were not sent, because too few replicas or no disk confirmed them in time."
    yield plain("callwatch_requests_held_back", text, "requests_held_back")
    yield labelled("callwatch_polls", "Polls by outcome.", "outcome", "polls", POLLS)
    text = "Failed status queries of polls, by reason."
    yield labelled("callwatch_poll_reasons", text, "reason", "reasons:query", REQUEST_REASONS)
    yield plain("callwatch_polls_reissued", "Polls published again because their lease ended.", "reissued")
    yield plain("callwatch_triggers_requeued", "Triggers published again because their owner died.", "requeued")
    yield labelled("callwatch_events", "Events of calls and pairs, by kind.", "kind", "events", get_args(EventKind))
    text = "Seconds from the due time of a poll to its start."
    yield _histogram("callwatch_poll_lateness_seconds", text, counters, {"": "lateness"}, LATENESS_BOUNDS)
    text = "Seconds to the answer of a status query, or until the answer to a call request is stored."
    endpoints = {"status": "status_latency", "call": "call_latency"}
    yield _histogram("callwatch_upstream_latency_seconds", text, counters, endpoints, LATENCY_BOUNDS)


def _histogram(
    name: str, text: str, counters: Counters, fields: dict[str, str], bounds: Sequence[str]
) -> HistogramMetricFamily:
    """Return a histogram; `fields` maps the label `endpoint` to a counter, the empty text means no label."""
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


def _cached_counts(counts: CachedCounts, now: float) -> Iterator[Metric]:
    statuses = {**dict.fromkeys(LABELS, 0), OTHER: 0}
    for status, number in counts.calls.numbers.items():
        statuses[status if status in LABELS else OTHER] += number
    phases = {phase: counts.pairs.numbers.get(phase, 0) for phase in get_args(Phase) if phase != "done"}
    yield _gauge("callwatch_watched_calls", "Watched calls by last status.", "status", statuses)
    yield _gauge("callwatch_pairs", "Locked pairs of case and mediation, by phase.", "phase", phases)
    yield GaugeMetricFamily(
        "callwatch_overdue_polls", "Polls that are later than CALLWATCH_OVERDUE_GRACE.", counts.calls.beyond
    )
    # Without a worker there is no count and no poll, and the lateness of watched calls grows.
    age = now - counts.at
    silent = age if age > STALE and counts.calls.numbers else 0.0
    text = "Seconds by which the latest poll is overdue; 0 without an overdue poll."
    yield GaugeMetricFamily("callwatch_oldest_overdue_poll_seconds", text, counts.calls.longest + silent)


def _memory(memory: Mapping[str, Memory]) -> Iterator[Metric]:
    used = {name: float(one.used) for name, one in memory.items()}
    limits = {name: float(one.limit) for name, one in memory.items() if one.limit}
    yield _gauge("callwatch_redis_memory_bytes", "Memory that Redis uses, in bytes.", "redis", used)
    yield _gauge(
        "callwatch_redis_memory_limit_bytes",
        "Memory limit in bytes, above which Redis refuses writes.",
        "redis",
        limits,
    )


def _gauges(state: State) -> Iterator[Metric]:
    if state.counts is not None:  # None: no worker has counted within a day; the alert on the sweep reports it
        yield from _cached_counts(state.counts, state.now)
    yield _gauge("callwatch_queue_messages", "Messages in the queue that no worker has taken.", "queue", state.queues)
    yield GaugeMetricFamily(
        "callwatch_unacknowledged_messages",
        "Messages that workers have taken and not acknowledged.",
        state.unacknowledged,
    )
    yield GaugeMetricFamily(
        "callwatch_malformed_messages", "Quarantined messages, at most 100, kept for a day.", state.malformed
    )
    waiting: dict[str, int] = {one.channel: one.waiting for one in state.notices}
    ages: dict[str, float] = {one.channel: max(0.0, state.now - (one.oldest_at or state.now)) for one in state.notices}
    yield _gauge("callwatch_notices_waiting", "Notices that are not delivered yet.", "channel", waiting)
    yield _gauge("callwatch_oldest_notice_seconds", "Age of the oldest undelivered notice in seconds.", "channel", ages)
    yield GaugeMetricFamily(
        "callwatch_dead_letters", "Dead letters: notices that were not delivered in time.", state.dead_letters
    )
    yield from _memory(state.memory)
    if state.replicas is not None:  # None: the server hides them
        yield GaugeMetricFamily(
            "callwatch_redis_replicas", "Connected replicas of the Redis of locks and records.", state.replicas
        )
    outage = state.outage_since is not None
    yield GaugeMetricFamily("callwatch_upstream_outage", "1 while upstream answers no status query.", outage)
    yield GaugeMetricFamily(
        "callwatch_new_calls_stopped",
        "1 while new calls are stopped, by the flag in Redis or by the settings.",
        state.paused,
    )
    if state.sweep is not None:  # None: no sweep within a day; the alert on the absent metric reports it
        age = max(0.0, state.now - state.sweep.at)
        yield GaugeMetricFamily(
            "callwatch_sweep_age_seconds", "Seconds since a worker last took the leader lock of the sweep.", age
        )


class StateCollector(Collector):
    """Read the state at each scrape; while Redis is away, return only that it is away, and the URL of the runbook."""

    def __init__(self, read: Callable[[], State], runbook_url: str | None) -> None:
        self._read = read
        self._runbook_url = runbook_url

    def collect(self) -> Iterable[Metric]:
        """Yield the current metrics."""
        if self._runbook_url:
            text = "Always 1; its label is the URL of the runbook, CALLWATCH_RUNBOOK_URL, for the alerts."
            yield _gauge("callwatch_runbook_info", text, "url", {self._runbook_url: 1})
        try:
            state = self._read()
        except StoreUnavailable:
            yield GaugeMetricFamily("callwatch_redis_up", "1 while Redis answers.", 0)
            return
        yield GaugeMetricFamily("callwatch_redis_up", "1 while Redis answers.", 1)
        yield from families(state)


def expose(read: Callable[[], State], runbook_url: str | None = None) -> bytes:
    """Return the page of one scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StateCollector(read, runbook_url))
    return generate_latest(registry)

"""The metrics page: the parser of Prometheus accepts it, counters start at zero, and no label names a person (S37)."""

import re
from dataclasses import replace
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cli.exposition import POLLS, State, expose
from worker.core.interfaces import StoreUnavailable
from worker.core.notice import NoticeChannel
from worker.store.metrics import CachedCounts, StateCounts
from worker.store.outbox import Waiting
from worker.store.server_status import LastSweep, Memory

NOTICES = ("notices_waiting", "oldest_notice_seconds")
NOTHING = StateCounts({}, 0.0, 0)
EMPTY = State({}, CachedCounts(998.0, NOTHING, NOTHING), None, 1_000.0, None, False, {"outbound.poll": 0}, 0)
BUSY = State(
    counters={
        "triggers:started": 3,
        "polls:answer": 40,
        "polls:of a later version": 9,
        "reasons:trigger:http_401": 6,
        "reasons:query:timeout": 8,
        "reasons:query:deadline": 9,
        "reissued": 2,
        "requests_held_back": 4,
        "events:lost": 1,
        "lateness:0.01": 30,
        "lateness:2.5": 9,
        "lateness:Inf": 1,
        "lateness:sum": 4_500_000,
        "status_latency:0.025": 40,
        "status_latency:sum": 800_000,
        "call_latency:30": 3,
        "call_latency:sum": 61_000_000,
    },
    counts=CachedCounts(
        998.0,
        StateCounts({"Scheduling": 4, "Executing": 1, "SomethingNew": 2, "Another": 1}, 7.5, 3),
        StateCounts({"watching": 5, "unknown": 1}, 0.0, 0),
    ),
    sweep=LastSweep(998.5, "host:1"),
    now=1_000.0,
    outage_since=900.0,
    paused=True,
    queues={"outbound.trigger": 7, "outbound.poll": 2},
    unacknowledged=11,
    malformed=2,
    notices=[Waiting("webhook", 5, 880.0, 9, 1, 0), Waiting("task", 0, None, 9, 0, 0)],
    dead_letters=3,
    memory={"state": Memory(700, 1_000), "broker": Memory(500, 0)},
    replicas=2,
)


def samples(state: State) -> dict[str, float]:
    """Return every sample of a scrape, read by the parser of Prometheus."""
    text = expose(lambda: state).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            name = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert name not in found, "a sample appears twice"
            found[name] = sample.value
    return found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("callwatch_redis_up", 1),
        ("callwatch_triggers_total{outcome=started}", 3),
        ("callwatch_triggers_total{outcome=unknown}", 0),
        ("callwatch_polls_total{outcome=answer}", 40),
        ("callwatch_trigger_reasons_total{reason=http_401}", 6),
        ("callwatch_trigger_reasons_total{reason=sender_died}", 0),
        ("callwatch_poll_reasons_total{reason=timeout}", 8),
        ("callwatch_poll_reasons_total{reason=http_5xx}", 0),
        ("callwatch_malformed_messages", 2),
        ("callwatch_polls_reissued_total", 2),
        ("callwatch_events_total{kind=lost}", 1),
        ("callwatch_poll_lateness_seconds_bucket{le=0.01}", 30),
        ("callwatch_poll_lateness_seconds_bucket{le=1}", 30),
        ("callwatch_poll_lateness_seconds_bucket{le=2.5}", 39),
        ("callwatch_poll_lateness_seconds_bucket{le=+Inf}", 40),
        ("callwatch_poll_lateness_seconds_count", 40),
        ("callwatch_poll_lateness_seconds_sum", 4.5),
        ("callwatch_upstream_latency_seconds_count{endpoint=status}", 40),
        ("callwatch_upstream_latency_seconds_sum{endpoint=call}", 61),
        ("callwatch_upstream_latency_seconds_bucket{endpoint=call,le=10}", 0),
        ("callwatch_upstream_latency_seconds_bucket{endpoint=call,le=30}", 3),
        ("callwatch_watched_calls{status=Scheduling}", 4),
        ("callwatch_watched_calls{status=Paused}", 0),
        ("callwatch_watched_calls{status=other}", 3),
        ("callwatch_pairs{phase=unknown}", 1),
        ("callwatch_queue_messages{queue=outbound.trigger}", 7),
        ("callwatch_unacknowledged_messages", 11),
        ("callwatch_overdue_polls", 3),
        ("callwatch_oldest_overdue_poll_seconds", 7.5),
        ("callwatch_notices_waiting{channel=webhook}", 5),
        ("callwatch_notices_waiting{channel=task}", 0),
        ("callwatch_oldest_notice_seconds{channel=webhook}", 120),
        ("callwatch_oldest_notice_seconds{channel=task}", 0),
        ("callwatch_dead_letters", 3),
        ("callwatch_redis_memory_bytes{redis=state}", 700),
        ("callwatch_redis_memory_bytes{redis=broker}", 500),
        ("callwatch_redis_memory_limit_bytes{redis=state}", 1_000),
        ("callwatch_redis_replicas", 2),
        ("callwatch_requests_held_back_total", 4),
        ("callwatch_upstream_outage", 1),
        ("callwatch_new_calls_stopped", 1),
        ("callwatch_sweep_age_seconds", 1.5),
    ],
)
def test_values_of_the_state_are_exported(name: str, value: float) -> None:
    assert samples(BUSY)[name] == value


def test_labels_are_bounded_for_unknown_values() -> None:
    """S19 S37."""
    new = samples(BUSY).keys() - samples(EMPTY).keys()
    notices = {f"callwatch_{name}{{channel={channel}}}" for name in NOTICES for channel in get_args(NoticeChannel)}
    memory = {name for name in new if name.startswith("callwatch_redis_memory")}
    assert len(memory) == 3
    single = {"callwatch_sweep_age_seconds", "callwatch_redis_replicas"}
    assert new == {*single, "callwatch_queue_messages{queue=outbound.trigger}"} | notices | memory
    shown = {name for name in samples(EMPTY) if name.startswith("callwatch_polls_total")}
    assert shown == {f"callwatch_polls_total{{outcome={outcome}}}" for outcome in POLLS}


def test_every_counter_starts_at_zero() -> None:
    """An alert on an increase needs the zero before it."""
    counted = {name: value for name, value in samples(EMPTY).items() if re.search(r"_(total|count|sum|bucket)\b", name)}
    assert len(counted) > 50
    assert set(counted.values()) == {0}


def test_sweep_age_is_absent_without_a_sweep() -> None:
    """S28: the alert uses its absence."""
    assert "callwatch_sweep_age_seconds" not in samples(EMPTY)


def test_overdue_time_grows_without_workers() -> None:
    """S28: without workers there is no count and no poll."""
    assert BUSY.counts is not None
    old = replace(BUSY, counts=replace(BUSY.counts, at=900.0))
    assert samples(old)["callwatch_oldest_overdue_poll_seconds"] == 107.5
    idle = replace(EMPTY, counts=CachedCounts(900.0, NOTHING, NOTHING))
    assert samples(idle)["callwatch_oldest_overdue_poll_seconds"] == 0


def test_counts_are_absent_without_a_worker() -> None:
    shown = samples(replace(BUSY, counts=None))
    assert "callwatch_overdue_polls" not in shown
    assert shown["callwatch_new_calls_stopped"] == 1


def test_only_redis_up_is_exported_while_redis_is_away() -> None:
    def away() -> State:
        raise StoreUnavailable("Redis: gone")

    text = expose(away).decode()
    assert [family.name for family in text_string_to_metric_families(text)] == ["callwatch_redis_up"]
    assert "callwatch_redis_up 0.0" in text


@pytest.mark.parametrize("name", samples(BUSY))
def test_names_follow_the_prometheus_conventions(name: str) -> None:
    bare = name.partition("{")[0]
    assert re.fullmatch(r"callwatch_[a-z_]+", bare)

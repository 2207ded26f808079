"""Test the schedule of deliveries: FIFO per pair, pairs concurrently, circuit breaker while the receiver is down."""

import random

from hypothesis import given
from hypothesis import strategies as st

from worker.core.model import OutboxEntry
from worker.flows.notify import (
    DOWN_AFTER,
    LONGEST_PAUSE,
    MAX_IN_FLIGHT,
    PROBE_EVERY,
    DeliverySchedule,
)


def entry(number: int, mediation: str = "20", kind: str = "ended") -> OutboxEntry:
    event = {"at": 1.0, "kind": kind, "case_id": "C-1", "mediation_id": mediation, "job_id": f"job-{mediation}"}
    return OutboxEntry(f"{number}-0", f"e-{number}", event)


def schedule_of(*entries: OutboxEntry) -> DeliverySchedule:
    schedule = DeliverySchedule(jitter=lambda: 0)
    schedule.add(entries)
    return schedule


def test_entries_of_a_pair_are_delivered_in_order_and_pairs_concurrently() -> None:
    first, second, other = entry(1), entry(2), entry(3, "21")
    schedule = schedule_of(first, second, other)
    assert schedule.take(0) == [first, other]
    assert schedule.take(0) == []
    schedule.over(first)
    assert schedule.take(0) == [second]


def test_failed_entry_backs_off_and_delays_only_its_own_pair() -> None:
    first, second, other = entry(1), entry(2), entry(3, "21")
    schedule = schedule_of(first, second)
    for failures, pause in enumerate((1, 2, 4, 8), start=1):
        assert schedule.take(100 * failures) == [first]
        assert schedule.failed(first, 100 * failures) is False
        assert schedule.take(100 * failures + pause - 0.01) == []
    schedule.add([other])
    assert schedule.take(401) == [other]
    assert schedule.take(408) == [first]


def test_back_off_grows_to_its_maximum_with_jitter() -> None:
    schedule = DeliverySchedule(jitter=lambda: 1)
    schedule.add([entry(1)])
    now = 0.0
    for _ in range(4):
        (one,) = schedule.take(now)
        schedule.failed(one, now)
        schedule.accepted()  # another entry was accepted: the receiver is up
        now += LONGEST_PAUSE
    (one,) = schedule.take(now)
    schedule.failed(one, now)
    assert schedule.take(now + 7.9) == []
    assert len(schedule.take(now + 8)) == 1, "16 s minus half as jitter"


def test_entries_in_flight_are_limited() -> None:
    schedule = schedule_of(*(entry(number, str(number)) for number in range(20)))
    assert len(schedule.take(0)) == MAX_IN_FLIGHT
    assert schedule.take(0) == []


def test_circuit_breaker_sends_single_probes_until_one_is_accepted() -> None:
    schedule = schedule_of(*(entry(number, str(number)) for number in range(20)))
    opened: list[bool] = []
    while len(opened) < DOWN_AFTER:
        opened += [schedule.failed(one, 0) for one in schedule.take(0)]
    assert opened.count(True) == 1, "the opening is reported once"
    assert schedule.down
    assert schedule.take(PROBE_EVERY - 0.01) == []
    (probe,) = schedule.take(PROBE_EVERY)
    assert schedule.take(PROBE_EVERY * 2) == [], "one at a time"
    assert schedule.accepted() is True
    schedule.over(probe)
    assert len(schedule.take(PROBE_EVERY)) == MAX_IN_FLIGHT
    assert schedule.accepted() is False


def test_s35_each_probe_of_an_unavailable_receiver_comes_from_another_pair() -> None:
    """S35: pairs without a failure come first, then the pair whose last failure is oldest."""
    schedule = schedule_of(*(entry(number, str(number)) for number in range(2)))
    now = 0.0
    while not schedule.down:
        for one in schedule.take(now):
            schedule.failed(one, now)
        now += LONGEST_PAUSE
    schedule.add([entry(2, "2"), entry(3, "0")])
    probed: list[str] = []
    for _ in range(5):
        now += PROBE_EVERY
        (probe,) = schedule.take(now)
        schedule.failed(probe, now)
        probed.append(probe.pair.mediation_id)
    assert probed[0] == "2"
    assert sorted(probed[1:4]) == ["0", "1", "2"]
    assert probed[4] == probed[1]
    now += PROBE_EVERY
    (accepted,) = schedule.take(now)
    schedule.accepted()
    schedule.over(accepted)
    schedule.add([entry(4, accepted.pair.mediation_id)])
    assert schedule.take(now)[0].pair == accepted.pair, "a delivery clears the failure"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12), st.integers(0, 99))
def test_every_entry_is_delivered_once_in_the_order_of_its_pair_despite_failures(
    drawn: list[tuple[str, bool]], seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - for a test
    entries = [entry(number, pair) for number, (pair, _) in enumerate(drawn)]
    fails = {one.position for one, (_, succeeds) in zip(entries, drawn, strict=True) if not succeeds}
    schedule = schedule_of(*entries)
    delivered: list[OutboxEntry] = []
    now = 0.0
    while len(schedule):
        taken = schedule.take(now)
        chance.shuffle(taken)
        for one in taken:
            if one.position in fails and chance.random() < 0.5:
                schedule.failed(one, now)
            else:
                schedule.accepted()
                delivered.append(one)
                schedule.over(one)
        now += 1
        assert now < 10_000
    assert sorted(delivered, key=lambda one: int(one.position[:-2])) == entries
    for pair in "abc":
        ours = [one for one in entries if one.pair.mediation_id == pair]
        assert [one for one in delivered if one.pair.mediation_id == pair] == ours

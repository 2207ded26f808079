"""Test that the sweep finishes claims and requests of dead owners (S18)."""

import json
import logging
from typing import NoReturn

import pytest

from tests.fakes import START, job_id, record
from tests.world import World, watching
from worker.core.interfaces import ScheduleFailed, StoreUnavailable
from worker.core.model import Pair
from worker.core.trigger_model import Claimed
from worker.flows.sweep import Sweep, sweep_forever
from worker.store import RedisStore
from worker.tasks import Publisher

JOB = job_id(1)
PAIR = Pair("C-1", "20")


def dead_claim(world: World, *, expires: float | None = None, **kwargs: str) -> None:
    """A claim whose owner has died."""
    arguments = json.dumps({"case_id": "C-1", "mediation_id": "20", **kwargs})
    claimed = world.store.claim(
        PAIR, token="dead", task_id="task-1", arguments=arguments, expires=expires, enabled=True
    )
    assert claimed == Claimed()


def test_one_sweeper_at_a_time(world: World) -> None:
    """S28: by a key that lives at most one interval."""
    dead_claim(world)
    world.clock.sleep(31)
    assert world.store.acquire_sweep_lock("another", 1)
    assert world.sweep() == 0
    world.clock.sleep(1.1)
    assert world.sweep() == 1


def test_abandoned_claim_is_triggered_again_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """S18: after 30 s as claimed: a new token, and the unchanged trigger under its own task id."""
    caplog.set_level(logging.INFO)
    world.upstream.dials = [[record(JOB)]]
    dead_claim(world, call_person_id="P-9")
    world.clock.sleep(29)
    assert world.sweep() == 0
    world.clock.sleep(2)
    assert world.sweep() == 1
    assert world.store.begin_sending(PAIR, "dead") == "taken"
    world.run(1)
    (_, request), *others = world.upstream.requests
    assert (request.call_person_id, others) == ("P-9", [])
    assert world.trigger()["outcome"] == "started"
    assert len(world.upstream.requests) == 1


def test_abandoned_claim_is_republished_at_growing_intervals(world: World) -> None:
    """S18: while no worker takes it."""
    dead_claim(world)
    for _ in range(360):
        world.clock.sleep(10)
        world.sweep()
    assert 4 <= len(world.queue.published) <= 12


def test_abandoned_claim_with_an_expired_trigger_makes_no_call(world: World) -> None:
    """A weekend's backlog does not ring on Monday."""
    dead_claim(world, expires=START + 20)
    world.clock.sleep(31)
    assert world.sweep() == 0
    assert world.redis.exists("t:lock:C-1:20") == 0
    assert world.events() == ["dial_failed"]


def test_dead_sender_leaves_an_unknown_outcome(world: World) -> None:
    """S18 S17: only after read and connect time-outs and 15 s more; a redelivered trigger returns `unknown`."""
    dead_claim(world)
    world.store.begin_sending(PAIR, "dead")
    world.sweeping = 1
    world.run(107)
    assert [one.phase for one in world.store.pairs()] == ["sending"]
    assert world.trigger() is None
    world.run(3)
    assert [one.phase for one in world.store.pairs()] == ["unknown"]
    assert world.events()[0] == "unknown"
    assert world.trigger()["outcome"] == "unknown"
    assert world.upstream.requests == []


def test_late_answer_of_a_stopped_sender_is_kept(world: World) -> None:
    """S18: an answer is never discarded, in any phase."""

    def stopped(_request: object) -> list[object]:
        for _ in range(115):
            world.clock.sleep(1)
            world.sweep()
        assert [one.phase for one in world.store.pairs()] == ["unknown"]
        return [record(JOB, person="P-1")]

    world.upstream.dials = [stopped]  # type: ignore[list-item]
    assert world.trigger()["outcome"] == "started"
    assert [(call.job_id, call.person_id, call.deadline) for call in world.store.calls()] == [
        (JOB, "P-1", START + 7_200)
    ]
    assert [one.phase for one in world.store.pairs()] == ["watching"]
    assert world.trigger()["outcome"] == "started"


def test_pair_without_watched_calls_is_released(world: World) -> None:
    """Safety limit of the release: such a pair does not wait for its lock to expire."""
    watching(world)
    world.redis.delete("t:live:C-1:20")
    world.queue.heap.clear()
    world.redis.zrem("t:due", JOB)
    world.clock.sleep(7_300)
    world.sweep()
    assert world.redis.exists("t:lock:C-1:20") == 0


def test_records_older_than_the_history_are_deleted(world: World) -> None:
    """S36: also while no new call finishes."""
    watching(world)
    world.upstream.life = lambda _job, _age: "Succeeded"
    world.run(20)
    assert world.redis.zcard("t:finished") == world.redis.zcard("t:done") == 1
    world.clock.sleep(86_401)
    world.sweep()
    assert world.redis.zcard("t:finished") == world.redis.zcard("t:done") == 0
    assert world.redis.exists(f"t:job:{JOB}") == 1, "as long as a failure may be remembered (S5)"
    world.clock.sleep(world.settings.lock_ttl)
    assert world.redis.exists(f"t:job:{JOB}") == 0


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ScheduleFailed("OSError"), "sweep could not publish, a later sweep tries again: OSError"),
        (StoreUnavailable("Redis: gone"), "sweeps fail, retrying: StoreUnavailable: Redis: gone"),
        (KeyError("x"), "sweep failed: KeyError: 'x'"),
    ],
    ids=["no broker", "no store", "a fault"],
)
def test_sweeps_continue_after_an_error(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, line: str
) -> None:
    """S28: the thread logs the error, and publishes the lost poll when it can again."""
    dead_claim(world)
    waits: list[float] = []
    succeeded: list[int] = []

    read = RedisStore.pairs_due

    def fail_for_a_minute(store: RedisStore, *, limit: int) -> list[Pair]:
        if len(waits) < 60:
            raise error
        return read(store, limit=limit)

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        world.clock.sleep(seconds)
        return len(waits) > 120

    monkeypatch.setattr(RedisStore, "pairs_due", fail_for_a_minute)
    done = lambda: succeeded.append(len(waits))  # noqa: E731
    sweep_forever(world.parts.sweep(Publisher()), wait, world.clock, done)
    assert set(waits) == {world.settings.sweep_interval}
    assert line in caplog.messages
    assert [delivery.task_id for delivery in world.queue.heap][:1] == ["task-1"]
    assert min(succeeded) == 60, "the next success is logged (S41)"


def test_outage_of_redis_is_logged_when_it_begins_and_when_it_ends(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """S41: not once a second; another error is logged each time that it occurs, and a later outage anew."""
    gone = StoreUnavailable("Redis: gone")
    results = iter((None, gone, gone, KeyError("x"), KeyError("x"), gone, None, None, gone, None))
    rounds: list[float] = []

    def sweep(_: Sweep) -> int:
        if error := next(results):
            raise error
        return 0

    def wait(seconds: float) -> bool:
        rounds.append(seconds)
        return len(rounds) > 10

    monkeypatch.setattr(Sweep, "__call__", sweep)
    sweep_forever(world.parts.sweep(Publisher()), wait, world.clock)
    begin, end, fault = (
        "sweeps fail, retrying: StoreUnavailable: Redis: gone",
        "sweeps succeed again",
        "sweep failed: KeyError: 'x'",
    )
    assert caplog.messages == [begin, fault, fault, end, begin, end]
    assert {record.levelno for record in caplog.records if "retrying" in record.message} == {logging.WARNING}


def test_long_sweep_does_not_delay_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """S28: sweeps begin an interval apart; after a longer one, the next begins at once, and only one."""
    took = iter((0.0, 0.3, 0.95, 7.0))
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(round(seconds, 6))
        world.clock.sleep(seconds)
        return len(waits) > 4

    sweep = world.parts.sweep(Publisher())
    monkeypatch.setattr(Sweep, "__call__", lambda _: world.clock.sleep(next(took)))
    sweep_forever(sweep, wait, world.clock)
    assert waits == [1, 1, 0.7, 0.1, 0.1]


def test_failing_pair_is_postponed_behind_the_others(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """S28: it neither stops the sweep nor stays first."""
    for mediation_id in ("20", "21"):
        world.store.claim(
            Pair("C-1", mediation_id), token="t", task_id=mediation_id, arguments="{}", expires=None, enabled=True
        )
        world.clock.sleep(1)
    world.redis.hset(world.keys.ledger(Pair("C-1", "20")), "claimed_at", "no number")
    world.clock.sleep(31)
    assert world.sweep() == 1, "the one behind it"
    assert world.store.pairs_due(limit=10) == []
    assert "pair postponed" in caplog.text
    world.clock.sleep(61)
    assert world.store.pairs_due(limit=10) == [Pair("C-1", "20"), Pair("C-1", "21")]


def test_unavailable_broker_keeps_the_pairs_in_order(world: World) -> None:
    """S18: a pair without a publication was not attended to."""
    for mediation_id in ("20", "21"):
        world.store.claim(
            Pair("C-1", mediation_id), token="t", task_id=mediation_id, arguments="{}", expires=None, enabled=True
        )
    world.clock.sleep(31)
    world.queue.broken = OSError("broker away")
    with pytest.raises(ScheduleFailed):
        world.sweep()
    assert len(world.store.pairs_due(limit=10)) == 1


@pytest.mark.parametrize("broken", ["pairs_due", "trim"])
def test_pairs_and_trimming_are_independent(world: World, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """S28: a failing part of the sweep stops no other part, and is reported."""
    arguments = '{"case_id": "C-2", "mediation_id": "1"}'
    world.store.claim(Pair("C-2", "1"), token="t", task_id="t", arguments=arguments, expires=None, enabled=True)
    world.redis.zadd(world.keys.done, {"C-9:1": 1})
    world.clock.sleep(40)

    def fail(*_: object, **__: object) -> NoReturn:
        raise KeyError(broken)

    monkeypatch.setattr(RedisStore, broken, fail)
    with pytest.raises(KeyError, match=broken):
        world.sweep()
    assert ("C-2" in str(world.queue.published)) is (broken != "pairs_due")
    assert world.redis.zcard(world.keys.done) == (1 if broken == "trim" else 0)


def test_every_failing_part_is_logged(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise KeyError("x")

    for part in ("pairs_due", "trim"):
        monkeypatch.setattr(RedisStore, part, fail)
    with pytest.raises(KeyError):
        world.sweep()
    assert caplog.text.count("sweep failed: KeyError: 'x'") == 1, "the first one is raised, and logged above"

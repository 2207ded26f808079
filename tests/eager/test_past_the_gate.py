"""Test dials that go wrong after the claim: requests past the gate, slow attempts, lost claims."""

from typing import Any, NoReturn

import pytest

from api_client import CallRequest, NotSent, OutcomeUnknown
from tests.eager.scenes import entry, killed, phase
from tests.fakes import START, job_id, record
from tests.world import World
from worker.core import texts
from worker.core.dial_result import not_called
from worker.core.interfaces import StoreUnavailable
from worker.core.messages import TriggerRequest
from worker.core.model import Pair
from worker.flows.dial import Claim
from worker.store import RedisStore

PAIR = Pair("C-1", "20")
JOB = job_id(1, at=START + 1)
LOST = OutcomeUnknown("POST /call-v2: ReadTimeout")


@pytest.fixture
def without_gate(world: World) -> World:
    """An upstream client whose connection skips the gate."""
    real = world.upstream.dial

    def dial(request: CallRequest, **options: Any) -> Any:
        return real(request, **options | {"before_send": lambda: None})

    world.upstream.dial = dial  # type: ignore[method-assign]
    return world


@pytest.mark.parametrize(
    "answer",
    [[record(JOB, person="P-1")], OutcomeUnknown("answered past the gate", records=[record(JOB, person="P-1")])],
    ids=["returned", "with the error"],
)
def test_answer_without_sending_is_an_unknown_outcome_and_its_calls_are_watched(
    without_gate: World, answer: Any
) -> None:
    """S18: never sent again, and not discarded."""
    world = without_gate
    world.upstream.dials = [answer]
    world.upstream.life = lambda _job, _age: "Executing"
    assert world.trigger()["outcome"] == "unknown"
    assert [(call.job_id, call.person_id) for call in world.store.calls()] == [(JOB, "P-1")]
    assert phase(world) == "unknown"
    world.sweeping = 5
    world.run(60)
    assert world.trigger()["outcome"] == "unknown"
    assert len(world.upstream.requests) == 1


@pytest.mark.parametrize("taken_over", [False, True])
def test_lost_answer_without_sending_is_not_sent_again(without_gate: World, taken_over: bool) -> None:
    """S18: an hour of sweeps and one ring, also if the sweep had published the trigger again by then."""
    world = without_gate

    def lose(_request: CallRequest) -> NoReturn:
        if taken_over:
            world.clock.sleep(120)
            world.sweep()
        raise LOST

    world.upstream.dials = [lose]
    world.upstream.log_entries = [entry(JOB)]
    world.upstream.life = lambda _job, _age: "Executing"
    assert world.trigger()["outcome"] == "unknown"
    assert phase(world) == "unknown"
    world.sweeping = 30
    world.run(3_600)
    assert len(world.upstream.requests) == 1
    assert [call.job_id for call in world.store.calls()] == [JOB], "created after the claim, so adopted"


def test_claim_is_published_again_five_times_and_then_fails(world: World) -> None:
    """S18: its message crashes every worker before the request."""
    killed(world, sending=False)
    world.sweeping = 10
    copies = 0
    for _ in range(360):
        world.run(10)
        while world.queue.pop(world.clock.monotonic() + START):
            copies += 1
            token = f"t-{copies}"
            world.store.claim(PAIR, token=token, task_id="task-1", arguments="{}", expires=None, enabled=True)
    assert copies == 5
    assert phase(world) == "done"
    assert world.events() == ["dial_failed"]
    assert world.trigger()["outcome"] == "failed"
    assert world.upstream.requests == []


def test_slow_attempts_keep_their_claim_and_end_as_failed(world: World) -> None:
    """S18 S12: 7 s per connection attempt, with sweeps meanwhile; one flow, one result, no late call."""
    attempts: list[float] = []

    def connect() -> None:
        attempts.append(world.clock.monotonic())
        for _ in range(7):
            world.clock.sleep(1)
            world.sweep()

    world.upstream.before_connect = connect
    world.upstream.dials = [NotSent("POST /call-v2: ConnectTimeout")]
    assert world.trigger()["outcome"] == "failed"
    assert len(attempts) == 4
    ends = [began + (within or 0) for began, within in zip(attempts, world.upstream.withins, strict=True)]
    assert ends == [pytest.approx(28)] * 4, "all attempts together, well within the 30 s of a claim"
    assert len(world.queue) == 0, "no sweep treated the claim as abandoned"
    assert phase(world) == "done"


def test_dial_stops_after_losing_its_claim_between_attempts(world: World) -> None:
    """S18: it makes no further connection, because another owner is working."""

    attempts: list[float] = []

    def connect() -> None:
        attempts.append(world.clock.monotonic())
        world.clock.sleep(20)
        world.redis.hset(world.keys.ledger(PAIR), "claimed_at", START - 31)
        world.redis.zadd(world.keys.pairs, {"C-1:20": START})
        world.sweep()

    world.upstream.before_connect = connect
    world.upstream.dials = [NotSent("POST /call-v2: ConnectTimeout"), [record(JOB)]]
    flow = world.parts.trigger_flow()
    assert flow({"case_id": "C-1", "mediation_id": "20"}, task_id="task-1") is None
    assert len(attempts) == 1
    assert world.upstream.requests == []


def test_unavailable_store_between_attempts_costs_an_attempt(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """S12: no request was sent, so the dial may retry."""
    real, failures = RedisStore.renew, [StoreUnavailable("restarting")]

    def renew(store: RedisStore, pair: Pair, token: str) -> bool:
        if failures:
            raise failures.pop()
        return real(store, pair, token)

    monkeypatch.setattr(RedisStore, "renew", renew)
    world.upstream.dials = [[record(JOB)]]
    assert world.trigger()["outcome"] == "started"
    assert world.clock.slept[0] == 0.5


def test_settling_an_unknown_outcome_twice_changes_nothing(world: World) -> None:
    """S14: the reply was lost during the look-ups; found calls stay, and no second window begins."""
    killed(world, sending=True)
    world.upstream.log_entries = [entry(JOB)]
    world.upstream.life = lambda _job, _age: "Succeeded"
    flow = world.parts.trigger_flow()
    claim = Claim(TriggerRequest(case_id="C-1", mediation_id="20"), PAIR, "t", "task-1", None)
    lost = not_called("unknown", PAIR, texts.OUTCOME_UNKNOWN, "unknown", "timeout")
    assert flow._settle(claim, lost, START)
    world.sweeping = 5
    world.run(100)
    assert world.events() == ["unknown", "adopted", "ended"]
    assert flow._settle(claim, lost, START)
    world.run(60)
    assert world.events() == ["unknown", "adopted", "ended"]
    assert phase(world) == "done"
    assert world.store.counters()["triggers:unknown"] == 1


def test_claim_lost_while_connecting_sends_nothing(world: World) -> None:
    """S18: the script that writes `sending` compares the token."""

    def connect() -> None:
        world.redis.hset(world.keys.ledger(PAIR), "token", "another")

    world.upstream.before_connect = connect
    world.upstream.dials = [[record(JOB)]]
    assert world.trigger() is None
    assert world.upstream.requests == []

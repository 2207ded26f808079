"""Test the calls found after a lost answer: each possible pair is held until an answer names the owner."""

from typing import Any

import pytest

from api_client import OutcomeUnknown, Rejected, Unavailable
from tests.eager.scenes import entry
from tests.fakes import START, job_id, record
from tests.world import World
from worker.core import texts
from worker.core.dial_result import not_called, read_answer
from worker.core.interfaces import StoreUnavailable
from worker.core.model import Call, Pair
from worker.core.trigger_model import Settled, Settlement
from worker.store import RedisStore

LOST = OutcomeUnknown("POST /call-v2: ReadTimeout")
FIRST, SECOND = job_id(1, at=START + 1), job_id(2, at=START + 31)
A, B = "20", "21"  # mediations of one case


def requests(world: World, mediation_id: str) -> int:
    return world.upstream.calls_per_pair()["C-1", mediation_id]


def outcome(world: World, mediation_id: str, task_id: str) -> str:
    return str(world.trigger("C-1", mediation_id, task_id=task_id)["outcome"])


def lose_both(world: World) -> None:
    """Lose both mediations' answers, the second one's half a minute later; their calls continue for hours."""
    world.upstream.dials = [LOST]
    world.upstream.life = lambda _job, _age: "Scheduling"
    world.sweeping = 5
    assert outcome(world, A, "a-1") == "unknown"


def test_call_taken_by_one_look_up_still_holds_the_other_pair_after_an_outage(world: World) -> None:
    """S5, S14: no look-up was answered and a person released both pairs; each queries again before a call."""
    lose_both(world)
    world.upstream.log_entries = Unavailable("down")
    world.run(30)
    assert outcome(world, B, "b-1") == "unknown"
    world.run(800)
    for mediation_id in (A, B):
        assert world.store.release(Pair("C-1", mediation_id), by="me", why="a test") == "released"
    world.upstream.log_entries = [entry(SECOND, "Scheduling"), entry(FIRST, "Scheduling")]
    assert outcome(world, B, "b-2") == "skipped"
    result = world.trigger("C-1", A, task_id="a-2")
    assert (result["outcome"], sorted(job["job_id"] for job in result["jobs"])) == ("skipped", [FIRST, SECOND])
    assert (requests(world, A), requests(world, B)) == (1, 1)
    world.upstream.life = lambda _job, _age: "Succeeded"
    world.run(20)
    assert world.store.calls() == []
    assert not world.redis.exists(world.keys.lock(Pair("C-1", A)), world.keys.lock(Pair("C-1", B)))


def test_look_up_shares_a_call_found_for_another_pair(world: World) -> None:
    """S14: the first mediation's new trigger adopts the second's call before the second's own look-up finds it."""
    world.upstream.dials = [[record(FIRST)]]
    world.upstream.life = lambda _job, age: Unavailable("down") if age < 600 else "Scheduling"
    world.sweeping = 5
    assert outcome(world, A, "a-1") == "started"
    world.run(601)
    assert world.events()[-1] == "lost"
    world.upstream.life = lambda job, _age: "Failed" if job == FIRST else "Scheduling"
    world.upstream.dials = [LOST]
    assert outcome(world, B, "b-1") == "unknown"
    late = job_id(3, at=START + 602)
    world.upstream.log_entries = [entry(late, "Scheduling")]
    assert outcome(world, A, "a-2") == "skipped"
    world.run(800)
    (call,) = world.store.calls()
    assert call.holds(Pair("C-1", B))
    assert "nothing_found" not in world.events()
    assert outcome(world, B, "b-2") == "skipped"
    assert (requests(world, A), requests(world, B)) == (1, 1)


@pytest.mark.parametrize("released", [A, B])
def test_released_pair_is_held_by_a_call_that_appears_later(world: World, released: str) -> None:
    """S5, S14: released before the calls appeared; the other pair's look-up or query finds all of them."""
    lose_both(world)
    world.run(30)
    assert outcome(world, B, "b-1") == "unknown"
    assert world.store.release(Pair("C-1", released), by="me", why="no telephone rang") == "released"
    world.upstream.log_entries = [entry(SECOND, "Scheduling"), entry(FIRST, "Scheduling")]
    world.run(60)
    assert outcome(world, released, "again") == "skipped"
    world.run(800)
    assert outcome(world, A, "a-3") == outcome(world, B, "b-3") == "skipped"
    assert (requests(world, A), requests(world, B)) == (1, 1)


def test_call_recorded_before_the_request_does_not_end_its_look_up(world: World) -> None:
    """S14: by its time it may belong to the pair, and it holds the pair; the pair's own call may still appear."""
    world.upstream.dials = [LOST]
    world.upstream.life = lambda _job, age: "Scheduling" if age < 60 else "Succeeded"
    world.upstream.log_entries = [entry(FIRST)]
    world.sweeping = 5
    assert outcome(world, A, "a-1") == "unknown"
    world.run(25)
    assert [call.job_id for call in world.store.calls()] == [FIRST]
    assert outcome(world, B, "b-1") == "unknown"
    world.run(10)
    (call,) = world.store.calls()
    assert call.holds(Pair("C-1", B))
    world.run(300)
    assert world.store.calls() == []
    assert world.events()[-1] == "nothing_found"
    assert world.redis.exists(world.keys.lock(Pair("C-1", B)))


def test_lost_watch_of_a_shared_call_holds_both_pairs(world: World) -> None:
    """S5: found for one pair, lost, and still active: the other pair's new trigger watches it again for both."""
    lose_both(world)
    world.run(30)
    world.upstream.log_entries = [entry(FIRST, "Scheduling")]
    world.run(20)
    world.upstream.log_entries = Unavailable("down")
    assert outcome(world, B, "b-1") == "unknown"
    world.upstream.life = lambda _job, _age: Unavailable("down")
    world.run(900)
    assert world.store.calls() == []
    assert world.store.release(Pair("C-1", B), by="me", why="a test") == "released"
    world.upstream.life = lambda _job, _age: "Scheduling"
    world.upstream.log_entries = []
    assert outcome(world, B, "b-2") == "skipped"
    (call,) = world.store.calls()
    assert (call.holds(Pair("C-1", A)), call.holds(Pair("C-1", B))) == (True, True)
    assert outcome(world, A, "a-2") == "skipped"
    assert (requests(world, A), requests(world, B)) == (1, 1)


def test_late_and_lost_call_keeps_the_time_of_the_first_failure(world: World) -> None:
    """S5: the lost request's second call appears only after its first one's watch was lost."""
    lose_both(world)
    world.upstream.log_entries = Unavailable("down")
    world.run(900)
    world.upstream.log_entries = [entry(FIRST)]
    world.upstream.life = lambda _job, age: Unavailable("down") if age < 1_500 else "Failed"
    assert outcome(world, A, "a-2") == "skipped"
    world.run(700)
    assert world.events()[-1] == "lost"
    world.upstream.log_entries = [entry(SECOND, "Scheduling"), entry(FIRST, "Failed")]
    world.upstream.life = lambda job, _age: "Failed" if job == FIRST else "Scheduling"
    assert outcome(world, A, "a-3") == "skipped"
    assert requests(world, A) == 1


def test_slow_query_keeps_its_claim(world: World) -> None:
    """S5, S18: four lost calls, nine seconds per answer; sweeps continue meanwhile."""
    jobs = [job_id(number, at=START + number) for number in range(1, 5)]
    world.upstream.dials = [[record(job, person=f"P-{job[-4:]}") for job in jobs]]
    world.upstream.life = lambda _job, age: Unavailable("down") if age < 600 else "Failed"
    world.sweeping = 5
    assert outcome(world, A, "a-1") == "started"
    world.run(601)
    assert world.store.calls() == []

    def slow(_job: str, _age: float) -> str:
        for _ in range(3):
            world.clock.sleep(3)
            world.sweep()
        return "Failed"

    world.upstream.life = slow
    assert outcome(world, A, "a-2") == "started"
    assert len(world.upstream.requests) == 2


def test_query_that_takes_too_long_makes_no_call(world: World) -> None:
    """S5: the query is unanswered; the pair is free, and the back end is notified."""
    jobs = [job_id(number, at=START + number) for number in range(1, 5)]
    world.upstream.dials = [[record(job, person=f"P-{job[-4:]}") for job in jobs]]
    world.upstream.life = lambda _job, _age: Unavailable("down")
    world.sweeping = 5
    assert outcome(world, A, "a-1") == "started"
    world.run(601)
    world.upstream.life = lambda _job, _age: "Failed"
    world.upstream.slow = 25
    assert outcome(world, A, "a-2") == "failed"
    assert world.events()[-1] == "dial_failed"
    assert len(world.upstream.requests) == 1
    assert [one.phase for one in world.store.pairs(finished=True)] == ["done"]


def test_trigger_that_lost_its_claim_during_a_query_returns_no_result(world: World) -> None:
    """S17, S18: stopped for longer than its claim; the duplicate delivery with the claim answers."""
    world.upstream.dials = [[record(FIRST), record(SECOND, person="P-2")]]
    world.upstream.life = lambda _job, _age: Unavailable("down")
    world.sweeping = 5
    assert outcome(world, A, "a-1") == "started"
    world.run(601)
    asked = len(world.upstream.queries)

    def stopped(_job: str, _age: float) -> str:
        world.upstream.life = lambda _job, _age: "Failed"
        world.clock.sleep(31)
        world.sweep()
        assert world.trigger("C-1", A, task_id="a-2")["outcome"] == "started"
        return "Failed"

    world.upstream.log_entries = []
    world.upstream.life = stopped
    assert world.trigger("C-1", A, task_id="a-2") is None
    assert len(world.upstream.requests) == 2
    assert len(world.upstream.queries) == asked + 1 + 2, "it does not query the second call"


def test_call_that_appears_between_claim_and_request_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """S4: an earlier owner's late answer; the trigger makes no request and its result names the watched call."""
    pair = Pair("C-1", A)

    def late() -> None:
        end = read_answer([record(FIRST)], pair, interval=10)
        world.store.settle(Settlement(pair, "old", "task-0", end.result, "watching", START, end.jobs, end.events))

    real, failures = RedisStore.calls, [StoreUnavailable("restarting")]

    def calls(store: RedisStore, **asked: Any) -> list[Call]:
        if failures:
            raise failures.pop()
        return real(store, **asked)

    monkeypatch.setattr(RedisStore, "calls", calls)
    world.upstream.before_connect = late
    world.upstream.dials = [[record(SECOND)]]
    result = world.trigger("C-1", A)
    assert (result["outcome"], [job["job_id"] for job in result["jobs"]]) == ("skipped", [FIRST])
    assert world.upstream.requests == []


# a script whose reply was lost is sent again -----------------------------------------------------------------------


def lose_the_first_reply(world: World, monkeypatch: pytest.MonkeyPatch, *, meanwhile: Any = lambda: None) -> None:
    """The settling script runs, and its first reply is lost."""
    real, replies = RedisStore.settle, []

    def settle(store: RedisStore, settlement: Settlement) -> Settled | None:
        replies.append(real(store, settlement))
        if len(replies) == 1:
            meanwhile()
            raise StoreUnavailable("connection lost")
        return replies[-1]

    monkeypatch.setattr(type(world.store), "settle", settle)


@pytest.mark.parametrize(
    ("dial", "kind"),
    [([record(FIRST)], "started"), (Rejected("HTTP 400"), "dial_failed"), (LOST, "unknown")],
    ids=["started", "failed", "unknown"],
)
def test_settlement_sent_twice_is_published_once(
    world: World, monkeypatch: pytest.MonkeyPatch, dial: Any, kind: str
) -> None:
    """S35: one event, so one notice."""
    world.upstream.dials = [dial]
    lose_the_first_reply(world, monkeypatch)
    assert world.trigger()["outcome"] in {"started", "failed", "unknown"}
    assert world.events() == [kind]


def test_settlement_sent_twice_is_watched_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """S20: its first polls keep the due times of the first run."""
    world.upstream.dials = [[record(FIRST)]]
    lose_the_first_reply(world, monkeypatch)
    assert world.trigger()["outcome"] == "started"
    assert world.redis.zrange("t:due", 0, -1) == [FIRST]
    world.run(20)
    assert world.events() == ["started", "ended"]


def test_settling_trigger_gets_its_result_under_another_owner(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def claim() -> None:
        world.store.claim(Pair("C-1", "20"), token="x", task_id="y", arguments="{}", expires=None, enabled=True)

    world.upstream.dials = [Rejected("HTTP 400")]
    lose_the_first_reply(world, monkeypatch, meanwhile=claim)
    assert world.trigger()["outcome"] == "failed"
    assert world.store.counters()["triggers:failed"] == 1


def test_late_answer_after_the_end_opens_no_look_up(world: World) -> None:
    """S14: its sender was stopped; its call was adopted, watched and has ended meanwhile."""
    pair, store = Pair("C-1", "20"), world.store
    store.claim(pair, token="tok", task_id="task-1", arguments="{}", expires=None, enabled=True)
    world.upstream.log_entries = [entry(FIRST)]
    world.upstream.life = lambda _job, age: "Succeeded" if age > 150 else "Executing"
    world.sweeping = 5
    sent_at = store.begin_sending(pair, "tok")
    assert isinstance(sent_at, float)
    world.run(400)
    before = world.events()
    assert before == ["unknown", "adopted", "ended"]
    end = not_called("unknown", pair, texts.OUTCOME_UNKNOWN, "unknown", "timeout")
    assert store.settle(Settlement(pair, "tok", "task-1", end.result, "unknown", sent_at, (), end.events))
    world.run(100)
    assert world.events() == before
    assert [one.phase for one in store.pairs(finished=True)] == ["done"]

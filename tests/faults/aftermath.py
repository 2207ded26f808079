"""What must hold when nothing goes wrong any more and everything has come to its end."""

from collections import Counter
from typing import TYPE_CHECKING

from tests.faults.invariants import ROUNDING, Request

if TYPE_CHECKING:
    from tests.faults.simulation import Machine

VERDICTS = ("ended", "expired", "lost")


def judge(machine: "Machine") -> None:
    """Look at all that is left; AssertionError where a rule is broken."""
    keys, redis = machine.keys, machine.redis
    names = {str(name) for name in redis.scan_iter("*", count=1_000)}
    left = [name for name in names if name.startswith((f"{keys.prefix}:lock:", f"{keys.prefix}:live:"))]
    assert not left, f"left behind: {left}"
    assert not names & {keys.due, keys.pairs}
    assert {state.phase for state in machine.store.pairs(finished=True)} <= {"done"}
    bounded = {keys.finished, keys.done, keys.events, keys.paused, keys.outage, keys.counters}
    lasting = [name for name in names - bounded if redis.pttl(name) < 0]
    assert not lasting, f"without a time to live: {lasting}"
    for task_id in machine.invariants.requests:
        assert redis.exists(keys.task(task_id)), f"{task_id} has no outcome"
    _judge_verdicts(machine)
    for request in machine.invariants.requests.values():
        _judge_surfacing(machine, request)


def _judge_verdicts(machine: "Machine") -> None:
    """One verdict a call, and one more for each time that it was watched again."""
    calls = machine.invariants.calls
    cases = {job.pair.case_id for job in machine.reality.jobs.values()}
    events = [event for case_id in cases for event in machine.store.history(case_id)]
    verdicts = Counter(event["job_id"] for event in events if event["kind"] in VERDICTS)
    assert verdicts.keys() <= calls.keys()
    for job_id, call in calls.items():
        assert call.verdict, f"{job_id} has no verdict"
        assert verdicts[job_id] == 1 + call.reopened, f"{job_id} has {verdicts[job_id]} verdicts"


def _judge_surfacing(machine: "Machine", request: Request) -> None:
    """A request whose outcome nobody knows was told of (S13, S35)."""
    told = [
        event
        for event in machine.store.history(request.pair.case_id)
        if event["kind"] == "unknown"
        and event["mediation_id"] == request.pair.mediation_id
        and event["at"] >= request.at - ROUNDING
    ]
    assert told or request.outcome not in ("", "unknown"), f"nobody was told that {request} is unknown"

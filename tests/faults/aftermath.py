"""Check the final state after all faults have ended and all work is done."""

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.faults.memory import DAY, ROUNDING, Request

if TYPE_CHECKING:
    from tests.faults.simulation import Machine

VERDICTS = ("ended", "expired", "lost")


def judge(machine: "Machine") -> None:
    """Check all remaining state; raise AssertionError where a rule is broken."""
    keys, redis, memory = machine.keys, machine.redis, machine.invariants.memory
    names = {str(name) for name in redis.scan_iter("*", count=1_000)}
    left = [name for name in names if name.startswith((f"{keys.prefix}:lock:", f"{keys.prefix}:live:"))]
    assert not left, f"unfinished: {left}"
    assert not names & {keys.due, keys.pairs, keys.outage}
    assert {state.phase for state in machine.store.pairs(finished=True)} <= {"done"}
    bounded = {keys.finished, keys.done, keys.events, keys.paused, keys.counters, keys.dialled, keys.audit}
    lasting = [name for name in names - bounded if redis.pttl(name) < 0]
    assert not lasting, f"without a time to live: {lasting}"
    for task_id, request in memory.requests.items():
        late = machine.now - max(request.at, request.settled_at) > DAY
        assert late or redis.exists(keys.task(task_id)), f"{task_id} has no outcome"
    entries: Any = redis.xrange(keys.events)
    events = [json.loads(entry["event"]) for _, entry in entries]
    _judge_verdicts(machine, events)
    for request in memory.requests.values():
        _judge_surfacing(events, request)


def _judge_verdicts(machine: "Machine", events: list[dict[str, Any]]) -> None:
    """Each call has one verdict, plus one for each time its watch was reopened."""
    calls = machine.invariants.memory.calls
    verdicts = Counter(event["job_id"] for event in events if event["kind"] in VERDICTS)
    assert verdicts.keys() <= calls.keys()
    for job_id, call in calls.items():
        assert call.verdict, f"{job_id} has no verdict"
        assert verdicts[job_id] == 1 + call.reopened, f"{job_id} has {verdicts[job_id]} verdicts"


def _judge_surfacing(events: list[dict[str, Any]], request: Request) -> None:
    """A request with an unknown outcome was published (S13, S35)."""
    published = [
        event
        for event in events
        if event["kind"] == "unknown"
        and (event["case_id"], event["mediation_id"]) == (request.pair.case_id, request.pair.mediation_id)
        and event["at"] >= request.at - ROUNDING
    ]
    assert published or request.outcome not in ("", "unknown"), f"the unknown outcome of {request} was not published"

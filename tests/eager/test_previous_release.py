"""Test that a new version continues with the records and messages of the previous release (S38)."""

import heapq
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import job_id, record
from tests.world import Delivery, World
from worker.core.model import Pair

RELEASES = sorted(Path(__file__).parent.glob("release_*.json"))


def put_back(world: World, left: dict[str, Any]) -> None:
    """Restore the clock, Redis and the queue of a release."""
    world.clock.move_to(left["written_at"])
    write: dict[str, Callable[[str, Any], object]] = {
        "string": world.redis.set,
        "hash": lambda name, value: world.redis.hset(name, mapping=value),
        "set": lambda name, value: world.redis.sadd(name, *value),
        "zset": world.redis.zadd,
        "list": lambda name, value: world.redis.rpush(name, *value),
        "stream": lambda name, value: [world.redis.xadd(name, entry) for entry in value],
    }
    for name, key in left["keys"].items():
        write[key["type"]](name, key["value"])
        if key["ttl_ms"] > 0:
            world.redis.pexpire(name, key["ttl_ms"])
    for number, message in enumerate(left["messages"]):
        at = left["written_at"] + message["in"]
        heapq.heappush(world.queue.heap, Delivery(at, number, message["task"], message["kwargs"], message["task_id"]))


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.stem)
def test_cases_of_the_previous_release_are_finished(world: World, release: Path) -> None:
    """S38 S18: watched calls, a dead sender and a dead claimer, an open look-up, handled tasks."""
    left = json.loads(release.read_text(encoding="utf-8"))
    put_back(world, left)
    world.sweeping = 5
    world.upstream.life = lambda _job, age: "Succeeded" if age > 100 else "Executing"
    world.upstream.dials = [[record(job_id(4))]]
    world.run(1_000)
    calls = world.store.calls(finished=True)
    assert {call.job_id: call.verdict for call in calls} == {job_id(number): "ended" for number in (1, 2, 4)}
    assert world.upstream.calls_per_pair() == {("C-4", "20"): 1}
    assert world.events("C-2") == world.events("C-3") == ["unknown", "nothing_found", "released"]
    assert {one.phase for one in world.store.pairs(finished=True)} == {"done"}
    for case_id, outcome in {"C-1": "started", "C-2": "unknown", "C-3": "unknown", "C-4": "started"}.items():
        assert world.trigger(case_id, "20", task_id=f"load:{case_id}:20")["outcome"] == outcome
    assert world.redis.exists(*(world.keys.lock(Pair(case_id, "20")) for case_id in ("C-1", "C-2", "C-3", "C-4"))) == 0

"""Find leaked keys: without a time to live, a bounded size, or an open pair or watched call (S18)."""

from typing import cast

import redis

from worker.core.notice import CHANNELS
from worker.store import Keys
from worker.store.keys import pair_of

BOUNDED = {
    "dialled",
    "due",
    "finished",
    "pairs",
    "done",
    "events",
    "paused",
    "primary",
    "audit",
    "outage",
    "dead",
    "counters",
    "notices",
    "dead_cases",
}
OPEN = {"ledger", "task", "live", "mediations", "jobs", "job"}
"""Keys that receive a time to live when the pair is done or the call has its verdict."""


def without_ttl(client: redis.Redis, keys: Keys) -> list[str]:
    """Return the keys without a time to live that are unbounded and belong to no open pair or watched call."""
    allowed = {str(getattr(keys, name)) for name in BOUNDED} | {keys.outbox(channel) for channel in CHANNELS}
    allowed |= {keys.outbox_cases(channel) for channel in CHANNELS}
    for pair in map(pair_of, cast("list[str]", client.zrange(keys.pairs, 0, -1))):
        allowed |= {keys.ledger(pair), keys.mediations(pair.case_id), keys.jobs(pair.case_id)}
        allowed |= {keys.job(job_id) for job_id in cast("set[str]", client.smembers(keys.jobs(pair.case_id)))}
        allowed.add(keys.task(str(client.hget(keys.ledger(pair), "task_id"))))
    watched = set(cast("list[str]", client.zrange(keys.due, 0, -1)))
    allowed |= {keys.job(job_id) for job_id in watched}
    names = {str(name) for name in client.scan_iter("*", count=1_000)}
    lives = {name for name in names if name.startswith(f"{keys.prefix}:live:")}
    allowed |= {name for name in lives if cast("set[str]", client.smembers(name)) <= watched}
    return [name for name in names - allowed if client.pttl(name) < 0]

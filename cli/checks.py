"""What `callwatch doctor` looks at: each function looks at one thing and says how it is. None changes anything."""

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import redis
from celery import Celery

from cli.ui.operator import stopped_by
from cli.ui.output import printable
from config.redaction import redact
from config.settings import Settings
from worker.runtime.celery_config import celery_config
from worker.store import RedisStore
from worker.store.connection import NOT_DURABLE

Status = Literal["ok", "warn", "FAIL"]

REPLIES_WITHIN = 1.5  # seconds in which workers have to answer
CLOCKS_APART = 5.0  # seconds
SWEEP_PAUSE, SWEEPS_MISSED = 15.0, 10  # seconds at the least, intervals: a longer pause is no sweep at all
NOTICE_WAITS = 60.0  # seconds for which a notice may wait: a receiver that is there takes it at once
LOST_AFTER = 60.0  # seconds past its due time: nobody carries that poll out
NAMED = 5  # pairs that a line names
OLDEST = (6, 2)  # the Redis version that the store needs


@dataclass(frozen=True, slots=True)
class Check:
    """How one thing is: `ok`, `warn` (works, and somebody should know) or `FAIL`, and what was seen."""

    check: str
    status: Status
    detail: str


# -- the server --------------------------------------------------------------------------------------------------------


def server(store: RedisStore, place: str) -> Check:
    """Say which server answers, and how fast."""
    store.now()  # connects, which is not what is timed
    begin = time.monotonic()
    store.now()
    latency = time.monotonic() - begin
    version = store.version()
    number = tuple(int(part) for part in version.rpartition(" ")[2].split(".")[:2] if part.isdigit())
    old = version.startswith("Redis ") and number and number < OLDEST
    detail = f"{version} at {place}, answers in {latency * 1000:.1f} ms"
    return Check("redis", "FAIL" if old else "ok", detail + (", should be 6.2 or newer" if old else ""))


def durability(store: RedisStore, *, demo: bool) -> Check:
    """Say whether `sending` is on disk before a telephone rings."""
    if store.durability != "none":
        how = {"waitaof": "each is waited for", "always": "the server writes through"}[store.durability]
        return Check("durability", "ok", f"writes are on disk before a request is sent: {how}")
    if demo:
        return Check("durability", "ok", f"{NOT_DURABLE}; a demonstration may do without")
    return Check("durability", "FAIL", NOT_DURABLE)


def eviction(store: RedisStore) -> Check:
    """Say whether the server would drop keys of ours, locks among them, when its memory is full."""
    told = store.eviction()
    if told is None:
        return Check("eviction", "warn", "the server does not tell its maxmemory-policy, should be noeviction")
    if told.policy == "noeviction":
        return Check("eviction", "ok", "maxmemory-policy noeviction")
    status: Status = "FAIL" if told.maxmemory else "warn"
    return Check("eviction", status, f"maxmemory-policy {told.policy} would drop locks, should be noeviction")


def clock(store: RedisStore) -> Check:
    """Say how far this machine's clock is from the server's, by which all records and deadlines go."""
    begin = time.time()
    there = store.now()
    here = (begin + time.time()) / 2
    apart = abs(here - there)
    detail = f"this machine and Redis are {apart:.1f} s apart"
    if apart <= CLOCKS_APART:
        return Check("clock", "ok", detail)
    return Check("clock", "warn", f"{detail}: a trigger's expires is off by that; polls and deadlines go by Redis")


# -- the state ---------------------------------------------------------------------------------------------------------


def sweep(store: RedisStore, settings: Settings) -> Check:
    """Say who sweeps (S28)."""
    last = store.last_sweep()
    if last is None:
        return Check("sweep", "FAIL", "nobody has swept within a day: abandoned claims stay as they are")
    age = store.now() - last.at
    detail = f"{printable(last.owner)} swept {age:.1f} s ago"
    limit = max(SWEEPS_MISSED * settings.sweep_interval, SWEEP_PAUSE)
    return Check("sweep", "ok", detail) if age <= limit else Check("sweep", "FAIL", f"{detail}, and nobody since")


def overdue(store: RedisStore, settings: Settings) -> Check:
    """Say how late polls are. One under way counts as late until it is answered, or its time-out is over."""
    limit = settings.overdue_grace + max(settings.poll_interval, settings.status_timeout)
    late = store.count_calls(limit=limit)
    if late.longest <= limit:
        return Check("overdue polls", "ok", f"none by more than {limit:g} s")
    lost = late.longest > max(LOST_AFTER, 2 * limit)
    return Check("overdue polls", "FAIL" if lost else "warn", f"{late.beyond}, the oldest by {late.longest:.0f} s")


def outage(store: RedisStore) -> Check:
    """Say whether upstream answers no query (S29)."""
    since = store.outage_since()
    if since is None:
        return Check("outage", "ok", "none: status queries are answered")
    moment = datetime.fromtimestamp(since).astimezone()
    return Check("outage", "warn", f"upstream answers no status query since {moment:%Y-%m-%d %H:%M:%S}")


def new_calls(store: RedisStore, settings: Settings) -> Check:
    """Say whether new calls are stopped (S16)."""
    stop = store.paused()
    if stop is not None:
        return Check("new calls", "warn", f"stopped by `callwatch pause`{stopped_by(stop)}")
    if not settings.enabled:
        return Check("new calls", "warn", "stopped by CALLWATCH_ENABLED=false")
    return Check("new calls", "ok", "allowed")


def calls(store: RedisStore) -> Check:
    """Say how many calls are being watched."""
    return Check("calls", "ok", f"{store.number_of_calls()} being watched")


def unknown(store: RedisStore) -> Check:
    """Say which pairs are held by an unknown outcome (S14)."""
    pairs = [state.pair for state in store.pairs() if state.phase == "unknown"]
    if not pairs:
        return Check("unknown outcomes", "ok", "none")
    names = ", ".join(f"{pair.case_id} {pair.mediation_id}" for pair in pairs[:NAMED])
    more = f" and {len(pairs) - NAMED} more" if len(pairs) > NAMED else ""
    way = "each lets go by itself, or by `callwatch release CASE_ID MEDIATION_ID --why TEXT`"
    return Check("unknown outcomes", "warn", f"{len(pairs)} ({printable(names)}{more}): {way}")


def notices(store: RedisStore) -> Check:
    """Say whether back ends take what they have to be told, and whether any of it was given up."""
    channels, dead, now = store.notices(), store.number_of_dead_letters(), store.now()
    parts = [f"{one.waiting} wait for the {one.channel}" for one in channels]
    oldest = max((now - one.oldest_at for one in channels if one.oldest_at is not None), default=0)
    late = oldest > NOTICE_WAITS
    if late:
        parts.append(f"the oldest for {oldest:.0f} s: the workers' logs say why")
    if dead:
        parts.append(f"dead letters: {dead}, see `callwatch notices --dead`")
    return Check("notices", "warn" if late or dead else "ok", ", ".join(parts) or "nobody is told")


# -- broker and workers ------------------------------------------------------------------------------------------------


def queues(client: redis.Redis, names: tuple[str, ...]) -> Check:
    """Say how many messages wait for a worker."""
    return Check("queues", "ok", ", ".join(f"{name} {client.llen(name)}" for name in names))


def workers(consumed: dict[str, list[str]], names: tuple[str, ...]) -> Check:
    """Say which workers answered and what they consume; `consumed` names the queues of each."""
    if not consumed:
        return Check("workers", "FAIL", f"none answered within {REPLIES_WITHIN:g} s")
    served: defaultdict[str, int] = defaultdict(int)
    for queue in (queue for of_one in consumed.values() for queue in of_one):
        served[queue] += 1
    detail = "; ".join(f"{host}: {', '.join(of_one) or 'no queue'}" for host, of_one in sorted(consumed.items()))
    missing = [name for name in names if not served[name]]
    if missing:
        return Check("workers", "FAIL", f"nobody consumes {', '.join(missing)} ({printable(detail)})")
    return Check("workers", "ok", printable(detail))


def ask_workers(settings: Settings) -> dict[str, list[str]]:
    """Return the queues that each worker consumes, of those that answer in time."""
    with Celery("callwatch doctor", set_as_current=False) as app:
        app.conf.update(celery_config(settings))
        replies = app.control.inspect(timeout=REPLIES_WITHIN).active_queues() or {}
    return {host: [str(queue["name"]) for queue in of_one] for host, of_one in replies.items()}


def state(store: RedisStore, settings: Settings) -> Iterator[Check]:
    """Look at all that the store's server tells."""
    place = redact(settings.redis_url)
    yield server(store, place)
    yield durability(store, demo=settings.demo)
    yield eviction(store)
    yield clock(store)
    yield sweep(store, settings)
    yield overdue(store, settings)
    yield outage(store)
    yield new_calls(store, settings)
    yield calls(store)
    yield unknown(store)
    yield notices(store)

"""The checks of `callwatch doctor`: each function checks one part and returns its status. No check changes anything."""

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

import redis
from celery import Celery

from api_client import MEANINGS, Reason
from cli.ui.formatting import moment
from cli.ui.operator import stopped_by
from cli.ui.output import printable
from config.redaction import redact
from config.settings import Settings
from worker.runtime.celery_config import celery_config
from worker.runtime.malformed import MALFORMED_QUEUE
from worker.store import RedisStore
from worker.store.failures import FailureKind

Status = Literal["ok", "warn", "FAIL"]

REPLIES_WITHIN = 1.5  # seconds for the workers to answer
CLOCKS_APART = 5.0  # seconds of difference between two clocks that are acceptable
SWEEP_PAUSE = 15.0  # seconds, and
SWEEPS_MISSED = 10  # intervals of the sweep: after the longer of the two the sweep counts as stopped
NOTICE_WAITS = 60.0  # seconds; a receiver that works takes a notice at once
LOST_AFTER = 60.0  # seconds after its due time: no worker executes that poll
REFUSED_TOKEN = {
    f"http_{status}": f"upstream answers {status}: it refuses the token CALLWATCH_API_TOKEN" for status in (401, 403)
}
NAMED = 5  # most pairs that one line names
OLDEST = (6, 2)  # the Redis version that the store needs


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: `ok`, `warn` (works, but needs attention) or `FAIL`, with details."""

    check: str
    status: Status
    detail: str


# -- the server --------------------------------------------------------------------------------------------------------


def server(store: RedisStore, address: str) -> Check:
    """Report the version and the latency of the server."""
    store.now()  # connects: the time to connect is not part of the latency
    begin = time.monotonic()
    store.now()
    latency = time.monotonic() - begin
    version = store.version()
    number = tuple(int(part) for part in version.rpartition(" ")[2].split(".")[:2] if part.isdigit())
    old = version.startswith("Redis ") and number and number < OLDEST
    detail = f"{version} at {address}, answers in {latency * 1000:.1f} ms"
    wrong = f", should be {OLDEST[0]}.{OLDEST[1]} or newer" if old else ""
    return Check("redis", "FAIL" if old else "ok", detail + wrong)


def durability(store: RedisStore, *, demo: bool) -> Check:
    """Check that the phase `sending` is on disk before a request is sent."""
    fault = store.durability_fault()
    if fault is None:
        how = "each is waited for" if store.durability == "waitaof" else "the server writes through"
        return Check("durability", "ok", f"writes are on disk before a request is sent: {how}")
    if demo:
        return Check("durability", "ok", f"{fault}; a demonstration may do without")
    return Check("durability", "FAIL", fault)


def replicas(store: RedisStore, wanted: int) -> Check:
    """Check that as many replicas are connected as a request must reach before it leaves (S41)."""
    found = store.replicas()
    setting = f"CALLWATCH_REPLICAS is {wanted}"
    if found is None:
        return Check("replicas", "warn" if wanted else "ok", f"the server hides its replicas, {setting}")
    if not found.is_primary:
        fault = "this server is a replica and takes no writes, the address should follow the primary"
        return Check("replicas", "FAIL", fault)
    detail = f"{len(found)} connected"
    if len(found):
        detail += f", at most {max(found.bytes_behind)} bytes behind, the oldest report {max(found.reported)} s ago"
    if len(found) < wanted:
        return Check("replicas", "FAIL", f"{detail}, but {setting}: no call is placed until they are connected")
    if wanted and store.durability != "waitaof":
        return Check("replicas", "warn", f"{detail}, {setting}: they confirm their memory, not their disks")
    if len(found) > wanted:
        why = "a failover to one that lags forgets a request, and its telephone may ring twice"
        return Check("replicas", "warn", f"{detail}, but {setting}: {why}")
    return Check("replicas", "ok", f"{detail}, {setting}")


def eviction(store: RedisStore) -> Check:
    """Check that the server evicts no keys, locks among them, when its memory is full."""
    found = store.eviction()
    if found is None:
        return Check("eviction", "warn", "the server hides its maxmemory-policy, should be noeviction")
    if found.policy == "noeviction":
        return Check("eviction", "ok", "maxmemory-policy noeviction")
    status: Status = "FAIL" if found.maxmemory else "warn"
    return Check("eviction", status, f"maxmemory-policy {found.policy} would drop locks, should be noeviction")


def clock(store: RedisStore) -> Check:
    """Compare the clock of this machine with the one of Redis, which all records and deadlines use."""
    begin = time.time()
    there = store.now()
    here = (begin + time.time()) / 2
    apart = abs(here - there)
    detail = f"this machine and Redis are {apart:.1f} s apart"
    if apart <= CLOCKS_APART:
        return Check("clock", "ok", detail)
    wrong = "the expiry of a trigger is wrong by that; polls and deadlines use the clock of Redis"
    return Check("clock", "warn", f"{detail}: {wrong}")


# -- the state ---------------------------------------------------------------------------------------------------------


def sweep(store: RedisStore, settings: Settings) -> Check:
    """Check that a worker sweeps (S28)."""
    last = store.last_sweep()
    if last is None:
        return Check("sweep", "FAIL", "no sweep within a day: abandoned claims stay as they are")
    age = store.now() - last.at
    detail = f"{printable(last.owner)} swept {age:.1f} s ago"
    limit = max(SWEEPS_MISSED * settings.sweep_interval, SWEEP_PAUSE)
    return Check("sweep", "ok", detail) if age <= limit else Check("sweep", "FAIL", f"{detail}, and no sweep since")


def overdue(store: RedisStore, settings: Settings) -> Check:
    """Check how late polls are. A running poll counts as late until its answer or its time-out."""
    limit = settings.overdue_grace + max(settings.poll_interval, settings.status_timeout)
    late = store.count_calls(limit=limit)
    if late.longest <= limit:
        return Check("overdue polls", "ok", f"none by more than {limit:g} s")
    lost = late.longest > max(LOST_AFTER, 2 * limit)
    return Check("overdue polls", "FAIL" if lost else "warn", f"{late.beyond}, the oldest by {late.longest:.0f} s")


def outage(store: RedisStore) -> Check:
    """Check that upstream answers status queries (S29)."""
    since = store.outage_since()
    if since is None:
        return Check("outage", "ok", "none has begun")
    return Check("outage", "warn", f"upstream answers no status query since {moment(since)}")


def requests(store: RedisStore, kind: FailureKind) -> Check:
    """Report the latest failed queries or dials; with few calls they are the only sign of a failing upstream (S29)."""
    name = {"query": "status queries", "dial": "call requests"}[kind]
    found = store.failures(kind)
    if found is None:
        return Check(name, "ok", "none has failed within a day")
    first = "" if found.number == 1 else f"{moment(found.since)} to "
    detail = f"{found.number} failed, {first}{moment(found.at)}"
    last = REFUSED_TOKEN.get(found.reason) or _meaning(found.reason)
    detail += f", the last: {last}" if found.number > 1 else f": {last}"
    if found.answered_at is not None and found.answered_at >= found.at:
        return Check(name, "ok", f"{detail}; answered since")
    return Check(name, "FAIL" if found.reason in REFUSED_TOKEN else "warn", f"{detail}; not answered since")


def _meaning(reason: str) -> str:
    meaning = MEANINGS.get(cast("Reason", reason))
    return f"{reason}: {meaning.rstrip('.')}" if meaning else reason or "without a reason"


def new_calls(store: RedisStore, settings: Settings) -> Check:
    """Check that new calls are allowed (S16)."""
    stop = store.paused()
    if stop is not None:
        return Check("new calls", "warn", f"stopped by `callwatch pause`{stopped_by(stop)}")
    if not settings.enabled:
        return Check("new calls", "warn", "stopped by CALLWATCH_ENABLED=false")
    return Check("new calls", "ok", "allowed")


def calls(store: RedisStore) -> Check:
    """Report the number of watched calls."""
    return Check("calls", "ok", f"{store.number_of_calls()} being watched")


def unknown(store: RedisStore) -> Check:
    """Report the pairs with an unknown outcome (S14)."""
    pairs = [state.pair for state in store.pairs() if state.phase == "unknown"]
    if not pairs:
        return Check("unknown outcomes", "ok", "none")
    names = ", ".join(f"{pair.case_id} {pair.mediation_id}" for pair in pairs[:NAMED])
    more = f" and {len(pairs) - NAMED} more" if len(pairs) > NAMED else ""
    way = (
        "`callwatch status` shows until when each is held; an earlier end is `callwatch release CASE_ID MEDIATION_ID"
        " --why TEXT`, only if upstream or the parties confirm that no phone will ring"
    )
    return Check("unknown outcomes", "warn", f"{len(pairs)} ({printable(names)}{more}): {way}")


def notices(store: RedisStore) -> Check:
    """Check that back ends take their notices, and that there are no dead letters."""
    channels, dead, now = store.notices(), store.number_of_dead_letters(), store.now()
    parts = [f"{one.waiting} wait for the {one.channel}" for one in channels]
    oldest = max((now - one.oldest_at for one in channels if one.oldest_at is not None), default=0)
    late = oldest > NOTICE_WAITS
    if late:
        parts.append(f"the oldest for {oldest:.0f} s: the workers' logs say why")
    if dead:
        parts.append(f"dead letters: {dead}, see `callwatch notices --dead`")
    return Check("notices", "warn" if late or dead else "ok", ", ".join(parts) or "no channel is set")


# -- broker and workers ------------------------------------------------------------------------------------------------


def queues(client: redis.Redis, names: tuple[str, ...]) -> Check:
    """Report the number of messages in each queue."""
    return Check("queues", "ok", ", ".join(f"{name} {client.llen(name)}" for name in names))


def malformed(client: redis.Redis) -> Check:
    """Check that no message of a back end was quarantined within a day (S38)."""
    number = int(str(client.llen(MALFORMED_QUEUE)))
    if not number:
        return Check("malformed messages", "ok", "none")
    return Check("malformed messages", "warn", f"{number} quarantined, `callwatch malformed` names the wrong fields")


def workers(consumed: dict[str, list[str]], names: tuple[str, ...]) -> Check:
    """Check that each queue has a worker; `consumed` gives the queues of each worker that answered."""
    if not consumed:
        return Check("workers", "FAIL", f"none answered within {REPLIES_WITHIN:g} s")
    served: defaultdict[str, int] = defaultdict(int)
    for queue in (queue for of_one in consumed.values() for queue in of_one):
        served[queue] += 1
    detail = "; ".join(f"{host}: {', '.join(of_one) or 'no queue'}" for host, of_one in sorted(consumed.items()))
    missing = [name for name in names if not served[name]]
    if missing:
        return Check("workers", "FAIL", f"no worker consumes {', '.join(missing)} ({printable(detail)})")
    return Check("workers", "ok", printable(detail))


def ask_workers(settings: Settings) -> dict[str, list[str]]:
    """Return the queues of each worker that answers in time."""
    with Celery("callwatch doctor", set_as_current=False) as app:
        app.conf.update(celery_config(settings))
        replies = app.control.inspect(timeout=REPLIES_WITHIN).active_queues() or {}
    return {host: [str(queue["name"]) for queue in of_one] for host, of_one in replies.items()}


def state(store: RedisStore, settings: Settings) -> Iterator[Check]:
    """Run every check on the store and its server."""
    address = redact(settings.redis_url)
    yield server(store, address)
    yield durability(store, demo=settings.demo)
    yield replicas(store, settings.replicas)
    yield eviction(store)
    yield clock(store)
    yield sweep(store, settings)
    yield overdue(store, settings)
    yield outage(store)
    yield requests(store, "query")
    yield requests(store, "dial")
    yield new_calls(store, settings)
    yield calls(store)
    yield unknown(store)
    yield notices(store)

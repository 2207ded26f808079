"""Find queues of Celery that hold messages and that no worker reads: one line of `callwatch doctor`."""

import time
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, cast

import redis

from cli.checks import NAMED, Check
from cli.ui.output import printable
from worker.runtime.celery_config import TRIGGER_QUEUE

CHECK = "unread queues"
SEARCH_LIMIT = 1.0  # seconds; of a larger database only a part is searched
PAGE = 1_000  # keys that one command examines
NAME_SHOWN = 60  # characters
PRIORITY = b"\x06\x16"  # kombu appends it and the priority to the name of a queue
PEEK = """
return {redis.call('LLEN', KEYS[1]), string.sub(redis.call('LINDEX', KEYS[1], -1) or '', 1, 65536)}
"""


def unread_queues(client: redis.Redis, prefix: str, read: Collection[str]) -> Check:
    """Warn about queues with messages that no worker reads, such as a misspelt `outbound.trigger`.

    `client` is the broker's and returns bytes; `read` names the queues that have a reader; the keys under `prefix` are
    callwatch's own. A list that this Redis user may not read is left out.
    """
    found: dict[bytes, int] = {}  # SCAN may return a key twice
    nothing = "none"
    try:
        for name in _lists(client, until=time.monotonic() + SEARCH_LIMIT):
            if not name.startswith(f"{prefix}:".encode()) and not name.endswith(b".pidbox"):  # replies of workers
                found[name] = _messages(client, name)
    except TimeoutError:
        nothing = f"none found within {SEARCH_LIMIT:g} s, the database holds more keys"
    except redis.exceptions.NoPermissionError:
        return Check(CHECK, "ok", "not searched: this Redis user may not list the keys of the broker")
    numbers: Counter[str] = Counter()
    for name, number in found.items():
        numbers[name.partition(PRIORITY)[0].decode(errors="replace")] += number
    unread = [(name, number) for name, number in numbers.most_common() if number and name not in read]
    if not unread:
        return Check(CHECK, "ok", nothing)
    shown = ", ".join(f"{_shown(name)} {number}" for name, number in unread[:NAMED])
    more = f" and {len(unread) - NAMED} more" if len(unread) > NAMED else ""
    return Check(
        CHECK, "warn", f"messages that no worker reads: {shown}{more}; the queue for triggers is {TRIGGER_QUEUE}"
    )


def _lists(client: redis.Redis, *, until: float) -> Iterator[bytes]:
    """Yield the names of all lists; TimeoutError if the search lasts beyond `until` (monotonic seconds)."""
    cursor = None
    while cursor != 0:
        cursor, names = cast("tuple[int, list[bytes]]", client.scan(cursor or 0, count=PAGE, _type="list"))
        for name in names:
            yield name
            _require_time(until)
        if cursor:
            _require_time(until)


def _require_time(until: float) -> None:
    if time.monotonic() > until:
        raise TimeoutError


def _messages(client: redis.Redis, name: bytes) -> int:
    """Return the number of messages in a list; 0 if its entries are none of Celery's, or may not be read."""
    try:
        number, head = cast("Any", client.register_script(PEEK)([name]))
    except redis.ResponseError:  # no right to this key, or no list any more
        return 0
    return number if head.startswith(b"{") and b'"body"' in head and b'"properties"' in head else 0


def _shown(name: str) -> str:
    return printable(name if len(name) <= NAME_SHOWN else f"{name[:NAME_SHOWN]}…")

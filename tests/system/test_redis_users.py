"""Test the rights of each Redis user, command by command, on a real server (S40).

The table in docs/security.md lists the results; the test renders it again and compares.
"""

from collections.abc import Callable, Iterator

import pytest
import redis

from tests.deployment import ROOT
from tests.users import USERS, GuardedServer, allowed, guarded_server

SECURITY = ROOT / "docs" / "security.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedServer]:
    with guarded_server(tmp_path_factory.mktemp("users")) as server:
        with server.client("admin") as admin:
            for name in ("outbound.trigger", "outbound.poll", "outbound.malformed"):
                admin.lpush(name, "{}")
        yield server


def command(*words: str | int) -> Callable[["redis.Redis"], object]:
    """Return an attempt to run one command."""
    return lambda client: client.execute_command(*words)  # type: ignore[no-untyped-call]


# The operations of docs/security.md and their commands; a user is allowed an operation if any command succeeds.
PARTS = {
    "send a trigger": [command("LPUSH", "outbound.trigger", "{}")],
    "read the result of a trigger": [command("GET", "celery-task-meta-x")],
    "write a result": [command("SET", "celery-task-meta-x", "{}")],
    "read or take triggers that wait": [
        command("LRANGE", "outbound.trigger", 0, -1),
        command("RPOP", "outbound.trigger"),
        command("BRPOP", "outbound.trigger", 1),
    ],
    "see how many messages wait": [command("LLEN", "outbound.trigger"), command("LLEN", "outbound.poll")],
    "send a poll or a look-up": [command("LPUSH", "outbound.poll", "{}"), command("LPUSH", "outbound.control", "{}")],
    "read quarantined or unacknowledged messages": [
        command("LRANGE", "outbound.malformed", 0, -1),
        command("HGETALL", "unacked"),
    ],
    "read events of tasks (Flower)": [command("SUBSCRIBE", "/0.celeryev/worker.heartbeat")],
    "send commands to workers": [command("PUBLISH", "/0.celery.pidbox", "{}")],
    "read counters": [command("HGETALL", "callwatch:counters")],
    "read records of calls, histories, ledgers": [
        command("HGETALL", "callwatch:job:J-1"),
        command("HGET", "callwatch:job:J-1", "person_id"),
        command("LRANGE", "callwatch:history:C-1", 0, -1),
        command("XRANGE", "callwatch:events", "-", "+"),
        command("XRANGE", "callwatch:outbox:webhook", "-", "+"),
        command("LRANGE", "callwatch:dead", 0, -1),
        command("HGETALL", "callwatch:ledger:C-1:20"),
        command("GET", "callwatch:task:T-1"),
    ],
    "change locks, records, due times, counters": [
        command("SET", "callwatch:lock:C-1:20", "x"),
        command("DEL", "callwatch:lock:C-1:20"),
        command("ZADD", "callwatch:due", 0, "J-1"),
        command("LPUSH", "callwatch:due", "x"),
        command("HSET", "callwatch:job:J-1", "verdict", "ended"),
        command("HINCRBY", "callwatch:counters", "x", 1),
    ],
    "pause and resume new calls": [command("SET", "callwatch:paused", ""), command("DEL", "callwatch:paused")],
    "read why new calls are paused": [command("GET", "callwatch:paused")],
    "list names of keys": [command("SCAN", 0), command("RANDOMKEY")],
    "follow names of keys as they change": [
        command("CLIENT", "TRACKING", "ON", "BCAST"),
        command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "celery-task-meta-"),
        command("CLIENT", "TRACKING", "ON"),
        command("SUBSCRIBE", "__keyevent@0__:set"),
        command("PSUBSCRIBE", "*"),
        command("PUBLISH", "channel", "x"),
        command("PUBSUB", "CHANNELS"),
    ],
    "run scripts": [command("EVALSHA", "0" * 40, 0), command("SCRIPT", "LOAD", "return 1")],
    "see how much memory is used": [command("INFO", "memory")],
    "read INFO and CONFIG": [command("INFO"), command("CONFIG", "GET", "maxmemory")],
    "touch keys of others": [command("GET", "of-others"), command("SET", "of-others", "")],
    "see or end connections of others": [
        command("CLIENT", "LIST"),
        command("CLIENT", "INFO"),
        command("CLIENT", "KILL", "TYPE", "pubsub"),
        command("CLIENT", "PAUSE", 1),
        command("CLIENT", "NO-EVICT", "ON"),
        command("CLIENT", "UNBLOCK", 1),
        command("CLIENT", "NO-TOUCH", "ON"),
    ],
    "administer the server": [
        command("KEYS", "*"),
        command("MONITOR"),
        command("FLUSHALL"),
        command("FLUSHDB"),
        command("SWAPDB", 0, 1),
        command("CONFIG", "SET", "appendonly", "no"),
        command("ACL", "LIST"),
        command("ACL", "WHOAMI"),
        command("ACL", "SETUSER", "x", "on"),
        command("SHUTDOWN", "NOSAVE"),
        command("REPLICAOF", "192.0.2.1", 6379),
        command("MIGRATE", "192.0.2.1", 6379, "k", 0, 1),
        command("SAVE"),
        command("BGREWRITEAOF"),
        command("MODULE", "LIST"),
        command("SLOWLOG", "GET"),
        command("LATENCY", "RESET"),
        command("FUNCTION", "LOAD", "#!lua name=x"),
        command("SCRIPT", "FLUSH"),
        command("EVAL", "return 1", 0),
        command("RESTORE", "k", 0, "x"),
        command("SORT", "k", "BY", "x"),
        command("MEMORY", "DOCTOR"),
        command("CLUSTER", "INFO"),
        command("PSYNC", "?", -1),
    ],
}


def rendered(server: GuardedServer) -> str:
    """Return the table in the format of docs/security.md: the operations of each user and its number of commands."""
    found = {
        part: {user: [allowed(server, user, one) for one in attempts] for user in USERS}
        for part, attempts in PARTS.items()
    }
    number = sum(map(len, PARTS.values()))
    granted = {user: sum(sum(tried[user]) for tried in found.values()) for user in USERS}
    cells = {part: ["yes" if any(tried[user]) else "no" for user in USERS] for part, tried in found.items()}
    cells[f"of {number} commands tried, allowed"] = [str(granted[user]) for user in USERS]
    head = f"| part | {' | '.join(USERS)} |\n| --- |{' --- |' * len(USERS)}\n"
    return head + "".join(f"| {part} | {' | '.join(row)} |\n" for part, row in cells.items())


def test_s40_documented_rights_of_each_user_match_a_real_server(server: GuardedServer) -> None:
    """S40: every command is tried; a user is allowed an operation if any of its commands is allowed."""
    table = rendered(server)
    assert table in SECURITY.read_text(encoding="utf-8"), f"docs/security.md should hold:\n{table}"

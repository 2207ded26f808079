"""Test which Redis errors mean an unavailable server, and which mean that a retry would fail again (S38)."""

from typing import Any

import pytest
import redis
from redis._parsers.base import BaseParser

from tests.contract.steps import PAIR, claim
from worker.core.interfaces import StoreRefused
from worker.store import RedisStore
from worker.store.base import is_away

AWAY = (
    "READONLY You can't write against a read only replica.",
    "LOADING Redis is loading the dataset in memory",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "MISCONF Redis is configured to save RDB snapshots, but it is currently not able to persist on disk.",
    "NOREPLICAS Not enough good replicas to write.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "NOAUTH Authentication required.",
    "ERR max number of clients reached",
    "ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -OOM command not allowed when used",
    "ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -READONLY You can't write against a",
)
REFUSED = (
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "WRONGTYPE Operation against a key holding the wrong kind of value script: f_1, on @user_script:1.",
    "NOPERM No permissions to access a key",
    "ERR value is not an integer or out of range",
    "ERR unknown command 'X', with args beginning with: 'OOM' ",
    "BUSYGROUP Consumer Group name already exists",
    "EXECABORT Transaction discarded because of previous errors.",
)


def parsed(text: str) -> Any:
    """Return the library's exception for a server's reply."""
    return BaseParser.parse_error(text)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("text", AWAY)
def test_recoverable_server_error_is_unavailable(text: str) -> None:
    assert is_away(parsed(text))


@pytest.mark.parametrize("error", [redis.ConnectionError("gone"), redis.TimeoutError("late")])
def test_connection_error_is_unavailable(error: redis.RedisError) -> None:
    assert is_away(error)


@pytest.mark.parametrize("error", [*map(parsed, REFUSED), redis.DataError("x")], ids=str)
def test_any_other_error_is_a_refusal(error: Any) -> None:
    assert not is_away(error)


def test_s38_key_of_another_type_is_a_refusal(store: RedisStore, client: redis.Redis) -> None:
    key = store.keys.ledger(PAIR)
    client.lpush(key, "x")
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        claim(store)
    client.delete(key)


def test_s38_value_that_redis_cannot_hold_is_a_refusal(store: RedisStore) -> None:
    nothing: Any = None
    with pytest.raises(StoreRefused, match="DataError"):
        claim(store, task_id=nothing)

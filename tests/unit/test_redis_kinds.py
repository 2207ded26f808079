"""Test that a server that cannot serve callwatch is named by its kind, with the remedy."""

import pytest
from redis import exceptions as errors

from config.redis_kinds import wrong_server
from worker.core.interfaces import StoreUnavailable

UNKNOWN = "unknown command 'EVALSHA', with args beginning with: 'callwatch:ledger:C-1:2'"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.ClusterDownError("Hash slot not served"), "belongs to a Redis Cluster"),
        (errors.ClusterCrossSlotError("Keys in request don't hash to the same slot"), "belongs to a Redis Cluster"),
        (errors.MovedError("3999 127.0.0.1:6381"), "belongs to a Redis Cluster"),
        (errors.ReadOnlyError("You can't write against a read only replica."), "is a replica"),
        (errors.NoPermissionError("User little has no permissions to run the 'time' command"), "refuses a command"),
        (errors.ResponseError("DB index is out of range"), "has no database of this number"),
        (errors.ResponseError(UNKNOWN), "does not know a command"),
        (errors.InvalidResponse('Protocol error, got "H" as reply type byte'), "is no Redis"),
    ],
)
def test_wrong_server_is_named_by_its_kind(error: errors.RedisError, kind: str) -> None:
    """Also where another layer raised its own error because of it; no argument of a command is quoted (S37)."""
    outer = StoreUnavailable("Redis: away")
    outer.__cause__ = error
    for one in (error, outer):
        fault = wrong_server(one)
        assert fault is not None
        assert fault.kind.startswith(kind)
        assert fault.remedy.startswith("Set {variable} with ")
        assert "C-1" not in fault.kind + fault.remedy


def test_server_that_does_not_answer_is_of_no_wrong_kind() -> None:
    assert wrong_server(errors.ConnectionError("Error 111 connecting to 127.0.0.1:1. Connection refused.")) is None

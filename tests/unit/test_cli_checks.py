"""Test the checks of the server and of its replicas, which `callwatch doctor` prints (S41)."""

from types import SimpleNamespace
from typing import Any

import pytest

from cli import checks
from worker.store.server_status import Replicas


class Server:
    """A store that knows its replicas only."""

    def __init__(self, replicas: Replicas | None, durability: str = "waitaof") -> None:
        self._replicas = replicas
        self.durability = durability

    def replicas(self) -> Replicas | None:
        return self._replicas


NONE = Replicas(True, (), ())
TWO = Replicas(True, (0, 120), (1, 0))


@pytest.mark.parametrize(
    ("server", "wanted", "status", "detail"),
    [
        (Server(None), 0, "ok", "the server hides its replicas, CALLWATCH_REPLICAS is 0"),
        (Server(None), 1, "warn", "the server hides its replicas, CALLWATCH_REPLICAS is 1"),
        (Server(Replicas(False, (), ())), 0, "FAIL", "this server is a replica and takes no writes"),
        (Server(NONE), 0, "ok", "0 connected, CALLWATCH_REPLICAS is 0"),
        (Server(NONE), 1, "FAIL", "0 connected, but CALLWATCH_REPLICAS is 1: no call is placed until"),
        (Server(TWO), 2, "ok", "2 connected, at most 120 bytes behind, the oldest report 1 s ago, CALLWATCH_REPLICAS"),
        (Server(TWO, "always"), 2, "warn", "CALLWATCH_REPLICAS is 2: they confirm their memory, not their disks"),
        (Server(TWO), 1, "warn", "CALLWATCH_REPLICAS is 1: a failover to one that lags forgets a request"),
        (Server(TWO), 0, "warn", "CALLWATCH_REPLICAS is 0: a failover to one that lags forgets a request"),
    ],
)
def test_s41_doctor_says_whether_the_replicas_suffice(server: Any, wanted: int, status: str, detail: str) -> None:
    check = checks.replicas(server, wanted)
    assert (check.check, check.status) == ("replicas", status)
    assert detail in check.detail


@pytest.mark.parametrize(
    ("version", "status"), [("Redis 6.0.16", "FAIL"), ("Redis 6.2.0", "ok"), ("Valkey 9.1.2", "ok")]
)
def test_doctor_refuses_a_server_without_the_commands_of_the_store(version: str, status: str) -> None:
    store: Any = SimpleNamespace(now=lambda: 0.0, version=lambda: version)
    check = checks.server(store, "redis://h:1/0")
    assert check.status == status
    assert check.detail.endswith(", should be 6.2 or newer") is (status == "FAIL")

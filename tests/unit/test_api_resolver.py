"""Name resolution within bounded time and threads, also if the resolver of the machine blocks (S18, S39)."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from api_client import resolver
from api_client.resolver import MAX_PENDING, Resolver, ResolverBusyError

PATIENCE = 30.0
ADDRESS = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 80))


class MachineResolver:
    """Replace `getaddrinfo`: names block until `answer` is set, IP addresses do not."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.asked: list[str] = []
        self.failure: Exception | None = None

    def __call__(self, host: str, _port: int, *, type: int, flags: int = 0) -> list[Any]:  # noqa: A002
        assert type == socket.SOCK_STREAM
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "no IP address")
        self.asked.append(host)
        assert self.answer.wait(PATIENCE)
        if self.failure is not None:
            raise self.failure
        return [ADDRESS]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[MachineResolver]:
    """The resolver of the machine, which blocks until the end of the test, so that no thread outlives it."""
    machine = MachineResolver()
    monkeypatch.setattr(socket, "getaddrinfo", machine)
    yield machine
    machine.answer.set()
    for thread in resolving():
        thread.join(PATIENCE)


def resolving() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "resolver"]


def test_blocked_resolver_ends_the_wait_in_time(machine: MachineResolver) -> None:
    with pytest.raises(TimeoutError):
        Resolver().resolve("upstream.test", 80, within=0.05)
    assert not machine.answer.is_set()


def test_an_ip_address_needs_no_thread() -> None:
    before = len(resolving())
    assert Resolver(most=0).resolve("127.0.0.1", 9015, within=0)[0][4] == ("127.0.0.1", 9015)
    assert len(resolving()) == before


def test_addresses_and_failures_reach_the_caller(machine: MachineResolver) -> None:
    machine.answer.set()
    names = Resolver()
    assert names.resolve("upstream.test", 80, within=PATIENCE) == [ADDRESS]
    machine.failure = socket.gaierror(socket.EAI_AGAIN, "try again")
    with pytest.raises(socket.gaierror):
        names.resolve("upstream.test", 80, within=PATIENCE)


def test_blocked_resolver_uses_a_bounded_number_of_threads(machine: MachineResolver) -> None:
    """S39: above the limit a resolution fails at once; after the end of one there is room again."""
    names = Resolver()
    for number in range(MAX_PENDING):
        with pytest.raises(TimeoutError):
            names.resolve(f"host-{number}.test", 80, within=0)
    for _ in range(3):
        with pytest.raises(ResolverBusyError):
            names.resolve("one-more.test", 80, within=PATIENCE)
    assert len(resolving()) == len(machine.asked) == MAX_PENDING
    machine.answer.set()
    for thread in resolving():
        thread.join(PATIENCE)
    assert names.resolve("one-more.test", 80, within=PATIENCE) == [ADDRESS]


def test_recent_resolution_of_the_same_name_is_joined(machine: MachineResolver) -> None:
    """Concurrent connections resolve a name once, and a slow answer serves all of them."""
    names = Resolver(most=1)
    with pytest.raises(TimeoutError):
        names.resolve("upstream.test", 80, within=0)
    found: list[Any] = []
    late = threading.Thread(target=lambda: found.append(names.resolve("upstream.test", 80, within=PATIENCE)))
    late.start()
    machine.answer.set()
    late.join(PATIENCE)
    assert found == [[ADDRESS]]
    assert machine.asked == ["upstream.test"]


def test_an_old_resolution_is_not_joined(machine: MachineResolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolution that blocks for ever must not prevent another one of the same name."""
    now = [100.0]
    monkeypatch.setattr(resolver, "monotonic", lambda: now[0])
    names = Resolver()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            names.resolve("upstream.test", 80, within=0)
    now[0] += resolver.JOINED_FOR
    with pytest.raises(TimeoutError):
        names.resolve("upstream.test", 80, within=0)
    assert len(machine.asked) == 2
    machine.answer.set()  # the older one ends before or after the newer one
    for thread in resolving():
        thread.join(PATIENCE)
    assert names.resolve("upstream.test", 80, within=PATIENCE) == [ADDRESS]


def test_thread_that_cannot_start_is_not_counted(machine: MachineResolver, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.answer.set()
    names = Resolver(most=1)

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        for _ in range(2):
            with pytest.raises(RuntimeError):
                names.resolve("upstream.test", 80, within=0)
    assert names.resolve("upstream.test", 80, within=PATIENCE) == [ADDRESS]

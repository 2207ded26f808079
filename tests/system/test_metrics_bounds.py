"""Test the bounds of `callwatch metrics`: unauthenticated connections delay no scrape (S39, S40)."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from cli import metrics
from cli.metrics import MAX_CONNECTIONS, MetricsServer
from tests.deployment import wait_until

HEAD = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"
TOKEN = "a-token"


@contextlib.contextmanager
def serving(read: Callable[[], bytes] = lambda: b"page\n") -> Iterator[int]:
    """Serve metrics in a thread of this process; yield the port."""
    server = MetricsServer("127.0.0.1", 0, TOKEN, read)
    server.begin()
    yield server.port


@contextlib.contextmanager
def open_connections(port: int, number: int, first: bytes = HEAD) -> Iterator[list[socket.socket]]:
    """Open `number` connections that send the beginning of a request."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(number):
            found.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)))
            found[-1].sendall(first)
        yield found


def scrape(port: int, path: bytes = b"/metrics", authorization: bytes = b"Bearer a-token") -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        head = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nAuthorization: " + authorization + b"\r\n\r\n"
        connection.sendall(head)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return answer


def ended(connection: socket.socket) -> bool:
    """Tell whether the server has closed the connection."""
    connection.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        try:
            return connection.recv(1_000) == b""
        except ConnectionError:
            return True
    return False


@pytest.mark.parametrize("first", [b"", HEAD, HEAD + b"Content-Length: 9\r\n\r\n"], ids=["silent", "headers", "body"])
def test_slow_requests_delay_no_scrape_and_use_no_thread(first: bytes) -> None:
    before = threading.active_count()
    with serving() as port, open_connections(port, 200, first):
        assert scrape(port).endswith(b"\r\n\r\npage\n")
        assert threading.active_count() <= before + 1 + metrics.MAX_SCRAPES


def test_the_oldest_connection_makes_room_for_a_newer_one() -> None:
    with serving() as port, open_connections(port, MAX_CONNECTIONS + 5) as connections:
        wait_until(lambda: all(ended(one) for one in connections[:5]))
        assert not any(ended(one) for one in connections[5:])


@pytest.mark.parametrize("name", ["HEADER_TIMEOUT", "TOTAL_TIMEOUT"])
def test_a_request_that_drips_is_over_when_its_time_is(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each byte would begin a time-out of a read anew; the bound is on the whole."""
    for bound in ("HEADER_TIMEOUT", "TOTAL_TIMEOUT"):
        monkeypatch.setattr(metrics, bound, 0.5 if bound == name else 600)
    with serving() as port, open_connections(port, 1) as (connection,):
        begin = time.monotonic()

        def drip() -> bool:
            with contextlib.suppress(OSError):
                connection.sendall(b"x")
            return ended(connection)

        wait_until(drip, limit=20)
        assert time.monotonic() - begin >= 0.4


def test_headers_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "HEADER_TIMEOUT", 600)
    monkeypatch.setattr(metrics, "TOTAL_TIMEOUT", 600)
    with serving() as port, open_connections(port, 1) as (connection,):
        with contextlib.suppress(OSError):
            connection.sendall(b"X: " + b"x" * 40_000)
        wait_until(lambda: ended(connection))


def test_concurrent_scrapes_are_limited() -> None:
    """Authenticated scrapes share two threads; further ones wait."""
    gate, running, most = threading.Event(), [0], [0]

    def read() -> bytes:
        running[0] += 1
        most[0] = max(most[0], running[0])
        gate.wait(10)
        running[0] -= 1
        return b"page\n"

    request = HEAD + b"Authorization: Bearer a-token\r\n\r\n"
    with serving(read) as port, open_connections(port, 10, request) as connections:
        wait_until(lambda: running[0] == metrics.MAX_SCRAPES)
        assert scrape(port, b"/healthz", b"").endswith(b"ok\n")
        gate.set()
        for connection in connections:
            assert connection.recv(1_000).startswith(b"HTTP/1.1 200")
    assert most[0] == metrics.MAX_SCRAPES


def test_unsupported_method_receives_the_status_only() -> None:
    with (
        serving() as port,
        open_connections(port, 1, b"PUT /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n") as (one,),
    ):
        assert one.recv(1_000).partition(b"\r\n\r\n")[2] in {b"", b"405\n"}

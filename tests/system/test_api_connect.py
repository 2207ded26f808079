"""The connection set-up has one deadline: name resolution, TCP, proxy tunnel and TLS share it (S18, S39)."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from urllib3.connection import HTTPConnection

from api_client import ApiError, CallRequest, NotSent, Unavailable, UpstreamClient
from tests.rawserver import PATIENCE, Connection, RawServer, answers, certificate, full_backlog, http, ok, over_tls

REQUEST = CallRequest("C1", "M1")
SHORT = 0.3
FOR_EVER = 10 * PATIENCE
TLS_RECORD = b"\x16\x03\x03\x40\x00" + b"\x02\x00\x3f\xfc" + b"\x00" * 2000  # a ServerHello that never ends


@contextmanager
def hung_resolver(monkeypatch: pytest.MonkeyPatch, _: Path) -> Iterator[str]:
    over = threading.Event()

    def getaddrinfo(*_: Any, flags: int = 0, **__: Any) -> list[Any]:
        if not flags & socket.AI_NUMERICHOST:
            over.wait(FOR_EVER)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    yield "http://upstream.test"
    over.set()


@contextmanager
def never_accepting(_monkeypatch: pytest.MonkeyPatch, _: Path) -> Iterator[str]:
    with full_backlog() as address:
        yield f"http://{address}"


def dripping_tls(connection: Connection) -> None:
    connection.read_some()
    connection.drip(TLS_RECORD)


@contextmanager
def slow_handshake(_monkeypatch: pytest.MonkeyPatch, _: Path) -> Iterator[str]:
    with RawServer(dripping_tls) as server:
        yield server.url.replace("http", "https")


def dripping_tunnel(connection: Connection) -> None:
    connection.read_request()
    connection.drip(b"HTTP/1.1 200 " + b"x" * 2000)


def tunnel_then_dripping_tls(connection: Connection) -> None:
    connection.read_request()
    connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
    dripping_tls(connection)


def behind_proxy(script: Callable[[Connection], None]) -> Any:
    @contextmanager
    def proxy(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[str]:
        with RawServer(script) as server:
            monkeypatch.setenv("https_proxy", server.url)
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate(folder)))
            yield "https://upstream.test"

    return proxy


def ends(call: Callable[[], Any]) -> Exception | None:
    """Return the exception of `call`, run in a thread: the test proves that it ends."""
    raised: list[Exception | None] = []

    def run() -> None:
        try:
            call()
        except ApiError as error:
            raised.append(error)
        else:
            raised.append(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it does not end"
    return raised[0]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore the proxies of this machine."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


STALLS = [
    pytest.param(hung_resolver, id="name resolution"),
    pytest.param(never_accepting, id="TCP"),
    pytest.param(slow_handshake, id="TLS byte by byte"),
    pytest.param(behind_proxy(dripping_tunnel), id="a tunnel byte by byte"),
    pytest.param(behind_proxy(tunnel_then_dripping_tls), id="TLS byte by byte in a tunnel"),
]


@pytest.mark.parametrize("stall", STALLS)
def test_a_dial_that_cannot_connect_within_its_time_is_not_sent(
    stall: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """S18: all attempts of one dial share 30 s: each gets the remaining time, at most the connect time-out."""
    runs: list[None] = []
    with stall(monkeypatch, tmp_path) as url:
        client = UpstreamClient(url, connect_timeout=FOR_EVER, trust_env=True)
        error = ends(lambda: client.dial(REQUEST, before_send=lambda: runs.append(None), within=SHORT))
        client.close()
    assert isinstance(error, NotSent)
    assert runs == []


@pytest.mark.parametrize("stall", STALLS)
def test_the_connect_timeout_bounds_connecting_as_a_whole(
    stall: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """S39: for dials and for queries."""
    with stall(monkeypatch, tmp_path) as url:
        client = UpstreamClient(url, connect_timeout=SHORT, status_timeout=FOR_EVER, trust_env=True)
        dialled = ends(lambda: client.dial(REQUEST, before_send=lambda: None, within=FOR_EVER))
        asked = ends(lambda: client.status(case_ref="C1", job_id="J1"))
        client.close()
    assert isinstance(dialled, NotSent)
    assert isinstance(asked, Unavailable)


@pytest.mark.parametrize("within", [0, -1.5])
def test_no_connection_is_opened_without_time(within: float) -> None:
    """S18."""
    with RawServer(answers(ok([], code=201))) as server:
        client = UpstreamClient(server.url)
        with pytest.raises(NotSent):
            client.dial(REQUEST, before_send=lambda: None, within=within)
        client.close()
    assert server.connections == 0


def test_connection_established_too_late_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """S18: no single step was too slow, or the last one ended just after the deadline."""
    runs: list[None] = []
    clock = [0.0]
    monkeypatch.setattr("api_client.transport.monotonic", lambda: clock[0])
    connect = socket.socket.connect

    def slow_connect(sock: socket.socket, address: Any) -> None:
        connect(sock, address)
        clock[0] += 5

    with RawServer(answers(ok([], code=201))) as server:
        client = UpstreamClient(server.url, connect_timeout=7)
        monkeypatch.setattr(socket.socket, "connect", slow_connect)
        with pytest.raises(NotSent, match="ConnectTimeoutError"):
            client.dial(REQUEST, before_send=lambda: runs.append(None), within=4)
        assert client.dial(REQUEST, before_send=lambda: runs.append(None), within=6) == []
        client.close()
    assert (len(runs), len(server.requests)) == (1, 1)


def test_time_left_after_connecting_does_not_bound_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is cut off by a short rest of the time-out would be an unknown outcome."""
    granted: list[float | None] = []
    sendall = socket.socket.sendall

    def sending(sock: socket.socket, data: bytes) -> None:
        if sock.getpeername()[1] == server.port:
            granted.append(sock.gettimeout())
        sendall(sock, data)

    with RawServer(answers(ok([], code=201))) as server:
        client = UpstreamClient(server.url, connect_timeout=7)
        monkeypatch.setattr(socket.socket, "sendall", sending)
        client.dial(REQUEST, before_send=lambda: None)
        client.close()
    assert set(granted) == {7}


def test_each_step_through_a_proxy_gets_the_remaining_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """S39: TCP, TLS with the proxy, tunnel and TLS with upstream share one time-out."""
    clock, granted = [0.0], []
    connect, tunnel, wrap = socket.socket.connect, HTTPConnection._tunnel, ssl.SSLContext.wrap_socket

    def slow_connect(sock: socket.socket, address: Any) -> None:
        connect(sock, address)
        clock[0] += 4

    def slow_tunnel(connection: HTTPConnection) -> None:
        granted.append(connection.sock.gettimeout())
        tunnel(connection)
        clock[0] += 2

    def slow_handshake(context: ssl.SSLContext, sock: socket.socket, **options: Any) -> ssl.SSLSocket:
        if not options.get("server_side"):
            granted.append(sock.gettimeout())
            clock[0] += 1
        return wrap(context, sock, **options)

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        over_tls(answers(ok([], code=201)))(connection)

    monkeypatch.setattr("api_client.transport.monotonic", lambda: clock[0])
    monkeypatch.setattr(socket.socket, "connect", slow_connect)
    monkeypatch.setattr(HTTPConnection, "_tunnel", slow_tunnel)
    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", slow_handshake)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate(tmp_path)))
    with RawServer(script) as server:
        monkeypatch.setenv("https_proxy", server.url)
        client = UpstreamClient("https://localhost", trust_env=True, connect_timeout=10)
        client.dial(REQUEST, before_send=lambda: None)
        client.close()
    with RawServer(over_tls(answers(http(407)))) as server:
        monkeypatch.setenv("https_proxy", server.url.replace("http", "https"))
        client = UpstreamClient("https://localhost", trust_env=True, connect_timeout=10)
        with pytest.raises(NotSent):
            client.dial(REQUEST, before_send=lambda: None)
        client.close()
    assert granted == [6, 4, 6, 5]


def test_over_tls_a_fast_connection_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """S18: `within` is only an upper bound."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate(tmp_path)))

    def script(connection: Connection) -> None:
        over_tls(answers(ok([], code=201)))(connection)

    with RawServer(script) as server:
        client = UpstreamClient(server.url.replace("http", "https"), trust_env=True)
        assert client.dial(REQUEST, before_send=lambda: None, within=PATIENCE) == []
        client.close()

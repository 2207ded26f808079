"""Failures before the first byte, over real sockets: each one proves that nothing was sent (S12)."""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from api_client import CallRequest, NotSent, Unavailable, UpstreamClient
from tests.rawserver import (
    PATIENCE,
    Connection,
    RawServer,
    answers,
    assert_discreet,
    certificate,
    full_backlog,
    http,
    ok,
    over_tls,
)

REQUEST = CallRequest("C1", "M1")
STATUS = ok({"jobId": "J1", "callStatus": "Executing"})


@contextmanager
def refused_port() -> Iterator[str]:
    with socket.socket() as bound:  # bound, so that no other program takes it, but not listening
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@contextmanager
def no_such_host() -> Iterator[str]:
    yield "http://callwatch.invalid"


@contextmanager
def label_too_long() -> Iterator[str]:
    yield f"http://{'a' * 64}.invalid"


@contextmanager
def backlog_is_full() -> Iterator[str]:
    with full_backlog() as address:
        yield f"http://{address}"


@contextmanager
def tls_server(script: Callable[[Connection], None]) -> Iterator[str]:
    with RawServer(script) as server:
        yield server.url.replace("http", "https")


def plain_answer(connection: Connection) -> None:
    connection.closed_within(PATIENCE)
    connection.send(http(400))


def silence(connection: Connection) -> None:
    connection.read_request()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        pytest.param(refused_port, "connect", id="refused"),
        pytest.param(no_such_host, "dns", id="DNS"),
        pytest.param(label_too_long, "dns", id="no name for DNS at all"),
        pytest.param(backlog_is_full, "connect_timeout", id="connect time-out"),
        pytest.param(lambda: tls_server(plain_answer), "tls", id="TLS to a plain server"),
        pytest.param(lambda: tls_server(silence), "connect_timeout", id="TLS never answered"),
        pytest.param(lambda: tls_server(over_tls(silence)), "tls", id="TLS with an untrusted certificate"),
    ],
)
def test_dial_without_a_connection_is_not_sent(address: Any, reason: str) -> None:
    """S12 S38: nothing was sent and `before_send` never ran; a read is Unavailable, for the same reason."""
    runs: list[None] = []
    with address() as url:
        client = UpstreamClient(url, token="t0ken", connect_timeout=0.5)
        with pytest.raises(NotSent) as dialled:
            client.dial(REQUEST, before_send=lambda: runs.append(None))
        with pytest.raises(Unavailable) as read:
            client.status(case_ref="C1", job_id="J1")
        client.close()
    assert runs == []
    assert read.value.retry_after is None
    assert dialled.value.reason == reason
    assert read.value.reason in (reason, "timeout"), "a read has one time-out for connection and answer"
    for error in (dialled.value, read.value):
        assert_discreet(error, "t0ken", "invalid", "C1", "J1")


def trust(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_over_tls_before_send_waits_for_the_handshake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """S18."""
    trust(monkeypatch, certificate(tmp_path))
    seen: list[object] = []

    def script(connection: Connection) -> None:
        over_tls(answers(ok([], code=201)))(connection)

    with RawServer(script) as server:
        client = UpstreamClient(server.url.replace("http", "https"), trust_env=True)
        connected = ssl.SSLSocket.do_handshake

        def do_handshake(sock: ssl.SSLSocket, *args: Any) -> None:
            connected(sock, *args)
            if not sock.server_side:
                seen.append("handshake")

        monkeypatch.setattr(ssl.SSLSocket, "do_handshake", do_handshake)
        assert client.dial(REQUEST, before_send=lambda: seen.append(list(server.requests))) == []
        client.close()
    assert seen == ["handshake", []]
    assert len(server.requests) == 1


def test_folder_of_authorities_is_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder trusts no authority."""
    trust(monkeypatch, tmp_path)
    with RawServer(over_tls(silence)) as server:
        client = UpstreamClient(server.url.replace("http", "https"), trust_env=True)
        with pytest.raises(NotSent, match="SSLCertVerificationError"):
            client.dial(REQUEST, before_send=lambda: None)
        client.close()


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Resolve every name to these addresses (host:port)."""

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        pairs = (address.split(":") for address in addresses)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, int(port))) for host, port in pairs]

    monkeypatch.setattr("api_client.transport.socket.getaddrinfo", getaddrinfo)


def test_a_silent_address_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """S39: one connect time-out for a name, with any number of addresses."""
    with full_backlog() as silent, RawServer(answers(STATUS)) as server:
        resolve_to(monkeypatch, silent, f"127.0.0.1:{server.port}")
        client = UpstreamClient("http://upstream.test", connect_timeout=1)
        assert client.status(case_ref="C1", job_id="J1").call_status == "Executing"
        client.close()


def test_all_addresses_share_the_connect_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """S39."""
    granted: list[float] = []

    class Sock(socket.socket):
        def settimeout(self, value: float | None) -> None:
            granted.append(value or 0)
            super().settimeout(value)

    with full_backlog() as silent:
        resolve_to(monkeypatch, *[silent] * 4)
        client = UpstreamClient("http://upstream.test", connect_timeout=0.4)
        monkeypatch.setattr("api_client.transport.socket.socket", Sock)
        with pytest.raises(Unavailable):
            client.status(case_ref="C1", job_id="J1")
        client.close()
    assert len(granted) == 4
    assert 0 < sum(granted) <= 0.4

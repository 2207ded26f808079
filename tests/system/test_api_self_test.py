"""The self-test of the gate at the start of each worker: it fails as soon as a byte would be sent (S18)."""

import socket
from collections.abc import Callable
from typing import Any

import pytest
from urllib3 import HTTPConnectionPool

from api_client import CallRecord, GateBrokenError, UpstreamClient, check_gate, route, transport
from api_client.gate import Gate
from api_client.route import Route

Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "all_proxy"])
def test_gate_sends_no_byte_of_a_refused_dial(monkeypatch: Patch, name: str) -> None:
    """The self-test ignores the proxies and authorities of the environment."""
    monkeypatch.setenv(name, "http://proxy.invalid:3128")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    check_gate()


def no_gate(patch: Patch) -> None:
    """Dials use a pool without a gate."""

    def open_dial(way: Route, _gate: Gate) -> HTTPConnectionPool:
        return way.open_pool(1)

    patch.setattr(Route, "open_dial", open_dial)


def asked_late(patch: Patch) -> None:
    """The connection writes before it asks the gate, and is then refused."""
    connect = transport.BoundedHTTPConnection.connect

    def connect_and_write(connection: Any) -> None:
        connect(connection)
        connection.sock.sendall(b"POST")

    patch.setattr(transport.BoundedHTTPConnection, "connect", connect_and_write)


def written_past_send(patch: Patch) -> None:
    """The library writes to the socket itself."""

    def request(connection: Any, *_: Any, **__: Any) -> None:
        transport.BoundedHTTPConnection.connect(connection)
        connection.sock.sendall(b"POST / HTTP/1.1\r\n\r\n")

    patch.setattr(transport.GatedHTTPConnection, "request", request)


def never_asked(patch: Patch) -> None:
    """`before_send` is never called and nothing is sent: no dial could succeed."""
    patch.setattr(Gate, "ask", lambda _gate: None)


def only_over_tls(patch: Patch) -> None:
    """Like the first, over HTTPS only."""
    patch.setitem(route._DIALLING, "https", transport.BoundedHTTPSConnectionPool)
    patch.setattr(transport.BoundedHTTPSConnectionPool, "use", lambda _pool, _gate: None, raising=False)


def believed_sent(patch: Patch) -> None:
    """A dial returns as after an answer."""

    def dial(_client: UpstreamClient, *_: Any, **__: Any) -> list[CallRecord]:
        return []

    patch.setattr(UpstreamClient, "dial", dial)


def no_loopback(patch: Patch) -> None:
    """No local socket can be opened."""

    def create_server(*_: Any, **__: Any) -> socket.socket:
        raise PermissionError("127.0.0.1")

    patch.setattr(socket, "create_server", create_server)


@pytest.mark.parametrize(
    ("sabotage", "line"),
    [
        (no_gate, "a dial over http bypassed its gate (a byte was sent)"),
        (asked_late, "a dial over http bypassed its gate (a byte was sent)"),
        (written_past_send, "a dial over http bypassed its gate (a byte was sent)"),
        (only_over_tls, "a dial over https bypassed its gate (a byte was sent)"),
        (never_asked, "a dial over http bypassed its gate (ended with NotSent)"),
        (believed_sent, "the gate of dials could not be tested (TimeoutError)"),
        (no_loopback, "the gate of dials could not be tested (PermissionError)"),
    ],
)
def test_broken_gate_is_detected(sabotage: Callable[[Patch], None], line: str, monkeypatch: Patch) -> None:
    """S18: by the received bytes, and by the error of the dial."""
    sabotage(monkeypatch)
    with pytest.raises(GateBrokenError) as caught:
        check_gate()
    assert str(caught.value) == line

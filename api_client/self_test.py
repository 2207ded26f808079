"""Prove at start that the gate works: a dial that it refuses must not send a single byte.

The gate depends on how the pinned versions of urllib3 and requests use our classes. With other versions a request could
bypass it, and ring a person at each retry. So every process that dials runs this test first.
"""

import contextlib
import socket
import ssl
from typing import Any

from api_client.client import UpstreamClient
from api_client.models import CallRequest

_TIME_LIMIT = 1.0  # seconds for each step; on loopback a step takes less than a millisecond


class GateBrokenError(Exception):
    """A request would bypass its gate, or the test could not run; `str()` is one line."""


class _RefusedError(Exception):
    """The refusal of the gate in the test."""


class _NoTls(ssl.SSLContext):
    """A context without encryption: the test sees the bytes of a TLS connection and needs no certificate."""

    def wrap_socket(self, sock: socket.socket, *_: Any, **__: Any) -> Any:
        """Return the socket itself."""
        return sock


def check_gate() -> None:
    """Dial a local socket over HTTP and HTTPS with a gate that refuses; GateBrokenError if a byte arrives.

    Takes some milliseconds, and uses neither the environment nor a name server.
    """
    for scheme in ("http", "https"):
        try:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                listener.settimeout(_TIME_LIMIT)
                error = _dial(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}")
                received = _receive(listener)
        except OSError as failure:
            raise GateBrokenError(f"the gate of dials could not be tested ({type(failure).__name__})") from None
        if received or not isinstance(error, _RefusedError):
            how = "a byte was sent" if received else f"ended with {type(error).__name__}"
            raise GateBrokenError(f"a dial over {scheme} bypassed its gate ({how})")


def _dial(address: str) -> Exception | None:
    """Return the error of a dial whose gate refuses."""

    def refuse() -> None:
        raise _RefusedError

    client = UpstreamClient(
        address, connect_timeout=_TIME_LIMIT, call_timeout=_TIME_LIMIT, tls=_NoTls(ssl.PROTOCOL_TLS_CLIENT)
    )
    with contextlib.closing(client):
        try:
            client.dial(CallRequest("self-test", "self-test"), before_send=refuse)
        except Exception as error:  # noqa: BLE001  the caller compares it with the refusal
            return error
    return None


def _receive(listener: socket.socket) -> bytes:
    """Return the first byte received on the connection of the dial, or none."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(_TIME_LIMIT)
        return connection.recv(1)

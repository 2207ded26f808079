"""Prove at start that the gate holds: a dial that it refuses must not send a single byte.

The gate is asked because urllib3 and requests use our classes as the pinned versions do. With others a request might
leave without it, and ring a person at each retry; so a process that dials makes sure first.
"""

import contextlib
import socket
import ssl
from typing import Any

from api_client.client import UpstreamClient
from api_client.models import CallRequest

_TIME_LIMIT = 1.0  # seconds for each step; on the loopback interface none takes a millisecond


class GateBrokenError(Exception):
    """A request would leave without its gate, or that could not be tested; `str()` is one line."""


class _RefusedError(Exception):
    """What the gate of the test refuses with."""


class _NoTls(ssl.SSLContext):
    """Leaves connections as they are: what would be sent over TLS shows as it is, and no certificate is needed."""

    def wrap_socket(self, sock: socket.socket, *_: Any, **__: Any) -> Any:
        """Return the socket itself."""
        return sock


def check_gate() -> None:
    """Dial a socket of our own over HTTP and HTTPS with a gate that refuses; GateBrokenError if a byte arrives.

    Takes some milliseconds, and asks neither the environment nor a name server.
    """
    for scheme in ("http", "https"):
        try:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                listener.settimeout(_TIME_LIMIT)
                end = _dial(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}")
                heard = _hear(listener)
        except OSError as error:
            raise GateBrokenError(f"the gate of dials could not be tested ({type(error).__name__})") from None
        if heard or not isinstance(end, _RefusedError):
            how = "a byte left" if heard else f"ended with {type(end).__name__}"
            raise GateBrokenError(f"a dial over {scheme} went past its gate ({how})")


def _dial(address: str) -> Exception | None:
    """Return how a dial ends whose gate refuses."""

    def refuse() -> None:
        raise _RefusedError

    client = UpstreamClient(
        address, connect_timeout=_TIME_LIMIT, call_timeout=_TIME_LIMIT, tls=_NoTls(ssl.PROTOCOL_TLS_CLIENT)
    )
    with contextlib.closing(client):
        try:
            client.dial(CallRequest("self-test", "self-test"), before_send=refuse)
        except Exception as error:  # noqa: BLE001  any other end than the refusal is what is looked for
            return error
    return None


def _hear(listener: socket.socket) -> bytes:
    """Return the beginning of what has arrived on the dial's connection until it was closed."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(_TIME_LIMIT)
        return connection.recv(1)

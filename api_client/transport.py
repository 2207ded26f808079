"""Connections that bound an answer in time and size, and that let a gate decide before the first byte is sent."""

import http.client
import io
import logging
import socket
from collections.abc import Callable
from time import monotonic
from typing import Any, cast

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from api_client.resolver import Resolver

MAX_ANSWER_BYTES = 1024 * 1024
"""Largest answer read, headers and framing included (S39)."""
MAX_SEND_DELAY = 2.0
"""Seconds between the start of `before_send` and the first byte, above which nothing is sent (S18)."""
_LEAST_TIMEOUT = 0.001  # zero would mean "do not block" to a socket

resolver = Resolver()
"""Shared by all connections of the process, so that its limit holds for dials and reads together."""

for _name in ("urllib3.connection", "urllib3.connectionpool"):
    # Their records quote whole URLs, person ids included (S37); what matters in them is in our exceptions.
    logging.getLogger(_name).addFilter(lambda _: False)


class AnswerTooLargeError(Exception):
    """The answer exceeds `MAX_ANSWER_BYTES`. No OSError: urllib3 would take it for a lost connection."""


class GateShutError(Exception):
    """The gate let nothing pass. No OSError either, for the same reason."""


class Gate:
    """Run `before_send` when the connection stands, and let the request pass only if that was quick (S18)."""

    def __init__(self, before_send: Callable[[], None]) -> None:
        self._before_send = before_send
        self.refusal: Exception | None = None
        """What `before_send` raised."""
        self.passed = False
        """From here on the request may have left the machine."""

    def __call__(self) -> None:
        """Raise GateShutError unless the request may be sent now; a gate lets one pass, ever."""
        if self.passed:
            raise GateShutError
        started = monotonic()  # before the ledger is written: a process stopped in between must not dial late
        try:
            self._before_send()
        except Exception as error:  # noqa: BLE001  kept aside, as urllib3 rewraps what looks like a network's
            self.refusal = error
            raise GateShutError from None
        if monotonic() - started > MAX_SEND_DELAY:
            raise GateShutError
        self.passed = True


class _BoundedReader(io.RawIOBase):
    """A socket's file that ends at a deadline and after so many bytes, however slowly or long the other side drips."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock
        # urllib3 has just set the time that is left for the answer; each read would be granted the whole of it anew.
        self._deadline = monotonic() + (sock.gettimeout() or 0)
        self._room = MAX_ANSWER_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        remaining = self._deadline - monotonic()
        if remaining <= 0:
            raise TimeoutError("the answer took too long")
        self._sock.settimeout(remaining)
        count = cast("int", self._raw.readinto(buffer))  # None comes from non-blocking sockets only
        self._room -= count
        if self._room < 0:
            raise AnswerTooLargeError
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class BoundedResponse(http.client.HTTPResponse):
    """A response that as a whole, headers included, has the socket's time-out and one limit of size."""

    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        self.fp: io.BufferedReader = io.BufferedReader(_BoundedReader(self.fp.detach(), sock))

    def _safe_read(self, amt: int) -> bytes:
        # A declared length is allocated before it is read; one beyond the limit need not even be tried.
        if amt > MAX_ANSWER_BYTES:
            raise AnswerTooLargeError
        return cast("bytes", super()._safe_read(amt))  # type: ignore[misc]


class BoundedHTTPConnection(HTTPConnection):
    """A connection with bounded answers, bounded connecting and, if it is given one, a gate before the first byte."""

    response_class = BoundedResponse

    def __init__(self, *args: Any, gate: Gate | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._gate = gate

    def connect(self) -> None:
        """Connect completely (DNS, TCP, tunnel, TLS) within the connect time-out as a whole, then ask the gate."""
        timeout = cast("float", self.timeout)
        self._connect_by = monotonic() + timeout
        super().connect()
        if monotonic() > self._connect_by:
            raise ConnectTimeoutError(self, "connecting took too long")
        self.sock.settimeout(timeout)  # what was left for the last step of connecting is no bound for sending
        if self._gate is not None:
            self._gate()

    def _left(self) -> float:
        """Return the seconds that are left to connect."""
        return max(self._connect_by - monotonic(), _LEAST_TIMEOUT)

    def _new_conn(self) -> socket.socket:
        """Resolve and connect within what is left, not once per address."""
        failure: Exception | None = None
        try:
            addresses = resolver.resolve(self._dns_host.strip("[]"), self.port, within=self._left())
        except (OSError, UnicodeError, RuntimeError) as error:  # the last one: no thread could be started
            raise NewConnectionError(self, "name resolution failed") from error
        for untried, (family, kind, protocol, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
            sock = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                # An even share of what is left, so that a silent first address leaves time for the second.
                sock.settimeout(max(self._left() / untried, _LEAST_TIMEOUT))
                sock.connect(address)
                sock.settimeout(self._left())  # for TLS, whose handshake as a whole has the socket's time-out
            except OSError as error:
                sock.close()
                failure = error
            else:
                return sock
        raise NewConnectionError(self, "no address answered") from failure

    def _tunnel(self) -> None:
        """Open the proxy's tunnel within what is left; what then is left is for TLS."""
        self.sock.settimeout(self._left())
        super()._tunnel()
        self.sock.settimeout(self._left())


class BoundedHTTPSConnection(BoundedHTTPConnection, HTTPSConnection):
    """The same over TLS."""


class BoundedHTTPConnectionPool(HTTPConnectionPool):
    """A pool of bounded connections."""

    ConnectionCls = BoundedHTTPConnection


class BoundedHTTPSConnectionPool(HTTPSConnectionPool):
    """A pool of bounded connections over TLS."""

    ConnectionCls = BoundedHTTPSConnection

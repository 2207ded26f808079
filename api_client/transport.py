"""Connections with time and size limits for answers; those of a dial send no byte before its gate permits it."""

import functools
import http.client
import io
import logging
import socket
from time import monotonic
from typing import Any, cast

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from api_client.gate import Gate
from api_client.resolver import Resolver

MAX_ANSWER_BYTES = 1024 * 1024
"""Size limit of an answer in bytes, with headers and framing (S39), for connections without their own limit."""
_LEAST_TIMEOUT = 0.001  # zero would make a socket non-blocking

resolver = Resolver()
"""The resolver of all connections of the process, so that its limit covers dials and reads together."""

for _name in ("urllib3.connection", "urllib3.connectionpool"):
    # Their records contain whole URLs with person ids (S37); our exceptions contain the relevant parts.
    logging.getLogger(_name).addFilter(lambda _: False)


class AnswerTooLargeError(Exception):
    """The answer exceeds the limit. Not an OSError, which urllib3 would treat as a lost connection."""


class NoAddressError(NewConnectionError):
    """The host name could not be resolved."""


class _BoundedReader(io.RawIOBase):
    """The file of a socket, bounded by a deadline and a number of bytes, however slowly the peer sends."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, room: int) -> None:
        self._raw = raw
        self._sock = sock
        # urllib3 has just set the remaining time for the answer; a socket would apply it to each read separately.
        self._deadline = monotonic() + (sock.gettimeout() or 0)
        self._room = room

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        remaining = self._deadline - monotonic()
        if remaining <= 0:
            raise TimeoutError("the answer took too long")
        self._sock.settimeout(remaining)
        count = cast("int", self._raw.readinto(buffer))  # only non-blocking sockets return None
        self._room -= count
        if self._room < 0:
            raise AnswerTooLargeError
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class BoundedResponse(http.client.HTTPResponse):
    """A response whose time-out and size limit apply to the whole answer, headers included."""

    def __init__(
        self,
        sock: socket.socket,
        debuglevel: int = 0,
        method: str | None = None,
        url: str | None = None,
        *,
        limit: int = MAX_ANSWER_BYTES,
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        self._limit = limit
        self.fp: io.BufferedReader = io.BufferedReader(_BoundedReader(self.fp.detach(), sock, limit))

    def _safe_read(self, amt: int) -> bytes:
        # http.client allocates a declared length before the read; one beyond the limit fails at once.
        if amt > self._limit:
            raise AnswerTooLargeError
        return cast("bytes", super()._safe_read(amt))  # type: ignore[misc]


class BoundedHTTPConnection(HTTPConnection):
    """A connection with a bounded set-up and answers of at most `max_answer` bytes."""

    def __init__(self, *args: Any, max_answer: int = MAX_ANSWER_BYTES, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.response_class = cast("type[BoundedResponse]", functools.partial(BoundedResponse, limit=max_answer))

    def connect(self) -> None:
        """Connect (DNS, TCP, tunnel and TLS together) within the connect time-out."""
        timeout = cast("float", self.timeout)
        self._connect_by = monotonic() + timeout
        super().connect()
        if monotonic() > self._connect_by:
            raise ConnectTimeoutError(self, "connecting took too long")
        self.sock.settimeout(timeout)  # the remaining time of the last step must not bound sending

    def _left(self) -> float:
        """Return the remaining seconds to connect."""
        return max(self._connect_by - monotonic(), _LEAST_TIMEOUT)

    def _new_conn(self) -> socket.socket:
        """Resolve and connect within the remaining time for all addresses together."""
        failure: Exception | None = None
        try:
            addresses = resolver.resolve(self._dns_host.strip("[]"), self.port, within=self._left())
        except (OSError, UnicodeError, RuntimeError) as error:  # RuntimeError: no thread could be started
            raise NoAddressError(self, "name resolution failed") from error
        for untried, (family, kind, protocol, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
            sock = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                # An even share of the remaining time, so that a silent first address leaves time for the second.
                sock.settimeout(max(self._left() / untried, _LEAST_TIMEOUT))
                sock.connect(address)
                sock.settimeout(self._left())  # for TLS: the time-out of the socket bounds the whole handshake
            except OSError as error:
                sock.close()
                failure = error
            else:
                return sock
        raise NewConnectionError(self, "no address answered") from failure

    def _tunnel(self) -> None:
        """Open the tunnel of the proxy within the remaining time; the rest is for TLS."""
        self.sock.settimeout(self._left())
        super()._tunnel()
        self.sock.settimeout(self._left())


class BoundedHTTPSConnection(BoundedHTTPConnection, HTTPSConnection):
    """The same over TLS."""


class GatedHTTPConnection(BoundedHTTPConnection):
    """A connection for one request, which sends its first byte only if the gate was asked on it and permits it.

    Without a gate it sends nothing.
    """

    def __init__(self, *args: Any, gate: Gate | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gate = gate or Gate(lambda: None)  # a gate that was never armed lets nothing pass
        self._connecting = self._asked = self._passed = self._requested = False

    def connect(self) -> None:
        """Connect, then ask the gate."""
        self._connecting = True
        try:
            super().connect()
        except Exception:
            self.gate.not_reached()
            raise
        finally:
            self._connecting = False
        self.gate.ask()
        self._asked = True

    def putrequest(self, *args: Any, **kwargs: Any) -> None:
        """Begin the only request."""
        if self._requested:
            raise self.gate.shut()
        self._requested = True
        super().putrequest(*args, **kwargs)

    def send(self, data: Any) -> None:
        """Send a part of the request, the first one through the gate. The CONNECT to a proxy does not count."""
        if not self._connecting and not self._passed:
            if self.sock is None:
                self.connect()
            if not self._asked:
                raise self.gate.shut()
            self.gate.let_pass()
            self._passed = True
        super().send(data)


class GatedHTTPSConnection(GatedHTTPConnection, BoundedHTTPSConnection):
    """The same over TLS."""


class BoundedHTTPConnectionPool(HTTPConnectionPool):
    """A pool of bounded connections."""

    ConnectionCls = BoundedHTTPConnection


class BoundedHTTPSConnectionPool(HTTPSConnectionPool):
    """A pool of bounded connections over TLS."""

    ConnectionCls = BoundedHTTPSConnection


class GatedHTTPConnectionPool(HTTPConnectionPool):
    """A pool for the connections of one dial; it refuses a connection without its gate."""

    ConnectionCls = GatedHTTPConnection
    gate: Gate

    def use(self, gate: Gate) -> None:
        """Give every connection this gate."""
        self.gate = self.conn_kw["gate"] = gate

    def _get_conn(self, timeout: float | None = None) -> Any:
        try:
            conn = super()._get_conn(timeout)
        except Exception:
            self.gate.not_reached()
            raise
        if not isinstance(conn, GatedHTTPConnection) or conn.gate is not self.gate:
            raise self.gate.shut()
        return conn


class GatedHTTPSConnectionPool(GatedHTTPConnectionPool, HTTPSConnectionPool):
    """The same over TLS."""

    ConnectionCls = GatedHTTPSConnection

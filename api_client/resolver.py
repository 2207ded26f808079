"""Resolve host names within a time limit: `getaddrinfo` has none and cannot be interrupted."""

import contextlib
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

MAX_PENDING = 8
"""Most concurrent resolutions in one process, blocked ones included; a further one fails at once."""
JOINED_FOR = 10.0
"""Seconds for which callers join a pending resolution of the same name instead of starting another."""

AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


class ResolverBusyError(OSError):
    """`MAX_PENDING` resolutions are pending: name resolution blocks on this machine."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """One resolution that a thread runs since `began` (monotonic seconds)."""

    began: float
    addresses: "Future[Sequence[AddressInfo]]" = field(default_factory=Future)


class Resolver:
    """Resolve each name in a daemon thread, for any number of callers; at most `most` threads exist."""

    def __init__(self, most: int = MAX_PENDING) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._threads = 0
        self._latest: dict[tuple[str, int], _Pending] = {}

    def resolve(self, host: str, port: int, *, within: float) -> Sequence[AddressInfo]:
        """Return the stream addresses of a host, after at most `within` seconds.

        Raises OSError (TimeoutError and ResolverBusyError among them) or UnicodeError.
        """
        with contextlib.suppress(socket.gaierror):  # an IP address needs no resolver, and no thread
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return self._pending(host, port).addresses.result(max(within, 0))

    def _pending(self, host: str, port: int) -> _Pending:
        """Return the resolution to wait for: a recent one of the same name, else a new one."""
        name = (host, port)
        with self._lock:
            pending = self._latest.get(name)
            if pending is not None and monotonic() - pending.began < JOINED_FOR:
                return pending
            if self._threads >= self._most:
                raise ResolverBusyError("too many name resolutions are under way")
            pending = _Pending(monotonic())
            threading.Thread(target=self._run, args=(name, pending), name="resolver", daemon=True).start()
            self._threads += 1
            self._latest[name] = pending
        return pending

    def _run(self, name: tuple[str, int], pending: _Pending) -> None:
        addresses: Sequence[AddressInfo] = []
        failure: Exception | None = None
        try:
            addresses = socket.getaddrinfo(*name, type=socket.SOCK_STREAM)
        except Exception as error:  # noqa: BLE001  the callers receive it, not this thread
            failure = error
        with self._lock:
            self._threads -= 1
            if self._latest.get(name) is pending:
                del self._latest[name]
        if failure is None:
            pending.addresses.set_result(addresses)
        else:
            pending.addresses.set_exception(failure)

"""Follow the primary: leave a demoted server, find the new primary, and log in with a rotated password (S41).

All connections of a process to one address share a `Primary`. When a reply shows that the server takes no writes any
more, its `generation` moves on: every connection of an earlier one ends, also in threads that wait for a reply, and is
replaced before its next command. A new connection resolves the name of the host again, or asks the Sentinels, so an
address that follows the primary is followed.
"""

import contextlib
import functools
import logging
import os
import re
import socket
import time
import weakref
from collections.abc import Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, parse_url
from redis.exceptions import AuthenticationError, MasterDownError, NoPermissionError, ReadOnlyError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from config.redis_url import parse_redis_url
from config.secret_files import read_again

SENTINEL_ANSWERS_WITHIN = 1.0  # seconds to connect to one Sentinel, and for its answer
LOGGED_EVERY = 10.0  # seconds between two log lines about a server that takes no writes

# A replica refuses writes, and a demotion ends blocking commands. A primary without enough replicas may be cut off from
# its successor, or be the only one: only the refused connection is replaced. The error text of a script on Redis before
# 7 has a prefix.
DEMOTED_TEXT = re.compile(r"(?:.* -)?(?:READONLY|MASTERDOWN|UNBLOCKED) ")
CUT_OFF_TEXT = re.compile(r"(?:.* -)?NOREPLICAS ")

log = logging.getLogger(__name__)


class Primary:
    """The primary to which an address of the settings leads, and the credentials for it; threads share an instance."""

    def __init__(self, address: str) -> None:
        self.url = parse_redis_url(address)
        self.generation = 0
        self.made = 0  # connections so far
        self._connections: weakref.WeakValueDictionary[int, Following] = weakref.WeakValueDictionary()
        self._place: tuple[str, int] | None = None
        self._address = self._last_read = address
        self._sentinels = self.url.sentinels if self.url.service else ()
        self._logged_at = -LOGGED_EVERY

    def __repr__(self) -> str:
        return f"<Primary of {self.url!r}>"  # kombu compares connections by it; contains no password

    def options(self) -> dict[str, Any]:
        """Return the arguments with which `redis.ConnectionPool` makes connections to this primary."""
        options: dict[str, Any] = parse_url(self.url.for_redis_py())  # type: ignore[no-untyped-call]
        kind = CONNECTIONS[options.get("connection_class", redis.Connection)]
        return options | {"connection_class": kind, "primary": self}

    def place(self) -> tuple[str, int] | None:
        """Return host and port of the primary as the Sentinels know it; None for the address of a server.

        Raises redis.ConnectionError if no Sentinel names a primary that it can reach.
        """
        if self.url.service is None:
            return None
        place = self._named_place(self.url.service)
        before, self._place = self._place, place
        if before not in (None, place):
            self.leave(self.generation)
        return place

    def _named_place(self, service: str) -> tuple[str, int]:
        """Ask one Sentinel after the other, and pass over each that refuses to answer, or does not know the service."""
        faults: list[redis.RedisError] = []
        for one in self._sentinels:
            try:
                with Sentinel([one], sentinel_kwargs=self._sentinel_options()) as sentinel:  # type: ignore[no-untyped-call]
                    host, port = sentinel.discover_master(service)
            except redis.RedisError as error:
                faults.append(error)
                continue
            self._sentinels = (one, *(other for other in self._sentinels if other != one))  # the next time, `one` first
            return str(host), int(port)
        self.read_secret_again()
        why = f"no Sentinel at {self.url.location} names a primary of the service {service}"
        raise redis.ConnectionError(f"{why}: {_sentinels_fault(faults)}") from faults[-1]

    def add(self, connection: "Following") -> None:
        """Add a connection to those that end when their server is left."""
        self._connections[id(connection)] = connection

    def leave(self, generation: int) -> None:
        """Begin a new generation if that of a connection is the present one, and end all older connections."""
        if generation != self.generation:
            return
        self.generation += 1
        references = self._connections.valuerefs()  # a list, so that other threads may add connections
        for connection in filter(None, [reference() for reference in references]):
            connection.end()

    def _sentinel_options(self) -> dict[str, Any]:
        tls: dict[str, Any] = {}
        if self.url.is_encrypted("sentinel_ssl"):
            tls = {"ssl": True} | self.url.tls_options
        return tls | {
            "socket_timeout": SENTINEL_ANSWERS_WITHIN,
            "socket_connect_timeout": SENTINEL_ANSWERS_WITHIN,
            "retry": Retry(NoBackoff(), 0),
            "username": self.url.options.get("sentinel_username"),
            "password": self.url.options.get("sentinel_password"),
        }

    def examine(self, error: redis.RedisError, generation: int) -> None:
        """Learn from an error on a connection of `generation`; redis.ConnectionError if its server must be left.

        The server has not carried the command out then, so redis-py may send it again over a new connection.
        """
        if is_demoted(error) or is_cut_off(error):
            if is_demoted(error):
                self.leave(generation)
            if time.monotonic() >= self._logged_at + LOGGED_EVERY:
                self._logged_at = time.monotonic()
                log.warning("Redis at %s takes no writes, connecting again: %s", self.url.location, error)
            raise redis.ConnectionError(f"{self.url.location} takes no writes: {error}") from error
        if isinstance(error, AuthenticationError | NoPermissionError):
            self.read_secret_again()

    def read_secret_again(self) -> None:
        """Take a changed username or password from the secret file of the address, if it came from one."""
        text = read_again(self._address)
        if text in (None, self._last_read):
            return
        self._last_read = text
        try:
            found = parse_redis_url(text)
        except ValueError as error:
            log.warning("the file with the address of Redis at %s %s", self.url.location, error)
            return
        if (found.location, found.database) != (self.url.location, self.url.database):
            log.warning("the file with the address of Redis names another server, which takes a restart")
        self.url = self.url.with_secrets_of(found)
        self.leave(self.generation)


@functools.cache
def primary_of(address: str) -> Primary:
    """Return this process's `Primary` for a Redis URL of the settings."""
    return Primary(address)


def connections_made(client: redis.Redis) -> int:
    """Return how many connections to the client's primary were made; after a new one the server may be another."""
    primary = client.get_connection_kwargs().get("primary")
    return primary.made if isinstance(primary, Primary) else 0


def is_cut_off(error: redis.RedisError) -> bool:
    """Return whether a primary refused a write because too few replicas are connected to it."""
    return isinstance(error, redis.ResponseError) and bool(CUT_OFF_TEXT.match(str(error)))


def _sentinels_fault(faults: Sequence[redis.RedisError]) -> str:
    """Return why no Sentinel names a primary, by the errors of all; redis-py repeats their texts in its own. Pure."""
    text = " ".join(f"{type(fault).__name__} {fault}" for fault in faults)
    if "AuthenticationError" in text:
        return "they require another sentinel_password"
    if "SSL" in text:
        return "TLS to them fails, see sentinel_ssl and ssl_ca_certs"
    if any(not isinstance(fault, MasterNotFoundError) for fault in faults):
        return "they refuse the question, see the rights of sentinel_username"
    if any(" : " not in str(fault) for fault in faults):
        return "they know none of this name that is up"
    return "they do not answer"


def is_demoted(error: redis.RedisError) -> bool:
    """Return whether a server refused a command because it is a replica, or is about to be one."""
    if isinstance(error, ReadOnlyError | MasterDownError):
        return True
    return isinstance(error, redis.ResponseError) and bool(DEMOTED_TEXT.match(str(error)))


class Following(AbstractConnection):
    """Mixin for a connection of redis-py that leaves its server together with all others of its `Primary`.

    Between two commands of a transaction, leaving is an error like any lost connection, never a silent replacement.
    """

    def __init__(self, *, primary: Primary, **options: Any) -> None:
        self._primary = primary
        self._generation = primary.generation
        super().__init__(**options)
        primary.add(self)

    def connect(self) -> None:
        """Connect unless connected to the present primary; the pool does so with each connection that it hands out."""
        if self._generation != self._primary.generation:
            self.disconnect()  # type: ignore[no-untyped-call]
        super().connect()  # type: ignore[no-untyped-call]

    def _connect(self) -> Any:
        place = self._primary.place()
        self._generation = self._primary.generation
        self._primary.made += 1
        self.username, self.password = self._primary.url.credentials
        if place is not None:
            self.host, self.port = place
        return super()._connect()  # type: ignore[no-untyped-call, safe-super]

    def end(self) -> None:
        """End the connection of an earlier generation from any thread: one that waits for a reply gets an error."""
        sock = self._sock
        if sock is None or self._generation == self._primary.generation or self.pid != os.getpid():
            return
        with contextlib.suppress(OSError):  # the thread of the connection has closed it
            # not `shutdown` of TLS, after which a thread could send in the clear
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send a command; redis.ConnectionError if the connection leads to a server that was left."""
        if self._generation != self._primary.generation and self._sock:
            self.disconnect()
            raise redis.ConnectionError(f"the connection to {self._primary.url.location} has been left")
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]

    def read_response(self, *args: Any, **options: Any) -> Any:
        """Read a reply; redis.ConnectionError if the server takes no writes any more."""
        try:
            return super().read_response(*args, **options)
        except redis.RedisError as error:
            self._primary.examine(error, self._generation)
            raise


class FollowingConnection(Following, redis.Connection):
    """A TCP connection that follows the primary."""


class FollowingSSLConnection(Following, redis.SSLConnection):
    """A TLS connection that follows the primary."""


class FollowingSocketConnection(Following, redis.UnixDomainSocketConnection):
    """A connection over a Unix domain socket that follows the primary."""


CONNECTIONS: dict[Any, Any] = {
    redis.Connection: FollowingConnection,
    redis.SSLConnection: FollowingSSLConnection,
    redis.UnixDomainSocketConnection: FollowingSocketConnection,
}

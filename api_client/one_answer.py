"""Connections of an event loop that take one answer to each request, bounded as a whole, and nothing unasked."""

import asyncio
import functools
import ssl
from dataclasses import dataclass
from typing import Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler

from api_client.transport import MAX_ANSWER_BYTES, AnswerTooLargeError

MAX_TOGETHER = 64 * 1024 * 1024
"""Bytes of all answers under way on one event loop …"""
SMALL = 64 * 1024
"""… beyond which one that has more than so many is refused: thousands of polls may be answered at the same time."""
_INTERIM = frozenset(range(100, 200)) - {101}  # after 101 no further answer comes


@dataclass
class UnderWay:
    """The bytes that have arrived of the answers under way on one event loop."""

    size: int = 0


class OneAnswerHandler(ResponseHandler):
    """A connection with one answer of at most 1 MiB to each request, heads and framing included (S39).

    By itself aiohttp bounds neither what it keeps of interim answers nor what arrives while a connection is idle, and
    the first answer that comes unasked passes for that of the next request. Here it ends the connection.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, under_way: UnderWay) -> None:
        super().__init__(loop)
        self._under_way = under_way
        self._size = 0
        self._answered = True

    def set_response_params(self, **params: Any) -> None:
        """Expect an answer from here on."""
        self._answered = False
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Take what has arrived, as long as it belongs to an answer that is wanted."""
        if data and self._complete:
            self._hang_up()
            return
        self._size += len(data)
        self._under_way.size += len(data)
        if self._size > MAX_ANSWER_BYTES or (self._size > SMALL and self._under_way.size > MAX_TOGETHER):
            self._refuse()
            return
        super().data_received(data)
        if self._complete:
            self._forget_size()

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Pass the head of an answer on; those of interim answers are of no use."""
        message, _ = data
        if message.code not in _INTERIM:
            self._answered = True
            super().feed_data(data, size)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count nothing of this connection any more."""
        self._forget_size()
        super().connection_lost(exc)

    @property
    def _complete(self) -> bool:
        return self._answered and (self._payload is None or self._payload.is_eof())

    def _forget_size(self) -> None:
        self._under_way.size -= self._size
        self._size = 0

    def _refuse(self) -> None:
        error = AnswerTooLargeError()
        self.set_exception(error)
        if self._payload is not None:
            self._payload.set_exception(error)
        self._hang_up()

    def _hang_up(self) -> None:
        if self.transport is not None:
            self.transport.abort()


def connector(tls: ssl.SSLContext) -> aiohttp.TCPConnector:
    """Return what makes such connections, any number of them; to be called on the event loop."""
    made = aiohttp.TCPConnector(limit=0, ssl=tls)
    handler = cast("Any", functools.partial(OneAnswerHandler, asyncio.get_running_loop(), UnderWay()))
    made._factory = handler  # noqa: SLF001 - aiohttp offers no other way
    return made

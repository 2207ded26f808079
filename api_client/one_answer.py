"""Connections for an event loop: one answer per request, bounded as a whole; unrequested bytes close the connection."""

import asyncio
import functools
import ssl
from dataclasses import dataclass
from typing import Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler

from api_client.transport import MAX_ANSWER_BYTES, AnswerTooLargeError

MAX_TOGETHER = 64 * 1024 * 1024
"""Bytes of all unfinished answers on one event loop …"""
SMALL = 64 * 1024
"""… above which an answer of more than this size in bytes is refused: thousands of answers can arrive at once."""
_INTERIM = frozenset(range(100, 200)) - {101}  # no other answer follows a 101


@dataclass
class UnderWay:
    """The received bytes of the unfinished answers on one event loop."""

    size: int = 0


class OneAnswerHandler(ResponseHandler):
    """A connection with one answer of at most 1 MiB per request, headers and framing included (S39).

    aiohttp bounds neither the interim answers that it keeps nor the bytes that arrive on an idle connection, and takes
    an unrequested answer for the answer to the next request. Here such bytes close the connection.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, under_way: UnderWay) -> None:
        super().__init__(loop)
        self._under_way = under_way
        self._size = 0
        self._answered = True

    def set_response_params(self, **params: Any) -> None:
        """Expect an answer from now on."""
        self._answered = False
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Accept received bytes as long as they belong to a requested answer within its limits."""
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
        """Pass on the head of an answer; drop those of interim answers."""
        message, _ = data
        if message.code not in _INTERIM:
            self._answered = True
            super().feed_data(data, size)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Remove the bytes of this connection from the total."""
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
    """Return a connector of any number of such connections; call it on the event loop."""
    made = aiohttp.TCPConnector(limit=0, ssl=tls)
    handler = cast("Any", functools.partial(OneAnswerHandler, asyncio.get_running_loop(), UnderWay()))
    made._factory = handler  # noqa: SLF001 - aiohttp has no public option for it
    return made

"""Send an answer at once or byte by byte, or hang, or reset the connection."""

import asyncio
import socket
import struct
from http import HTTPStatus

from aiohttp import web

_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER on, for 0 s: closing sends RST instead of FIN


class Exchange:
    """The answer to one request; `ended` is its end, None before it."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response: web.Response | None = None
        self.status: int | None = None
        self.sent = 0
        self.ended: str | None = None

    async def send(
        self, status: int, body: bytes, *, headers: dict[str, str] | None = None, chunked: bool = False
    ) -> None:
        """Send the whole answer at once."""
        response = web.Response(status=status, body=body, content_type="application/json", charset="utf-8")
        response.headers.update(headers or {})
        if chunked:
            response.enable_chunked_encoding()
        await response.prepare(self._request)
        self.status = status
        await response.write_eof()
        self.sent, self.ended, self.response = len(body), "answered", response

    async def drip(self, status: int, body: bytes, *, seconds: float, from_body: bool) -> None:
        """Send one byte per `seconds`, from the first header or from the body on, then close the connection."""
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        ).encode()
        transport = await self._transport()
        self.status = status
        at_once, slow = (head, body) if from_body else (b"", head + body)
        transport.write(at_once)
        before = len(head) if not from_body else 0
        for number in range(len(slow)):
            transport.write(slow[number : number + 1])
            self.sent = max(0, number + 1 - before)
            await asyncio.sleep(seconds)
        self.ended = "answered"
        transport.close()
        await self.hang()

    async def reset(self) -> None:
        """Reset the connection."""
        transport = await self._transport()
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        self.ended = "reset"
        transport.abort()
        await self.hang()

    async def hang(self) -> None:
        """Wait until the client disconnects: the server then cancels the handler, which waits here."""
        await asyncio.Event().wait()

    async def _transport(self) -> asyncio.Transport:
        transport = self._request.transport
        if not isinstance(transport, asyncio.Transport):
            raise ConnectionResetError  # the client has disconnected already
        return transport

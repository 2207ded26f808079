"""The stream as it leaves: one task for each connection, which waits, joins what there is, and sends it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.hub import Subscriber, frame

RETRY = 3_000  # milliseconds: for native clients
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",
}


@dataclass(eq=False, slots=True)
class Line:
    """One connection as the server knows it: what to call when it is lost, and how to end it for good."""

    on_lost: Callable[[], None] | None = None
    drop: Callable[[bytes], None] | None = None

    def lost(self) -> None:
        """Take note that the other end is gone."""
        if self.on_lost is not None:
            self.on_lost()


@dataclass(eq=False, slots=True)
class Reader(Subscriber):
    """A subscriber with its connection; `sending_since` is set while the other end takes nothing (loop's seconds)."""

    event: asyncio.Event | None = None
    line: Line | None = None
    sending_since: float | None = None
    is_lost: bool = False

    def lost(self) -> None:
        """End what waits: the connection is gone."""
        self.is_lost = True
        self.wake()

    def drop(self, retry: int) -> None:
        """End a connection whose other end takes nothing: with a last word, if it ever reads it."""
        bye = frame("bye", {"reason": "slow", "retry": retry})
        if self.line is not None and self.line.drop is not None:
            self.line.drop(f"retry: {retry}\n".encode() + bye)
        self.closed = "slow"
        self.lost()


class EventStream(Response):
    """The response of `/v1/stream`; `done` is called when it has ended."""

    def __init__(self, reader: Reader, headers: dict[str, str], done: Callable[[], None]) -> None:
        super().__init__(status_code=200, headers={**HEADERS, **headers})
        del self.headers["content-length"]
        self._reader = reader
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - its line is watched
        """Send until one of the two ends it."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": b""})
                return
            await self._send_all(send)
        finally:
            self._done()

    async def _send_all(self, send: Send) -> None:
        reader, loop = self._reader, asyncio.get_running_loop()
        assert reader.event is not None  # noqa: S101 - for the type checker
        data = f"retry: {RETRY}\n\n".encode() + reader.take()
        while not reader.is_lost:
            message: dict[str, Any] = {"type": "http.response.body", "body": data, "more_body": not reader.closed}
            reader.sending_since = loop.time()
            await send(message)
            reader.sending_since = None
            if not message["more_body"]:
                return
            while not reader.buffer and not reader.is_lost and not reader.closed:
                reader.event.clear()
                await reader.event.wait()
            data = reader.take()

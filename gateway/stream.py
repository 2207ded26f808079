"""Send event streams: one task per connection waits for buffered data and sends it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.hub import Subscriber, frame

RETRY = 3_000  # milliseconds, for clients that use EventSource
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",
}


@dataclass(eq=False, slots=True)
class Line:
    """A connection: the callback for its loss, and the function that closes it."""

    on_lost: Callable[[], None] | None = None
    drop: Callable[[bytes], None] | None = None

    def lost(self) -> None:
        """Notify the stream that the client is gone."""
        if self.on_lost is not None:
            self.on_lost()


@dataclass(eq=False, slots=True)
class Reader(Subscriber):
    """A subscriber with its connection; `sending_since` (loop time) is set while a send is blocked."""

    event: asyncio.Event | None = None
    line: Line | None = None
    sending_since: float | None = None
    is_lost: bool = False

    def lost(self) -> None:
        """Stop sending: the connection is lost."""
        self.is_lost = True
        self.wake()

    def drop(self, retry: int) -> None:
        """Close the connection of a blocked client, with a final `bye`; `retry` in milliseconds."""
        bye = frame("bye", {"reason": "slow", "retry": retry})
        if self.line is not None and self.line.drop is not None:
            self.line.drop(f"retry: {retry}\n".encode() + bye)
        self.closed = "slow"
        self.lost()


class EventStream(Response):
    """The response of `/v1/stream`; `done` is called at its end."""

    def __init__(self, reader: Reader, headers: dict[str, str], done: Callable[[], None]) -> None:
        super().__init__(status_code=200, headers={**HEADERS, **headers})
        del self.headers["content-length"]
        self._reader = reader
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - `Line` reports the loss
        """Send events until the client or the gateway ends the stream."""
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

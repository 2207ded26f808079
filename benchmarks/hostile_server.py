"""Serve hostile HTTP responses on loopback and measure how long each client stays connected for them."""

import asyncio
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, cast
from urllib.parse import parse_qsl, urlsplit

SLICE = 64 * 1024  # bytes handed to the transport at a time
ENDLESS = 64 * 1024 * 1024  # bytes after which an endless response only keeps its connection open
_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER on, for 0 s: closing sends RST instead of FIN

End = Literal["keep", "close", "reset", "hang", "endless"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A response as bytes and pauses in seconds; afterwards `end` applies, and `endless` repeats the last piece.

    The server aborts the connection if the response lasts longer than `stay` seconds.
    """

    kind: str
    pieces: Sequence[bytes | float]
    end: End = "keep"
    stay: float | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed request: the last segment of its path, its query, and the fields of its JSON body."""

    endpoint: str
    query: dict[str, str]
    body: dict[str, Any]


@dataclass
class Served:
    """The server's records; `held` is the longest time of a client in seconds, by the last segment of the path."""

    kinds: Counter[str] = field(default_factory=Counter)
    held: dict[str, float] = field(default_factory=dict)
    beyond: int = 0
    followed: int = 0

    @property
    def answers(self) -> int:
        """The number of responses that were sent or begun."""
        return sum(self.kinds.values())


class HostileServer:
    """Send the response that `respond` returns; run in a thread during the `with` block.

    `bounds` is the maximum time of a client in seconds, by the last segment of the path. Connections to
    `elsewhere`, the target of redirects, are counted; the goal is none.
    """

    def __init__(self, respond: Callable[[Request], Answer], bounds: dict[str, float]) -> None:
        self.served = Served()
        self._respond = respond
        self._bounds = bounds
        self._sockets = [socket.create_server(("127.0.0.1", 0), backlog=1024) for _ in range(2)]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self.links: set[_Link] = set()

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self._sockets[0].getsockname()[1]}"

    @property
    def elsewhere(self) -> str:
        """The target of redirects, which no client may contact."""
        return f"http://127.0.0.1:{self._sockets[1].getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _listen(self) -> None:
        links, elsewhere = self._sockets
        self._servers.append(await self._loop.create_server(lambda: _Link(self), sock=links))
        self._servers.append(await self._loop.create_server(lambda: _Counted(self.served), sock=elsewhere))

    async def _end(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._servers:
            server.close()
        for link in tuple(self.links):
            link.transport.abort()
        await asyncio.sleep(0)  # connections end in the loop's next iteration

    def start(self, link: "_Link", request: Request) -> None:
        """Start to send the response to a request."""
        task = self._loop.create_task(self._answer(link, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, link: "_Link", request: Request) -> None:
        answer = self._respond(request)
        self.served.kinds[answer.kind] += 1
        begin = time.monotonic()
        try:
            await asyncio.wait_for(link.give(answer), answer.stay)
        except TimeoutError:
            link.transport.abort()
        held = time.monotonic() - begin
        self.served.held[request.endpoint] = max(held, self.served.held.get(request.endpoint, 0.0))
        self.served.beyond += held > self._bounds[request.endpoint]


class _Counted(asyncio.Protocol):
    """A connection to the target of a redirect; each one is counted."""

    def __init__(self, served: Served) -> None:
        served.followed += 1


class _Link(asyncio.Protocol):
    """A connection that reads a request, responds, and reads the next one."""

    transport: asyncio.Transport

    def __init__(self, server: HostileServer) -> None:
        self._server = server
        self._read = b""
        self._lost, self._writable = asyncio.Event(), asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=SLICE)
        self._server.links.add(self)

    def data_received(self, data: bytes) -> None:
        self._read += data
        request = read_request(self._read)
        if request:
            self._read = b""
            self._server.start(self, request)

    def connection_lost(self, _exception: Exception | None) -> None:
        self._server.links.discard(self)
        self._lost.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def give(self, answer: Answer) -> None:
        """Send a response; return when it is complete or the client has disconnected."""
        for piece in answer.pieces:
            if isinstance(piece, bytes):
                await self._send(piece)
            elif await self._left_within(piece):
                return
        if answer.end == "close":
            self.transport.close()
        elif answer.end == "reset":
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            self.transport.abort()
        elif answer.end in ("hang", "endless"):
            await self._stay(answer.pieces[-1] if answer.end == "endless" else b"")

    async def _stay(self, again: bytes | float) -> None:
        if isinstance(again, bytes) and again:
            piece = again * (SLICE // len(again) + 1)
            for _ in range(ENDLESS // len(piece)):
                await self._send(piece)
        await self._lost.wait()

    async def _send(self, data: bytes) -> None:
        for begin in range(0, len(data), SLICE):
            if self._lost.is_set() or self.transport.is_closing():
                return
            self.transport.write(data[begin : begin + SLICE])
            await self._writable.wait()

    async def _left_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._lost.wait(), seconds)
        except TimeoutError:
            return False
        return True


def read_request(data: bytes) -> Request | None:
    """Parse a request; return None if it is incomplete."""
    head, blank_line, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    if not blank_line or len(body) < int(headers.get("content-length", "0")):
        return None
    target = urlsplit(lines[0].split(" ")[1])
    return Request(target.path.rpartition("/")[2], dict(parse_qsl(target.query)), json.loads(body or b"{}"))

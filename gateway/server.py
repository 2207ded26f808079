"""One process that serves: its sockets, its connections, its signals."""

import asyncio
import contextlib
import logging
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway.door import LONGEST_HEADERS
from gateway.problems import CONTENT_TYPE, malformed
from gateway.stream import Line

log = logging.getLogger(__name__)

LEAVES_WITHIN = 2  # seconds for answers that are under way when the process is asked to end
GIVEN_UP_AFTER = 10.0  # seconds for the last word of a stream whose other end takes nothing
BACKLOG = 4_096
SEND_BUFFER = 64 * 1024  # bytes that the kernel keeps for one connection: a silent reader is noticed sooner
SILENT_AFTER = 40_000  # milliseconds without an acknowledgement, after which the kernel gives a connection up


class Connection(H11Protocol):
    """A connection whose stream hears at once that it is lost, and can be ended though its other end takes nothing."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        self.line = Line(drop=self._drop)
        self.app_state = {**self.app_state, "line": self.line}

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        self.line.lost()
        self.line.drop = self.line.on_lost = None

    def _drop(self, last: bytes) -> None:
        """Write a last chunk past everything that waits, and close; who does not read it is cut off."""
        self.transport.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(last), last))
        self.transport.close()
        self.cycle.disconnected = True  # what waits to be sent is no longer waited for
        self.flow.resume_writing()
        self.loop.call_later(GIVEN_UP_AFTER, self.transport.abort)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the text is the library's
        """Answer a request that is no HTTP as every other problem is answered."""
        body = malformed("request", "no HTTP/1.1, or headers that are too large", "HTTP/1.1").body(
            prefix="", instance=""
        )
        headers = [
            ("content-type", CONTENT_TYPE),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Server(uvicorn.Server):
    """A server that ends its streams at the first signal, and then itself."""

    def __init__(self, config: uvicorn.Config, close: Callable[[], None]) -> None:
        super().__init__(config)
        self._close = close

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Listen to signals for as long as it serves; a signal that has ended it is no failure."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the streams at once; a second signal ends everything."""
        self._close()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        del frame


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; OSError where there is none to be had. What is set on it, connections inherit."""
    listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    # An answer leaves in two parts; without this the second waits for the other end's delayed acknowledgement, 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_AFTER)
    return listening


def raise_open_files() -> int:
    """Let this process have as many connections as it may; return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def serve(app: Any, listening: socket.socket, close: Callable[[], None]) -> None:
    """Serve until a signal comes; `close` ends what would not end by itself."""
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        loop="asyncio",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        backlog=BACKLOG,
        h11_max_incomplete_event_size=4 * LONGEST_HEADERS,  # up to here the door answers, which says what is too long
        timeout_graceful_shutdown=LEAVES_WITHIN,
        timeout_keep_alive=65,
    )
    Server(config, close).run(sockets=[listening])


def key_file(text: str) -> Path | None:
    """Return the file of the API keys, None where none is named."""
    return Path(text).expanduser() if text else None

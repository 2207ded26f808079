"""The HTTP server of a process: sockets, connections, signals."""

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

LEAVES_WITHIN = 2  # seconds for running requests after a stop signal
GIVEN_UP_AFTER = 10.0  # seconds to send the last event to a client that reads nothing
BACKLOG = 4_096
SEND_BUFFER = 64 * 1024  # bytes per connection in the kernel: a small buffer reveals a blocked client sooner
SILENT_AFTER = 40_000  # milliseconds without an acknowledgement until the kernel drops a connection


class Connection(H11Protocol):
    """A connection that notifies its stream when it is lost, and can be closed while the client reads nothing."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Create the `Line` of the connection."""
        super().connection_made(transport)
        self.line = Line(drop=self._drop)
        self.app_state = {**self.app_state, "line": self.line}

    def connection_lost(self, exc: Exception | None) -> None:
        """Notify the stream that the connection is lost."""
        super().connection_lost(exc)
        self.line.lost()
        self.line.drop = self.line.on_lost = None

    def _drop(self, last: bytes) -> None:
        """Write a last chunk without waiting for pending writes, and close; abort after `GIVEN_UP_AFTER` seconds."""
        self.transport.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(last), last))
        self.transport.close()
        self.cycle.disconnected = True  # pending sends return without waiting
        self.flow.resume_writing()
        self.loop.call_later(GIVEN_UP_AFTER, self.transport.abort)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's text is not used
        """Answer a request that is not valid HTTP with a problem document."""
        body = malformed("request", "not HTTP/1.1, or headers too large", "HTTP/1.1").body(prefix="", instance="")
        headers = [
            ("content-type", CONTENT_TYPE),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Server(uvicorn.Server):
    """A server that closes its streams at the first signal, then stops."""

    def __init__(self, config: uvicorn.Config, close: Callable[[], None]) -> None:
        super().__init__(config)
        self._close = close

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving; a stop by signal counts as success."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Close the streams and stop; a second SIGINT stops without waiting for requests."""
        self._close()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        del frame


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; OSError if the address is not available. Connections inherit its options."""
    listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    # A response is written in two parts; without this the second waits 40 ms for the client's delayed acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_AFTER)
    return listening


def raise_open_files() -> int:
    """Raise the limit of open files to its maximum, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def serve(app: Any, listening: socket.socket, close: Callable[[], None]) -> None:
    """Serve until a signal arrives; `close` ends the streams, which would not end by themselves."""
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
        h11_max_incomplete_event_size=4 * LONGEST_HEADERS,  # up to this size `Door` answers and names the part
        timeout_graceful_shutdown=LEAVES_WITHIN,
        timeout_keep_alive=65,
    )
    Server(config, close).run(sockets=[listening])


def key_file(text: str) -> Path | None:
    """Return the path of the API keys, None if it is not set."""
    return Path(text).expanduser() if text else None

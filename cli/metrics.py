"""Serve the metrics page for Prometheus over HTTP, with a bearer token unless on loopback: `callwatch metrics`."""

import asyncio
import hmac
import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream
from tornado.web import Application, RequestHandler

from cli.connect import bounded_store, connect, read_settings
from cli.exposition import expose, read_state
from cli.signals import Signals
from cli.ui.output import WRONG_USAGE, Failure, say
from config.listening import is_loopback, not_usable
from config.settings import Settings
from worker.runtime.redis_check import report_tls_faults

HEADER_TIMEOUT, TOTAL_TIMEOUT = 5.0, 30.0  # seconds for the headers of a request, and for a whole connection
MAX_CONNECTIONS = 64  # a new one closes the oldest: a scrape takes milliseconds, an attacker stays connected
MAX_HEADERS, MAX_BODY = 16_384, 1_024  # bytes
MAX_SCRAPES = 2
A_DAY = 86_400.0


def metrics(host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM; Failure if the port is not free, or would be public without a token (S40)."""
    settings = read_settings()
    token = settings.metrics_token.get_secret_value() if settings.metrics_token else None
    if token is None and not is_loopback(host):
        raise Failure(
            f"--host {host}: reachable from elsewhere, CALLWATCH_METRICS_TOKEN or CALLWATCH_METRICS_TOKEN_FILE"
            " should give the required token",
            exit_code=WRONG_USAGE,
        )
    try:
        server = MetricsServer(host, port, token, scraper(settings))
    except OSError as error:
        raise Failure(not_usable(host, port, error)) from None
    logging.getLogger("tornado").setLevel(logging.CRITICAL)  # malformed requests of strangers are not worth a log line
    with Signals() as signals:
        server.begin()
        address = f"[{host}]" if ":" in host else host
        say(f"metrics: http://{address}:{server.port}/metrics")
        report_tls_faults(settings)
        while not signals.wait(A_DAY):
            pass


def scraper(settings: Settings) -> Callable[[], bytes]:
    """Return a function that reads one page; it keeps its connections open."""
    store = bounded_store(settings)
    broker = connect(settings.broker_url)
    return lambda: expose(lambda: read_state(store, broker, settings), settings.runbook_url)


class MetricsServer:
    """Serve `/metrics` to requests with the token (None: to all requests), and `/healthz` without data to all.

    One thread serves all connections, so a slow one delays no other; `read` runs in separate threads.
    """

    def __init__(self, host: str, port: int, token: str | None, read: Callable[[], bytes]) -> None:
        self._socket = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._page = {"token": token, "read": read, "scrapes": ThreadPoolExecutor(MAX_SCRAPES, "scrape")}

    def begin(self) -> None:
        """Serve in a separate thread; the main thread waits for a signal."""
        threading.Thread(target=lambda: asyncio.run(self._serve()), name="metrics", daemon=True).start()

    async def _serve(self) -> None:
        application = Application([(".*", Page, self._page)], log_function=lambda _: None)
        server = BoundedServer(
            application,
            no_keep_alive=True,
            idle_connection_timeout=HEADER_TIMEOUT,
            body_timeout=HEADER_TIMEOUT,
            max_header_size=MAX_HEADERS,
            max_body_size=MAX_BODY,
        )
        server.add_socket(self._socket)
        await asyncio.Event().wait()


class BoundedServer(HTTPServer):
    """Bound the number of connections and the time of each; the library bounds headers and bodies."""

    def initialize(self, *args: Any, **options: Any) -> None:
        """Start with an empty list of connections."""
        super().initialize(*args, **options)
        self._streams: list[IOStream] = []

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Serve a new connection; close the oldest one if there are too many."""
        self._streams = [one for one in self._streams if not one.closed()]
        if len(self._streams) >= MAX_CONNECTIONS:
            self._streams.pop(0).close()
        self._streams.append(stream)
        IOLoop.current().call_later(TOTAL_TIMEOUT, stream.close)
        super().handle_stream(stream, address)


class Page(RequestHandler):
    """Handle one request."""

    def initialize(self, token: str | None, read: Callable[[], bytes], scrapes: ThreadPoolExecutor) -> None:
        """Keep the values that all requests share."""
        self._token, self._read, self._scrapes = token, read, scrapes

    def set_default_headers(self) -> None:
        """Hide the version of the server."""
        self.set_header("Server", "callwatch")

    async def get(self) -> None:
        """Answer the request."""
        if self.request.path == "/healthz":
            self._answer(HTTPStatus.OK, b"ok\n")
        elif not self._may_read():
            self.set_header("WWW-Authenticate", "Bearer")
            self._answer(HTTPStatus.UNAUTHORIZED, b"a bearer token is required\n")
        elif self.request.path != "/metrics":
            self._answer(HTTPStatus.NOT_FOUND, b"/metrics is the only page\n")
        else:
            page = await IOLoop.current().run_in_executor(self._scrapes, self._read)
            self._answer(HTTPStatus.OK, page, CONTENT_TYPE_LATEST)

    def _may_read(self) -> bool:
        if self._token is None:
            return True
        given = self.request.headers.get("Authorization", "").encode(errors="replace")
        return hmac.compare_digest(given, f"Bearer {self._token}".encode())

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain") -> None:
        self.set_status(status)
        self.set_header("Content-Type", kind)
        self.finish(body)

    def write_error(self, status_code: int, **_: Any) -> None:
        """Send the status code only."""
        self.finish(f"{status_code}\n")

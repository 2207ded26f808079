"""`callwatch metrics`: one page for Prometheus, over HTTP, behind a bearer token wherever others could reach it."""

import hmac
import ipaddress
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST

from cli.exposition import expose, read_state
from cli.output import WRONG_USAGE, Failure, say
from cli.reach import connect, impatient_store, read_settings
from cli.signals import Signals
from config.settings import Settings

PATIENCE = 10  # seconds for a request to arrive: who says nothing holds no thread for ever
A_DAY = 86_400.0


def metrics(host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM; Failure where the port cannot be had, or anybody could read it (S40)."""
    settings = read_settings()
    token = settings.metrics_token.get_secret_value() if settings.metrics_token else None
    if token is None and not is_loopback(host):
        raise Failure(
            f"--host {host}: reachable from elsewhere, CALLWATCH_METRICS_TOKEN or CALLWATCH_METRICS_TOKEN_FILE"
            " should give the token to ask for",
            exit_code=WRONG_USAGE,
        )
    try:
        server = Server(host, port, token, scraper(settings))
    except OSError as error:
        raise Failure(f"port {port} on {host} cannot be used: {error.strerror or error}") from None
    with Signals() as signals, server:
        server.begin()
        place = f"[{host}]" if ":" in host else host
        say(f"metrics: http://{place}:{server.server_port}/metrics")
        while not signals.wait(A_DAY):
            pass
        server.shutdown()


def scraper(settings: Settings) -> Callable[[], bytes]:
    """Return what reads one page; its connections are kept."""
    store = impatient_store(settings)
    broker = connect(settings.broker_url)
    return lambda: expose(lambda: read_state(store, broker, settings))


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address to listen on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Server(ThreadingHTTPServer):
    """Answers `/metrics` to who knows the token (None: to everybody), and `/healthz`, which says nothing, to all."""

    daemon_threads = True

    def __init__(self, host: str, port: int, token: str | None, read: Callable[[], bytes]) -> None:
        if ":" in host:
            self.address_family = socket.AF_INET6
        self.token, self.read = token, read
        super().__init__((host, port), Page)

    def begin(self) -> None:
        """Serve in a thread of its own, so that a signal finds the first one waiting for it."""
        threading.Thread(target=self.serve_forever, name="metrics", daemon=True).start()


class Page(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    timeout = PATIENCE
    server_version, sys_version = "callwatch", ""

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        if path == "/healthz":
            self._answer(HTTPStatus.OK, b"ok\n", "text/plain")
        elif not self._may_read():
            self._answer(HTTPStatus.UNAUTHORIZED, b"a bearer token is asked for\n", "text/plain")
        elif path != "/metrics":
            self._answer(HTTPStatus.NOT_FOUND, b"/metrics is the only page\n", "text/plain")
        else:
            self._answer(HTTPStatus.OK, self.server.read(), CONTENT_TYPE_LATEST)

    def _may_read(self) -> bool:
        if self.server.token is None:
            return True
        given = self.headers.get("Authorization", "").encode(errors="replace")
        return hmac.compare_digest(given, f"Bearer {self.server.token}".encode())

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: a scrape every few seconds is no news."""

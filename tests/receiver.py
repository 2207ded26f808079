"""Receive notices as a back end's webhook: verify signatures, record notices, simulate outages and errors."""

import base64
import contextlib
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

SECRET = "a made-up secret"


class Receiver:
    """A webhook on its own port, chosen at the first start and kept while it is stopped."""

    def __init__(self, answer: Callable[[dict[str, Any]], int] = lambda _: 204) -> None:
        self.answer = answer
        self.taken: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.forged: list[str] = []
        self.port = 0
        self.connections: set[socket.socket] = set()
        self.opened = 0
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """The webhook's address."""
        return f"http://127.0.0.1:{self.port}/hook?for=tests"

    def start(self) -> Self:
        """Start to listen."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                receiver.connections.add(self.connection)
                receiver.opened += 1

            def finish(self) -> None:
                receiver.connections.discard(self.connection)
                super().finish()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = receiver.receive(dict(self.headers), body)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                if 300 <= status <= 399:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Suppress the request log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop listening and close all connections."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            for connection in tuple(self.connections):  # a kept-alive connection would still be served
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._server = None

    def receive(self, headers: dict[str, str], body: bytes) -> int:
        """Verify and record one notice as docs/notices.md describes; return the HTTP status."""
        names = {name.lower(): value for name, value in headers.items()}
        content = f"{names['webhook-id']}.{names['webhook-timestamp']}.".encode() + body
        wanted = base64.b64encode(hmac.digest(SECRET.encode(), content, hashlib.sha256)).decode()
        fresh = abs(time.time() - int(names["webhook-timestamp"])) < 300
        if names["webhook-signature"] != f"v1,{wanted}" or not fresh:
            self.forged.append(names["webhook-signature"])
            return 401
        notice = json.loads(body)
        status = self.answer(notice)
        if status < 300:
            self.times.append(time.time())
            self.taken.append(notice)
        return status

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

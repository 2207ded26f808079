"""What every request passes: limits of size, host name, proxy's path, CORS, headers of safety, access log."""

import json
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.metrics import Metrics
from gateway.problems import CONTENT_TYPE, Problem

log = logging.getLogger("gateway.access")

LONGEST_BODY, LONGEST_HEADERS, LONGEST_URL = 64 * 1024, 16 * 1024, 4 * 1024
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
SHARED = ("/v1/stream", "/v1/cases/")  # what pages of other origins may read
QUIET = ("/healthz", "/readyz", "/metrics")
SAFETY = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
EXPOSED = "ETag, Retry-After, RateLimit, RateLimit-Policy"


@dataclass(frozen=True, slots=True)
class Entrance:
    """What is let in: host names (without ports), origins whose pages may look, and the path in front."""

    hosts: Sequence[str]
    origins: Sequence[str]
    prefix: str

    def check(self, scope: Scope) -> None:
        """Return where a request may pass; Problem otherwise."""
        headers = scope["headers"]
        if sum(len(name) + len(value) + 4 for name, value in headers) > LONGEST_HEADERS:
            raise Problem("header-too-large")
        if len(scope["raw_path"]) + len(scope["query_string"]) + 1 > LONGEST_URL:
            raise Problem("url-too-long")
        named = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
        if len(named) != 1 or _without_port(named[0]) not in (*LOOPBACK, *self.hosts):
            raise Problem("wrong-host")
        length = next((value for name, value in headers if name == b"content-length"), b"0")
        if length.isdigit() and int(length[:20]) > LONGEST_BODY:
            raise Problem("too-large")

    def headers_for(self, scope: Scope) -> dict[str, str]:
        """Return the headers of every answer to a request."""
        if not scope["path"].startswith(SHARED):
            return SAFETY
        origin = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"), "")
        headers = {**SAFETY, "Vary": "Origin"}
        if origin.lower() in self.origins:
            headers |= {
                "Access-Control-Allow-Origin": origin,
                "Access-Control-Expose-Headers": EXPOSED,
                "Cross-Origin-Resource-Policy": "cross-origin",
            }
        return headers


PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD",
    "Access-Control-Allow-Headers": "authorization, last-event-id",
    "Access-Control-Max-Age": "7200",
}


def _without_port(host: str) -> str:
    return host if host.endswith("]") else host.rpartition(":")[0] or host


class Door:
    """The outermost part of the application."""

    def __init__(self, app: ASGIApp, entrance: Entrance, metrics: Metrics) -> None:
        self._app = app
        self._entrance = entrance
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or say why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, path = time.monotonic(), scope["path"]
        scope["state"]["instance"] = f"r-{secrets.token_hex(8)}"
        prefix = self._entrance.prefix
        if prefix and path.startswith(f"{prefix}/"):
            scope["path"] = path[len(prefix) :]
            scope["raw_path"] = scope["raw_path"][len(prefix) :]
        answer = Answer(send, self._entrance.headers_for(scope))
        try:
            self._entrance.check(scope)
            if scope["method"] == "OPTIONS" and "Access-Control-Allow-Origin" in answer.extra:
                await answer.plain(204, PREFLIGHT)
            else:
                await self._app(scope, Bounded(receive), answer)
        except Problem as problem:
            await answer.problem(problem, prefix=prefix, instance=scope["state"]["instance"])
        finally:
            self._tell(scope, answer.status, time.monotonic() - begin)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        route = str(getattr(scope.get("route"), "path", "other")).replace(":path}", "}")
        self._metrics.requests.labels(route, str(status)).inc()
        if route != "/v1/stream":
            self._metrics.latency.labels(route).observe(seconds)
        if route in QUIET:
            return
        fields = {
            "method": scope["method"] if scope["method"] in METHODS else "other",
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 1),
            "client": scope["state"].get("client", ""),
            "request": scope["state"]["instance"],
        }
        log.info("request", extra=fields)


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Bounded:
    """A body that ends with a Problem where it grows too large, whatever it announced."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._length = 0

    async def __call__(self) -> Message:
        """Return the next part."""
        message = await self._receive()
        self._length += len(message.get("body", b""))
        if self._length > LONGEST_BODY:
            raise Problem("too-large")
        return message


class Answer:
    """The way out: adds the headers of every answer, and remembers the status."""

    def __init__(self, send: Send, extra: dict[str, str]) -> None:
        self._send = send
        self.extra = extra
        self.status = 0

    async def __call__(self, message: Message) -> None:
        """Send a part."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name for name, _ in message["headers"]}
            added = [
                (name.lower().encode(), value.encode())
                for name, value in self.extra.items()
                if name.lower().encode() not in given
            ]
            message = {**message, "headers": [*message["headers"], *added]}
        await self._send(message)

    async def plain(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        """Send a whole answer."""
        all_headers: dict[str, Any] = {**headers, "Content-Length": str(len(body))} if status != 204 else headers  # noqa: PLR2004
        listed = [(name.lower().encode(), value.encode("latin-1")) for name, value in all_headers.items()]
        await self({"type": "http.response.start", "status": status, "headers": listed})
        await self({"type": "http.response.body", "body": body})

    async def problem(self, problem: Problem, *, prefix: str, instance: str) -> None:
        """Send a problem, unless an answer has begun."""
        if not self.status:
            headers = {**problem.headers, "Content-Type": CONTENT_TYPE, "Connection": "close"}
            await self.plain(problem.status, headers, problem.body(prefix=prefix, instance=instance))


def text_of(document: Any) -> bytes:
    """Return JSON as it leaves."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

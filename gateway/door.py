"""The outermost layer of the application: size limits, Host check, URL prefix, CORS, security headers, access log."""

import json
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.metrics import Metrics
from gateway.problems import CONTENT_TYPE, RETRY_SAME, Problem, fault

log = logging.getLogger("gateway.access")

LONGEST_BODY, LONGEST_HEADERS, LONGEST_URL = 64 * 1024, 16 * 1024, 4 * 1024
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
SHARED = ("/v1/stream", "/v1/cases/")  # readable by pages of the allowed origins
QUIET = ("/healthz", "/readyz", "/metrics")
Headers = list[tuple[bytes, bytes]]
SAFETY: Headers = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
OWN: Headers = [*SAFETY, (b"cross-origin-resource-policy", b"same-origin")]
ALLOWED = b"access-control-allow-origin"
EXPOSED = b"ETag, Retry-After, RateLimit, RateLimit-Policy"


@dataclass(frozen=True, slots=True)
class Entrance:
    """Admission rules: host names (without ports), origins allowed by CORS, and the URL prefix."""

    hosts: Sequence[str]
    origins: Sequence[str]
    prefix: str

    def check(self, scope: Scope) -> None:
        """Accept a request within the limits and for a known host; Problem otherwise."""
        headers = scope["headers"]
        if (length := sum(len(name) + len(value) + 4 for name, value in headers)) > LONGEST_HEADERS:
            raise Problem("header-too-large", errors=[_too_long("headers", length, LONGEST_HEADERS)])
        if (length := len(scope["raw_path"]) + len(scope["query_string"]) + 1) > LONGEST_URL:
            raise Problem("url-too-long", errors=[_too_long("path and query", length, LONGEST_URL)])
        named = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
        if len(named) != 1 or _without_port(named[0]) not in (*LOOPBACK, *self.hosts):
            kind = "a name that is not listed" if len(named) == 1 else f"given {len(named)} times"
            raise Problem("wrong-host", errors=[fault("Host", kind, "a host name of this gateway")])
        announced = next((value for name, value in headers if name == b"content-length"), b"0")
        if announced.isdigit() and (length := int(announced[:20])) > LONGEST_BODY:
            raise Problem("too-large", errors=[_too_long("body", length, LONGEST_BODY)])

    def headers_for(self, scope: Scope) -> Headers:
        """Return the headers of every answer to a request."""
        if not scope["path"].startswith(SHARED):
            return OWN
        origin = next((value for name, value in scope["headers"] if name == b"origin"), b"")
        if origin.decode("latin-1").lower() not in self.origins:
            return [*OWN, (b"vary", b"Origin")]
        return [
            *SAFETY,
            (b"vary", b"Origin"),
            (b"cross-origin-resource-policy", b"cross-origin"),
            (ALLOWED, origin),
            (b"access-control-expose-headers", EXPOSED),
        ]


def _too_long(part: str, length: int, most: int) -> dict[str, str]:
    return fault(part, f"of {length} bytes", f"at most {most} bytes")


PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD",
    "Access-Control-Allow-Headers": "authorization, last-event-id",
    "Access-Control-Max-Age": "7200",
}


def _without_port(host: str) -> str:
    return host if host.endswith("]") else host.rpartition(":")[0] or host


class Door:
    """The outermost layer of the application.

    `direct` maps method and path to routes whose endpoints are called without FastAPI's wrapper: the wrapper costs 20 %
    of the CPU time of a trigger and a third of the memory of a stream.
    """

    def __init__(
        self, app: ASGIApp, entrance: Entrance, metrics: Metrics, direct: Mapping[tuple[str, str], APIRoute]
    ) -> None:
        self._app = app
        self._entrance = entrance
        self._metrics = metrics
        self._direct = direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; answer with a problem if it is refused or fails."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, path, state = time.monotonic(), scope["path"], scope["state"]
        state["instance"] = f"r-{secrets.token_hex(8)}"
        prefix = self._entrance.prefix
        if prefix and path.startswith(f"{prefix}/"):
            scope["path"] = path[len(prefix) :]
            scope["raw_path"] = scope["raw_path"][len(prefix) :]
        answer = Answer(send, self._entrance.headers_for(scope))
        try:
            self._entrance.check(scope)
            await self._pass_on(scope, receive, answer)
        except Problem as problem:
            await answer.problem(problem, prefix=prefix, instance=state["instance"])
        except Exception:
            internal = Problem("internal", members=RETRY_SAME)
            await answer.problem(internal, prefix=prefix, instance=state["instance"])
            raise
        finally:
            self._record(scope, answer.status, max(0.0, time.monotonic() - begin - state.get("waited", 0.0)))

    async def _pass_on(self, scope: Scope, receive: Receive, answer: "Answer") -> None:
        route = self._direct.get((scope["method"], scope["path"]))
        if scope["method"] == "OPTIONS" and any(name == ALLOWED for name, _ in answer.extra):
            await answer.plain(204, PREFLIGHT)
        elif route is None:
            await self._app(scope, Bounded(receive), answer)
        else:
            scope["route"] = route
            response = await route.endpoint(Request(scope, Bounded(receive)))
            await response(scope, receive, answer)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
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
    """A request body that raises Problem beyond the size limit, regardless of its Content-Length."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._length = 0

    async def __call__(self) -> Message:
        """Receive the next message."""
        message = await self._receive()
        self._length += len(message.get("body", b""))
        if self._length > LONGEST_BODY:
            raise Problem("too-large", errors=[_too_long("body", self._length, LONGEST_BODY)])
        return message


class Answer:
    """The sending side: adds the common headers, and records the status."""

    def __init__(self, send: Send, extra: Headers) -> None:
        self._send = send
        self.extra = extra
        self.status = 0

    async def __call__(self, message: Message) -> None:
        """Send a message."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name for name, _ in message["headers"]}
            added = [header for header in self.extra if header[0] not in given]
            message = {**message, "headers": [*message["headers"], *added]}
        await self._send(message)

    async def plain(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        """Send a complete response."""
        all_headers: dict[str, Any] = {**headers, "Content-Length": str(len(body))} if status != 204 else headers  # noqa: PLR2004
        listed = [(name.lower().encode(), value.encode("latin-1")) for name, value in all_headers.items()]
        await self({"type": "http.response.start", "status": status, "headers": listed})
        await self({"type": "http.response.body", "body": body})

    async def problem(self, problem: Problem, *, prefix: str, instance: str) -> None:
        """Send a problem, unless a response has started."""
        if not self.status:
            headers = {**problem.headers, "Content-Type": CONTENT_TYPE, "Connection": "close"}
            await self.plain(problem.status, headers, problem.body(prefix=prefix, instance=instance))


def text_of(document: Any) -> bytes:
    """Encode a document as compact JSON in UTF-8."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

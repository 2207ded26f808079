"""Test that the door answers and counts every request, including those whose direct route fails."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive, Scope, Send

from gateway.door import LONGEST_BODY, Door, Entrance
from gateway.metrics import Metrics
from gateway.problems import Problem

Endpoint = Callable[[Request], Awaitable[Response]]


def scope_of(method: str = "POST", path: str = "/direct", **headers: str) -> Scope:
    sent = {"host": "localhost", **headers}
    raw = [(name.encode(), value.encode()) for name, value in sent.items()]
    return {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": raw, "state": {},
    }  # fmt: skip


class Caller:
    """Sends one request through a door with one direct route and records response, log and metrics."""

    def __init__(self, endpoint: Endpoint, body: bytes = b"{}") -> None:
        self.sent: list[Message] = []
        self.metrics = Metrics()
        self.passed_on: list[str] = []
        self._body = body
        route = APIRoute("/direct", endpoint, methods=["POST"])
        entrance = Entrance((), (), "/calls")
        self._door = Door(self._app, entrance, self.metrics, {("POST", "/direct"): route})

    async def _app(self, scope: Scope, _receive: Receive, send: Send) -> None:
        self.passed_on.append(scope["path"])
        await Response(b"app")(scope, _receive, send)

    async def _receive(self) -> Message:
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    def call(self, scope: Scope) -> int:
        asyncio.run(self._door(scope, self._receive, self._send))
        return self.status

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def text(self) -> str:
        return str(self.sent[1]["body"].decode())

    def counted(self, route: str, status: str) -> float:
        return float(self.metrics.requests.labels(route, status)._value.get())


async def echo(request: Request) -> Response:
    return Response(await request.body(), 202)


def test_direct_route_is_called_with_and_without_the_prefix() -> None:
    for path in ("/direct", "/calls/direct"):
        caller = Caller(echo)
        assert (caller.call(scope_of(path=path)), caller.text, caller.passed_on) == (202, "{}", [])
        assert caller.counted("/direct", "202") == 1
        assert (b"cache-control", b"no-store") in caller.sent[0]["headers"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/direct"), ("POST", "/direct/"), ("POST", "/other")])
def test_other_requests_pass_to_the_application(method: str, path: str) -> None:
    caller = Caller(echo)
    assert (caller.call(scope_of(method, path)), caller.passed_on) == (200, [path])


def test_exception_in_a_direct_route_is_a_problem_and_is_logged() -> None:
    """S42: the response allows a retry with the same key and contains nothing of the exception."""

    async def faulty(_: Request) -> Response:
        raise KeyError("secret")

    caller = Caller(faulty)
    with pytest.raises(KeyError):
        caller.call(scope_of())
    assert caller.status == 500
    assert '"retry": {"key": "same"}' in caller.text
    assert "secret" not in caller.text
    assert caller.counted("/direct", "500") == 1


def test_problem_raised_by_a_direct_route_is_its_response() -> None:
    async def refuses(_: Request) -> Response:
        raise Problem("queue-full", headers={"Retry-After": "10"})

    caller = Caller(refuses)
    assert caller.call(scope_of()) == 503
    assert (b"retry-after", b"10") in caller.sent[0]["headers"]
    assert "/calls/problems/queue-full" in caller.text


def test_body_of_a_direct_route_is_bounded_despite_its_content_length() -> None:
    caller = Caller(echo, b"x" * (LONGEST_BODY + 1))
    assert caller.call(scope_of()) == 413
    assert f"of {LONGEST_BODY + 1} bytes" in caller.text


def test_latency_excludes_the_wait_that_the_client_requested() -> None:
    async def waits(request: Request) -> Response:
        request.scope["state"]["waited"] = 1_000.0
        return Response(b"")

    caller = Caller(waits)
    caller.call(scope_of())
    assert caller.metrics.latency.labels("/direct")._sum.get() == 0

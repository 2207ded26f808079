"""Assemble the application: FastAPI routes, error handlers, and the `Door` in front of them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from gateway import memory
from gateway.door import Door
from gateway.problems import CONTENT_TYPE, RETRY_SAME, Problem, fault
from gateway.routes import add_routes
from gateway.service import Gateway

DIRECT = (("POST", "/v1/triggers"), ("GET", "/v1/stream"), ("HEAD", "/v1/stream"))
"""Routes that `Door` calls directly; their endpoints take only the request."""
HOUSEKEEPING = 1.0  # seconds between two runs of `keep_house`


def build(gateway: Gateway, add_pages: Callable[[FastAPI], None] = lambda _app: None) -> Door:
    """Return the application of a gateway; `add_pages` adds the routes outside the API."""

    @contextlib.asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        gateway.feed.start()
        task = asyncio.get_running_loop().create_task(keep_house(gateway))
        yield
        task.cancel()
        await gateway.feed.stop()
        gateway.threads.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    add_routes(app, gateway)
    add_pages(app)
    _answer_errors(app, gateway.entrance.prefix)
    routes = {
        (method, route.path): route
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
        if (method, route.path) in DIRECT
    }
    return Door(app, gateway.entrance, gateway.metrics, routes)


def _answer_errors(app: FastAPI, prefix: str) -> None:
    """Register handlers that answer every error with a problem document."""

    def respond(request: Request, problem: Problem) -> Response:
        body = problem.body(prefix=prefix, instance=request.scope["state"]["instance"])
        return Response(body, problem.status, problem.headers, CONTENT_TYPE)

    @app.exception_handler(Problem)
    async def _problem(request: Request, problem: Problem) -> Response:
        return respond(request, problem)

    @app.exception_handler(RequestValidationError)
    async def _arguments(request: Request, error: RequestValidationError) -> Response:
        """Replace FastAPI's answer, which quotes the values sent."""
        return respond(request, Problem("invalid-arguments", errors=[_wrong_parameter(one) for one in error.errors()]))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:  # noqa: PLR2004
            allowed = (error.headers or {}).get("Allow", "see /openapi.json")
            errors = [fault("method", "not one of this path", allowed)]
            return respond(request, Problem("method-not-allowed", errors=errors, headers=error.headers))
        return respond(request, Problem("not-found" if error.status_code == 404 else "malformed"))  # noqa: PLR2004

    @app.exception_handler(Exception)
    async def _fault(request: Request, _error: Exception) -> Response:
        return respond(request, Problem("internal", members=RETRY_SAME))


def _wrong_parameter(error: Mapping[str, Any]) -> dict[str, str]:
    """Return the fault of one parameter, without its value."""
    kind = f"a text of {len(error['input'])} characters" if isinstance(error["input"], str) else "missing"
    return fault(str(error["loc"][-1]), kind, str(error["msg"]).removeprefix("Input should be "))


async def keep_house(gateway: Gateway) -> None:
    """Drop full rate-limit buckets, and return memory to the system after many streams have closed."""
    tide = memory.Tide()
    while True:
        await asyncio.sleep(HOUSEKEEPING)
        gateway.limits.forget(time.monotonic())
        if tide.has_risen(len(gateway.feed.hub)):
            memory.settle()
        if tide.is_out(len(gateway.feed.hub)):
            await asyncio.get_running_loop().run_in_executor(gateway.threads, memory.give_back)

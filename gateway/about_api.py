"""Operational endpoints: health, readiness, metrics, and the pages about problems."""

import secrets

from fastapi import Request
from fastapi.responses import Response

from gateway.identity import FIELD
from gateway.problems import Problem, fault, page
from gateway.service import Gateway


def get_health() -> Response:
    """Return 200 while the process runs."""
    return Response(b"ok\n", media_type="text/plain; charset=utf-8")


def get_readiness(gateway: Gateway) -> Response:
    """Return 200 while Redis answers and events are read; Problem otherwise."""
    if not gateway.feed.alive or gateway.feed.closing:
        raise Problem("store-unavailable")
    return get_health()


def get_metrics(gateway: Gateway, request: Request) -> Response:
    """Return the metrics; Problem without the metrics token, which a gateway on loopback does not need."""
    given = request.headers.get("authorization", "").encode(errors="replace")
    if gateway.metrics_token is None:
        if not gateway.open_metrics:
            raise Problem("unauthenticated", "Metrics are disabled: CALLWATCH_METRICS_TOKEN is not set.")
    elif not secrets.compare_digest(given, f"Bearer {gateway.metrics_token}".encode()):
        raise Problem("unauthenticated", errors=[fault(FIELD, "missing or unknown", "the metrics token")])
    return Response(gateway.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


def get_problem(name: str) -> Response:
    """Return the page about a problem type; Problem for an unknown name."""
    try:
        return Response(page(name), media_type="text/html; charset=utf-8")
    except KeyError:
        raise Problem("not-found") from None

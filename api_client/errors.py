"""Errors of the client, by the action that they allow: retry, never resend, give up, or query again."""

# ruff: noqa: N818  the names state the consequence for the caller

from collections.abc import Sequence

from api_client.models import CallRecord


class ApiError(Exception):
    """Base of all. `str()` is one line with method, path and kind: never host, query, body or credential (S37)."""


class NotSent(ApiError):
    """Nothing was sent, so a retry cannot ring a phone twice (S12)."""


class OutcomeUnknown(ApiError):
    """The request may have been executed and the phone may be ringing: never send it again (S13, S14).

    `records` holds the jobs of an answer that arrived although no request went through the gate (S18).
    """

    def __init__(self, message: str = "", *, records: Sequence[CallRecord] = ()) -> None:
        super().__init__(message)
        self.records = list(records)


class Rejected(ApiError):
    """Upstream refused the request: no call was started (S12)."""


class Unavailable(ApiError):
    """A read failed by network, time-out or a non-2xx status.

    `retry_after` is the Retry-After of a 429 or 503 in seconds from now, at most 300; None without one.
    """

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ProtocolError(ApiError):
    """An answer violates the API."""

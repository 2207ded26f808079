"""Errors of the client, by the action that they allow: retry, never resend, give up, or query again."""

# ruff: noqa: N818  the names state the consequence for the caller

from collections.abc import Sequence
from typing import ClassVar

from api_client.models import CallRecord
from api_client.reasons import Reason


class ApiError(Exception):
    """Base of all. `str()` is one line with method, path and kind: never host, query, body or credential (S37).

    `reason` is the cause from the closed set (S38); without an argument it is the usual one of the class.
    """

    usual: ClassVar[Reason] = "unreadable"

    def __init__(self, message: str = "", *, reason: Reason | None = None) -> None:
        super().__init__(message)
        self.reason: Reason = reason or self.usual


class NotSent(ApiError):
    """Nothing was sent, so a retry cannot ring a phone twice (S12)."""

    usual = "connect"


class OutcomeUnknown(ApiError):
    """The request may have been executed and the phone may be ringing: never send it again (S13, S14).

    `records` holds the jobs of an answer that arrived although no request went through the gate (S18).
    """

    usual = "connection_lost"

    def __init__(self, message: str = "", *, reason: Reason | None = None, records: Sequence[CallRecord] = ()) -> None:
        super().__init__(message, reason=reason)
        self.records = list(records)


class Rejected(ApiError):
    """Upstream refused the request: no call was started (S12)."""

    usual = "http_4xx"


class Unavailable(ApiError):
    """A read failed by network, time-out or a non-2xx status.

    `retry_after` is the Retry-After of a 429 or 503 in seconds from now, at most 300; None without one.
    """

    usual = "connection_lost"

    def __init__(self, message: str = "", *, reason: Reason | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, reason=reason)
        self.retry_after = retry_after


class ProtocolError(ApiError):
    """An answer violates the API."""

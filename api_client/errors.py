"""What a failed call to the upstream tells its caller to do next."""

# ruff: noqa: N818  the names say what the caller may do; `UnavailableError` would say less

from collections.abc import Sequence

from api_client.models import CallRecord


class ApiError(Exception):
    """Base of all. `str()` is one line of method, path and kind: never host, query, body or credential (S37)."""


class NotSent(ApiError):
    """Nothing left this machine, so trying again cannot ring a phone twice (S12)."""


class OutcomeUnknown(ApiError):
    """The request may have been carried out and the phone may be ringing: never send it again (S13, S14).

    `records` are what an answer named all the same, where one came without having been asked for in order (S18).
    """

    def __init__(self, message: str = "", *, records: Sequence[CallRecord] = ()) -> None:
        super().__init__(message)
        self.records = list(records)


class Rejected(ApiError):
    """The upstream refused the request itself: no call was started (S12)."""


class Unavailable(ApiError):
    """A read failed: network, time-out or a non-2xx status.

    `retry_after` is what a 429 or 503 asked for, in seconds from now, at most 300; None where it asked nothing.
    """

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ProtocolError(ApiError):
    """An answer came and is not what the API promises."""

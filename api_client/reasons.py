"""The closed set of reasons for a trigger, a query or a watch without success, and their meanings (S38)."""

from typing import Literal, get_args

RequestReason = Literal[
    "dns",
    "connect",
    "connect_timeout",
    "tls",
    "proxy",
    "not_confirmed",
    "too_late",
    "past_gate",
    "timeout",
    "connection_lost",
    "redirect",
    "http_401",
    "http_403",
    "http_404",
    "http_408",
    "http_409",
    "http_429",
    "http_4xx",
    "http_5xx",
    "unreadable",
    "inner_code",
    "no_records",
    "no_job_id",
    "no_status",
    "other_job",
    "throttled",
]
"""The reasons that one request to upstream can have."""

Reason = Literal[
    RequestReason,
    "refused",
    "must_wait",
    "limit_reached",
    "paused",
    "calling_hours",
    "expired",
    "active_call",
    "handled_before",
    "erased",
    "missing_argument",
    "bad_argument",
    "task_id_reused",
    "never_sent",
    "sender_died",
    "other_request",
    "not_found",
    "not_asked",
    "lease_ended",
    "deadline",
    "internal",
]
"""All reasons. They contain no data of a case, a person or an address: any log, label or notice may carry them."""

MEANINGS: dict[Reason, str] = {
    "dns": "The host name of upstream could not be resolved. Nothing was sent.",
    "connect": "Upstream refused the connection, or no route leads to it. Nothing was sent.",
    "connect_timeout": "No connection to upstream was established in time. Nothing was sent.",
    "tls": "The TLS handshake failed: certificate, host name or protocol. Nothing was sent.",
    "proxy": "The proxy refused the connection. Nothing was sent.",
    "not_confirmed": "Redis did not confirm that the request may leave. Nothing was sent.",
    "too_late": "More than 2 s passed between the permission to send and the first byte. Nothing was sent.",
    "past_gate": "A request may have left without permission. A fault of callwatch: report it.",
    "timeout": "Upstream sent no complete answer in time.",
    "connection_lost": "The connection broke before the answer was complete.",
    "redirect": "Upstream answered with a redirect, which callwatch does not follow: check `CALLWATCH_API_BASE_URL`.",
    "http_401": "Upstream answered 401: check `CALLWATCH_API_TOKEN`.",
    "http_403": "Upstream answered 403: `CALLWATCH_API_TOKEN` lacks a right.",
    "http_404": "Upstream answered 404: check the path of `CALLWATCH_API_BASE_URL`.",
    "http_408": "Upstream answered 408: it gave up before it had the whole request.",
    "http_409": "Upstream answered 409: it may carry out an earlier request.",
    "http_429": "Upstream answered 429: too many requests. See `CALLWATCH_STATUS_RATE` and `CALLWATCH_DIAL_RATE`.",
    "http_4xx": "Upstream answered with another status from 400 to 499.",
    "http_5xx": "Upstream answered with a status from 500 to 599.",
    "unreadable": "The answer is not HTTP, not JSON, too large, or without the fields of the API.",
    "inner_code": "The `code` inside the answer is no success.",
    "no_records": "The answer lists no record: upstream may not know the case, the mediation or the person.",
    "no_job_id": "A record of the answer is neither a refusal nor a call with a job id.",
    "no_status": "The answer has no status: upstream may not know the call.",
    "other_job": "The answer is about another call.",
    "throttled": "The rate limit of this installation left no room for the request.",
    "refused": "Upstream refused each person, for different reasons or with a code of its own.",
    "must_wait": "Upstream refused with code 1001: the next round has not begun.",
    "limit_reached": "Upstream refused with code 1002: the limit of calls is reached.",
    "paused": "New calls are stopped, by `callwatch pause` or by `CALLWATCH_ENABLED`.",
    "calling_hours": "It is outside the calling hours.",
    "expired": "The trigger's `expires` passed before its request. Nothing was sent.",
    "active_call": "The pair has a call in progress, or one whose outcome is not known.",
    "handled_before": "The task id was handled before, and its result is no longer kept.",
    "erased": "The data of the case were erased.",
    "missing_argument": "The case or the mediation is missing.",
    "bad_argument": "An argument is unknown or unusable; the message names it.",
    "task_id_reused": "The task id was used before for another pair.",
    "never_sent": "The trigger was published again five times and never reached its request. Nothing was sent.",
    "sender_died": "The worker that sent the request stored no end of it: it died or was suspended.",
    "other_request": "A request of another mediation of the case was in progress.",
    "not_found": "Upstream was asked and knows no call of the request.",
    "not_asked": "Upstream answered no look-up.",
    "lease_ended": "Queries ended without a stored answer: their workers died or were suspended.",
    "deadline": "The call was watched for `CALLWATCH_MAX_POLL_DURATION` seconds.",
    "internal": "The task ended with a fault of callwatch: see the log of the workers.",
}

REASONS: tuple[Reason, ...] = get_args(Reason)
REQUEST_REASONS: tuple[RequestReason, ...] = get_args(RequestReason)
_OF_STATUS: dict[int, RequestReason] = {
    401: "http_401",
    403: "http_403",
    404: "http_404",
    408: "http_408",
    409: "http_409",
    429: "http_429",
}


def reason_of_status(status: int) -> RequestReason:
    """Return the reason for an HTTP status that is no success."""
    ranges: dict[int, RequestReason] = {3: "redirect", 4: "http_4xx", 5: "http_5xx"}
    return _OF_STATUS.get(status) or ranges.get(status // 100, "unreadable")

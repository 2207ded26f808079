"""Problem types of the HTTP API (RFC 9457): status, title and meaning. Pure."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.core import texts

CONTENT_TYPE = "application/problem+json"
QUOTA = "https://iana.org/assignments/http-problem-types#quota-exceeded"
BEARER = {"WWW-Authenticate": "Bearer"}


@dataclass(frozen=True, slots=True)
class Kind:
    """A problem type; `meaning` is the text of its page."""

    status: int
    title: str
    meaning: str


KINDS = {
    "malformed": Kind(
        400, "The request cannot be parsed", "Correct the parts listed in `errors` and send the request again."
    ),
    "idempotency-key-missing": Kind(
        400,
        "Idempotency-Key is missing",
        "Every trigger needs an Idempotency-Key, chosen by the back end for each load of a case. The same key never "
        "places a second call. Send the request again with a key.",
    ),
    "unauthenticated": Kind(
        401, "A credential is missing or unknown", "Send `Authorization: Bearer …` with an API key or a case token."
    ),
    "token-expired": Kind(401, "The token has expired", "Request a new token from the back end and connect again."),
    "insufficient-scope": Kind(
        403,
        "The credential lacks the scope",
        "A page's token can only read its cases. Other requests need an API key with the scope listed in `errors`.",
    ),
    "other-case": Kind(403, "The token is for other cases", "Request a token for this case from the back end."),
    "no-such-trigger": Kind(
        404,
        "No such trigger",
        "This client has no trigger with this id. Triggers are stored as long as the history of their case.",
    ),
    "not-found": Kind(404, "Not found", "All paths are listed in /openapi.json."),
    "method-not-allowed": Kind(405, "Method not allowed", "The methods of each path are listed in /openapi.json."),
    "event-stream-only": Kind(406, "Only text/event-stream is available", "Accept text/event-stream, or omit Accept."),
    "too-large": Kind(413, "The body is too large", "The limit is 64 KiB."),
    "url-too-long": Kind(414, "The URL is too long", "The limit is 4 KiB for path and query together."),
    "json-only": Kind(415, "Only application/json is accepted", "Send JSON with the Content-Type application/json."),
    "wrong-host": Kind(
        421,
        "Unknown host name",
        "The operator lists the host names in CALLWATCH_GATEWAY_HOSTS. Loopback names are always accepted.",
    ),
    "invalid-arguments": Kind(422, "Arguments are invalid", "No call was placed. Correct the fields in `errors`."),
    "idempotency-key-reused": Kind(
        422,
        "The Idempotency-Key was used with other arguments",
        "Each key belongs to one request. No call was placed for this request: send it with a new key.",
    ),
    "quota-exceeded": Kind(
        429, "Too many requests", "Retry after the seconds in Retry-After, a trigger with the same key."
    ),
    "header-too-large": Kind(431, "The headers are too large", "The limit is 16 KiB for all headers together."),
    "internal": Kind(
        500,
        "Internal error",
        "The gateway's log has the error under `instance`. A trigger may be retried with the same key.",
    ),
    "no-token-secret": Kind(
        501,
        "Minting tokens is not configured",
        "Set CALLWATCH_GATEWAY_TOKEN_SECRET on the gateway to enable tokens.",
    ),
    "store-unavailable": Kind(
        503,
        "Redis does not answer",
        "Retry after the seconds in Retry-After. A trigger may have been enqueued: retry it with the same "
        "Idempotency-Key, which never places a second call.",
    ),
    "queue-full": Kind(503, "Too many triggers wait", "Retry the trigger later with the same Idempotency-Key."),
    "too-many-streams": Kind(503, "Too many streams are open", "Connect again after the seconds in Retry-After."),
    "shutting-down": Kind(503, "The gateway is stopping", "Connect again after the seconds in Retry-After."),
}
RETRY_SAME: dict[str, Any] = {"retry": {"key": "same"}}


class Problem(Exception):  # noqa: N818 - named after RFC 9457
    """An error response: its problem type, additional members, and headers.

    `errors` lists each wrong part of the request, as returned by `fault`.
    """

    def __init__(
        self,
        name: str,
        detail: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
        errors: Sequence[Mapping[str, str]] = (),
    ) -> None:
        super().__init__(name)
        self.name = name
        self.detail = detail
        self.members = {**(members or {}), **({"errors": list(errors)} if errors else {})}
        self.headers = dict(headers or {})
        if self.status == 401:  # noqa: PLR2004
            self.headers.setdefault("WWW-Authenticate", 'Bearer error="invalid_token"')
        if self.status == 503:  # noqa: PLR2004
            self.headers.setdefault("Retry-After", "2")

    @property
    def status(self) -> int:
        """The HTTP status."""
        return KINDS[self.name].status

    def body(self, *, prefix: str, instance: str) -> bytes:
        """Return the response body; `prefix` is the gateway's URL prefix, `instance` the request id."""
        document = {
            "type": QUOTA if self.name == "quota-exceeded" else f"{prefix}/problems/{self.name}",
            "title": KINDS[self.name].title,
            "status": self.status,
            "detail": self.detail or KINDS[self.name].meaning,
            "instance": instance,
            **self.members,
        }
        return json.dumps(document, ensure_ascii=False).encode()


def fault(field: str, kind: str, wanted: str) -> dict[str, str]:
    """Return one entry of `errors`: the field, the kind of its value, the expected form; never the value."""
    return {"field": field, "kind": kind, "wanted": wanted}


def malformed(field: str, kind: str, wanted: str) -> Problem:
    """Return the problem for a part of the request that cannot be parsed."""
    return Problem("malformed", errors=[fault(field, kind, wanted)])


def invalid(errors: Sequence[Mapping[str, str]], *, missing: bool = False) -> Problem:
    """Return the problem for arguments of a trigger that can be parsed but are wrong (S2)."""
    detail = texts.MISSING_PARAMETERS if missing else texts.INVALID_PARAMETERS
    return Problem("invalid-arguments", detail, errors=errors)


def page(name: str) -> str:
    """Return the HTML page about a problem type; KeyError for an unknown name."""
    kind = KINDS[name]
    title = html.escape(f"{kind.status} {kind.title}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>\n'
        f"<body><h1>{title}</h1>\n<p>{html.escape(kind.meaning)}</p></body></html>\n"
    )

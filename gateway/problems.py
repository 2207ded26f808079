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
    "malformed": Kind(400, "The request cannot be read", "Correct the part that `errors` names, and send it again."),
    "idempotency-key-missing": Kind(
        400,
        "Idempotency-Key is missing",
        "Every trigger carries an Idempotency-Key of the back end's own, one for each load of a case: the same key "
        "never calls twice. Send the request again with one.",
    ),
    "unauthenticated": Kind(
        401, "A credential is missing or unknown", "Send `Authorization: Bearer …` with an API key or a case token."
    ),
    "token-expired": Kind(401, "The token has expired", "Get a new token from the back end, and connect again."),
    "insufficient-scope": Kind(
        403,
        "The credential may not do this",
        "A page's token may look at its cases; triggering needs an API key with `trigger`.",
    ),
    "other-case": Kind(403, "The token is for other cases", "Ask the back end for a token that names this case."),
    "no-such-trigger": Kind(
        404,
        "No such trigger",
        "No trigger of this client is kept under this id. Triggers are kept as long as the history of a case.",
    ),
    "not-found": Kind(404, "No such page", "The paths of this server are in /openapi.json."),
    "method-not-allowed": Kind(405, "No such method here", "The methods of each path are in /openapi.json."),
    "event-stream-only": Kind(406, "Only text/event-stream is served here", "Accept it, or leave the header out."),
    "too-large": Kind(413, "The body is too large", "A body may have 64 KiB."),
    "url-too-long": Kind(414, "The address is too long", "Path and query together may have 4 KiB."),
    "json-only": Kind(415, "Only application/json is read here", "Send JSON, and say so in Content-Type."),
    "wrong-host": Kind(
        421,
        "This server does not answer to that host name",
        "The operator names the host names in CALLWATCH_GATEWAY_HOSTS; loopback's are always answered to.",
    ),
    "invalid-arguments": Kind(422, "Arguments are invalid", "Nobody was called. Correct what `errors` names."),
    "idempotency-key-reused": Kind(
        422,
        "The Idempotency-Key was used for other arguments",
        "One key stands for one request. Nobody was called for this one: send it with a key of its own.",
    ),
    "quota-exceeded": Kind(429, "Too many requests", "Wait as long as Retry-After says. A trigger keeps its key."),
    "header-too-large": Kind(431, "The headers are too large", "All headers together may have 16 KiB."),
    "internal": Kind(
        500, "Fault in the gateway", "The log has it under `instance`. A trigger may be sent again with the same key."
    ),
    "no-token-secret": Kind(
        501, "No tokens are made here", "The operator sets CALLWATCH_GATEWAY_TOKEN_SECRET, or back ends mint offline."
    ),
    "store-unavailable": Kind(
        503,
        "Redis does not answer",
        "Try again after Retry-After. A trigger may or may not have been enqueued: repeat it with the same "
        "Idempotency-Key, which never calls twice.",
    ),
    "queue-full": Kind(503, "Too many triggers wait", "Repeat the trigger later with the same Idempotency-Key."),
    "too-many-streams": Kind(503, "Too many streams are open", "Connect again after Retry-After."),
    "shutting-down": Kind(503, "The gateway is stopping", "Connect again after Retry-After."),
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
    """Return the problem for arguments that can be parsed but are wrong (S2)."""
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

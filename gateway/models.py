"""Request and response models for the OpenAPI document. Fields may be added: clients must ignore unknown fields."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

CALL = {
    "job_id": "1795312052000-447e-96ea-97523c61189b",
    "mediation_id": "20",
    "person": "***0001",
    "call_status": "Executing",
    "label": "通话中",
    "since": 1795312052.2,
    "failures": 0,
    "checked_at": 1795312063.9,
    "verdict": None,
    "finished_at": None,
}


def example(document: dict[str, Any]) -> ConfigDict:
    """Return a model's configuration with an example."""
    return ConfigDict(json_schema_extra={"examples": [document]})


CaseId = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]


class Trigger(BaseModel):
    """A request to call the parties of a case. Send ids only: no telephone number, no name."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"case_id": "C-2001", "mediation_id": 20, "expires_in": 3600}]},
    )

    case_id: str | int = Field(description="the case data's `case_id`, 1 to 200 characters")
    mediation_id: str | int = Field(description="the case data's `id`, 1 to 200 characters")
    call_auto: Literal[0, 1] | None = Field(0, description="0 automatic, 1 manual")
    call_person_id: str | None = Field("", max_length=200, description="one person of the case; empty: all persons")
    expires_in: float = Field(
        3600, ge=1, le=2_592_000, description="seconds until the trigger expires if no worker has started it"
    )


class Retry(BaseModel):
    """Which Idempotency-Key a retry may use: the `same`, a `new` one, or `none`: do not retry."""

    key: Literal["same", "new", "none"]
    after: str | int | None = Field(None, description="start of upstream's next calling round, in upstream's format")


class TriggerState(BaseModel):
    """The state of a trigger. Business outcomes are not HTTP errors: `unknown` also has status 200."""

    model_config = example(
        {
            "id": "h-5f1c0000000000000000000000000000000000aa",
            "state": "queued",
            "case_id": "C-2001",
            "mediation_id": "20",
        }
    )

    id: str
    state: Literal["queued", "claimed", "sending", "waiting", "finished", "expired"]
    case_id: str
    mediation_id: str
    deferred_until: float | None = Field(None, description="epoch seconds; for `waiting`")
    reason: str | None = Field(None, description="for `expired`: why no call was made; else the result has a `reason`")
    result: dict[str, Any] | None = Field(
        None, description="the task's result, person ids masked; its `reason` says why no call was started"
    )
    retry: Retry | None = None


class Call(BaseModel):
    """A call. Times are epoch seconds on the store's clock."""

    model_config = example(CALL)

    job_id: str = Field(description="upstream's id of the call")
    mediation_id: str
    person: str = Field(description="a masked person id, or 未知联系人")
    call_status: str = Field(description="upstream's status")
    label: str = Field(description="the status as display text")
    started_at: float = Field(description="calls are sorted by it, then by job_id")
    since: float = Field(description="start of the displayed duration")
    failures: int = Field(description="failed queries in a row")
    checked_at: float | None = Field(description="time of the last query to upstream")
    verdict: Literal["ended", "expired", "lost"] | None = Field(description="null while the call is watched")
    finished_at: float | None = Field(description="time of the verdict")


class Pair(BaseModel):
    """The state of the last trigger of a mediation."""

    mediation_id: str
    phase: Literal["claimed", "sending", "watching", "unknown", "done", "waiting"]
    until: float | None = Field(description="epoch seconds; set while the pair waits or is on hold")


class Notice(BaseModel):
    """A message to show to the user once; repetitions have the same `id`."""

    model_config = example(
        {
            "id": "1795312064123-0",
            "kind": "dial_failed",
            "level": "error",
            "text": "发起外呼失败,请稍后重试",
            "at": 1795312064.1,
        }
    )

    id: str = Field(description="the id of its event")
    kind: str = Field(description="the event; new kinds may be added")
    level: Literal["info", "warning", "error"]
    text: str = Field(description="display it unchanged, as plain text")
    reason: str | None = Field(None, description="why a trigger or a watch had no success, one of a closed set")
    at: float = Field(description="epoch seconds")


class Case(BaseModel):
    """The complete state of a case."""

    case_id: str
    pairs: list[Pair]
    calls: list[Call]
    notices: list[Notice] = Field(description="from the last 10 minutes, at most 50")


class Snapshot(BaseModel):
    """The current state of cases; also the first event of a stream. An unknown case is empty."""

    model_config = example(
        {
            "v": 1,
            "now": 1795312064.2,
            "poll_interval": 10,
            "upstream": "ok",
            "new_calls": "allowed",
            "cases": [
                {
                    "case_id": "C-2001",
                    "pairs": [{"mediation_id": "20", "phase": "watching", "until": None}],
                    "calls": [CALL],
                    "notices": [],
                }
            ],
        }
    )

    v: Literal[1]
    now: float = Field(description="the store's clock, epoch seconds")
    poll_interval: float = Field(description="seconds")
    upstream: Literal["ok", "away"]
    upstream_since: float | None = None
    new_calls: Literal["allowed", "stopped"]
    cases: list[Case]


class History(BaseModel):
    """Events of a case, oldest first; pass `next` as `after` for the next page, null on the last one."""

    case_id: str
    events: list[dict[str, Any]]
    next: str | None


class TokenRequest(BaseModel):
    """A request for a token to read cases."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"cases": ["C-1"]}]})

    cases: list[CaseId] = Field(min_length=1, max_length=20, description="each 1 to 200 characters")
    sub: str = Field("", max_length=200, description="an id of the user, in any format; rate limits count per `sub`")
    expires_in: int = Field(900, ge=1, le=900, description="seconds")


class Token(BaseModel):
    """A token that can read cases but not trigger. Send it in `Authorization`, never in a URL."""

    model_config = example({"token": "eyJ…", "expires_at": 1795312964})

    token: str
    expires_at: int = Field(description="epoch seconds")


class Fault(BaseModel):
    """A wrong field: the kind of its value and the expected form, never the value."""

    field: str = Field(description="a field of the body, a parameter, or a header")
    kind: str = Field(description="the kind of its value")
    wanted: str = Field(description="the expected form")


class ProblemDocument(BaseModel):
    """A problem document (RFC 9457); `type` is the URL of its page."""

    model_config = example(
        {
            "type": "/problems/malformed",
            "title": "The request cannot be parsed",
            "status": 400,
            "detail": "Correct the parts listed in `errors` and send the request again.",
            "instance": "r-0123456789abcdef",
            "errors": [{"field": "body", "kind": "invalid JSON", "wanted": "a JSON object in UTF-8"}],
        }
    )

    type: str = Field(description="URL of a page about this type of problem")
    title: str
    status: int
    detail: str = Field(description="how to proceed; for wrong arguments of a trigger a text for users, in Chinese")
    instance: str = Field(description="the request id, also in the gateway's log")
    errors: list[Fault] | None = Field(None, description="the wrong parts of the request")
    retry: Retry | None = Field(None, description="which Idempotency-Key a retry may use")

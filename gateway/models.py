"""The shapes of requests and answers, for the OpenAPI document. Fields may be added: clients pass over unknown ones."""

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
    """What a back end sends to have the parties of a case called. Send ids only: no telephone number, no name."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"case_id": "C-2001", "mediation_id": 20, "expires_in": 3600}]},
    )

    case_id: str | int = Field(description="the case data's `case_id`, 1 to 200 characters")
    mediation_id: str | int = Field(description="the case data's `id`, 1 to 200 characters")
    call_auto: Literal[0, 1] | None = Field(0, description="0 automatic, 1 manual")
    call_person_id: str | None = Field("", max_length=200, description="one person of the case; empty: everyone")
    expires_in: float = Field(
        3600, ge=1, le=2_592_000, description="seconds after which the trigger is dropped if no worker has taken it"
    )


class Retry(BaseModel):
    """Which Idempotency-Key a retry may carry: the `same`, a `new` one, or `none`: do not send it again."""

    key: Literal["same", "new", "none"]
    after: str | int | None = Field(None, description="when upstream's next round begins, as upstream said it")


class TriggerState(BaseModel):
    """How a trigger stands. A business outcome is no error: `unknown` is a 200 as well."""

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
    result: dict[str, Any] | None = Field(None, description="the task's result, person ids masked")
    retry: Retry | None = None


class Call(BaseModel):
    """A call as a page shows it. Times are epoch seconds on the store's clock."""

    model_config = example(CALL)

    job_id: str = Field(description="upstream's id of the call")
    mediation_id: str
    person: str = Field(description="a masked person id, or 未知联系人")
    call_status: str = Field(description="upstream's word")
    label: str = Field(description="the same as people read it")
    started_at: float = Field(description="calls are in its order, those that began together in the order of job_id")
    since: float = Field(description="when the duration begins")
    failures: int = Field(description="failed queries in a row")
    checked_at: float | None = Field(description="when upstream was asked last")
    verdict: Literal["ended", "expired", "lost"] | None = Field(description="null while the call is watched")
    finished_at: float | None = Field(description="when the verdict came")


class Pair(BaseModel):
    """How the last trigger of a mediation stands."""

    mediation_id: str
    phase: Literal["claimed", "sending", "watching", "unknown", "done", "waiting"]
    until: float | None = Field(description="epoch seconds, where it waits or is held")


class Notice(BaseModel):
    """What a person is told once; `id` is the same in every repetition."""

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
    kind: str = Field(description="what happened; new kinds may be added")
    level: Literal["info", "warning", "error"]
    text: str = Field(description="to be shown as it stands, as text")
    at: float = Field(description="epoch seconds")


class Case(BaseModel):
    """A case, whole."""

    case_id: str
    pairs: list[Pair]
    calls: list[Call]
    notices: list[Notice] = Field(description="of the last 10 minutes, 50 at the most")


class Snapshot(BaseModel):
    """What a page needs to begin; also the stream's first event. A case that is not known is empty."""

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
    """Events of a case, the oldest first; `next` is what to give as `after`, null at the end."""

    case_id: str
    events: list[dict[str, Any]]
    next: str | None


class TokenRequest(BaseModel):
    """For which cases a page may look."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"cases": ["C-1"]}]})

    cases: list[CaseId] = Field(min_length=1, max_length=20, description="each 1 to 200 characters")
    sub: str = Field("", max_length=200, description="who looks, in any form that tells one from another; for limits")
    expires_in: int = Field(900, ge=1, le=900, description="seconds")


class Token(BaseModel):
    """A token that looks at cases and can never trigger. It travels in `Authorization`, never in a URL."""

    model_config = example({"token": "eyJ…", "expires_at": 1795312964})

    token: str
    expires_at: int = Field(description="epoch seconds")


class Fault(BaseModel):
    """One field that is wrong: the kind of its value and what would be right, never the value."""

    field: str = Field(description="a field of the body, a parameter, or a header")
    kind: str = Field(description="of its value")
    wanted: str = Field(description="what would be right")


class ProblemDocument(BaseModel):
    """A problem, as RFC 9457 has it; `type` leads to its page."""

    model_config = example(
        {
            "type": "/problems/malformed",
            "title": "The request cannot be read",
            "status": 400,
            "detail": "Correct the part that `errors` names, and send it again.",
            "instance": "r-0123456789abcdef",
            "errors": [{"field": "body", "kind": "no JSON", "wanted": "a JSON object in UTF-8"}],
        }
    )

    type: str = Field(description="leads to a page about this kind of problem")
    title: str
    status: int
    detail: str = Field(description="what to do; for wrong arguments the product's text")
    instance: str = Field(description="the request's id, which the gateway's log has too")
    errors: list[Fault] | None = Field(None, description="each wrong part of the request")
    retry: Retry | None = Field(None, description="which Idempotency-Key a repetition may carry")

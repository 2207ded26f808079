"""Routes and their OpenAPI documentation: parameters, responses, descriptions."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response

from gateway import about_api, case_api, token_api, trigger_api
from gateway.case_api import EVENTS_SHOWN, MEDIA_TYPE, MOST_EVENTS
from gateway.door import text_of
from gateway.identity import MAX_CASES
from gateway.models import History, ProblemDocument, Snapshot, Token, TokenRequest, Trigger, TriggerState
from gateway.problems import CONTENT_TYPE, KINDS
from gateway.service import Gateway
from gateway.triggers import KEY_LENGTH
from worker.core.messages import MAX_ID_LENGTH

TITLE, VERSION = "callwatch gateway", "1"
DESCRIPTION = (
    "Back ends trigger calls with an API key and an Idempotency-Key. Pages follow cases with a read-only token. JSON "
    "is UTF-8, times are epoch seconds on the store's clock, clients must ignore unknown fields. Errors are "
    "application/problem+json (RFC 9457)."
)
EVERYWHERE = (414, 421, 429, 431, 500, 503)
BEARER: dict[str, Any] = {"security": [{"bearer": []}]}
CaseId = Annotated[str, Path(description="id of the case", examples=["C-2001"], min_length=1, max_length=200)]
EventId = {"pattern": r"^\d{1,19}-\d{1,19}$", "examples": ["1795312064123-0"]}


def parameter(name: str, place: str, description: str, schema: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Document a parameter that the endpoint reads itself; `place` is query or header."""
    return {"name": name, "in": place, "description": description, "schema": schema, **more}


KEY = parameter(
    "Idempotency-Key",
    "header",
    "one for each load of a case; it determines the task id, and the same key never places a second call",
    {"type": "string", "minLength": 1, "maxLength": KEY_LENGTH, "pattern": "^[!#-~]+$"},
    required=True,
    example="8e03978e-40d5-43e8-bc93-6894a57f9324",
)
PREFER = parameter("Prefer", "header", "`wait=N`: wait up to N seconds (at most 30) for the result", {"type": "string"})
CASES = parameter(
    "case",
    "query",
    f"up to {MAX_CASES} case ids; default: the cases of the token",
    {"type": "array", "maxItems": MAX_CASES, "items": {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH}},
)
AFTER = (
    parameter("Last-Event-ID", "header", "id of the last event received", {"type": "string", **EventId}),
    parameter("last_event_id", "query", "for clients that cannot send the header", {"type": "string", **EventId}),
)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document the error responses of a route."""
    return {
        status: {
            "description": "; ".join(kind.title for kind in KINDS.values() if kind.status == status),
            "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
        }
        for status in sorted({*statuses, *EVERYWHERE})
    }


def succeeds(status: int, model: type, description: str, **headers: str) -> dict[int | str, dict[str, Any]]:
    """Document the success response of a route."""
    shown = {
        name.replace("_", "-"): {"schema": {"type": "string"}, "description": text} for name, text in headers.items()
    }
    return {status: {"model": model, "description": description, "headers": shown}}


def body_of(model: type) -> dict[str, Any]:
    """Document a body that the endpoint parses itself, strictly and without quoting it in errors."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def add_routes(app: FastAPI, gateway: Gateway) -> None:
    """Add all routes of the API."""
    _add_triggers(app, gateway)
    _add_cases(app, gateway)
    _add_pages(app, gateway)
    app.openapi = lambda: document_of(app)  # type: ignore[method-assign]


def _add_triggers(app: FastAPI, gateway: Gateway) -> None:
    @app.post(
        "/v1/triggers",
        status_code=202,
        summary="Call the parties of a case, once",
        tags=["triggers"],
        responses={
            **succeeds(202, TriggerState, "Enqueued", Location="URL of the trigger's state", Retry_After="seconds"),
            **succeeds(200, TriggerState, "Finished within the wait of Prefer", Preference_Applied="the wait applied"),
            **problems(400, 401, 403, 413, 415, 422),
        },
        openapi_extra={**BEARER, **body_of(Trigger), "parameters": [KEY, PREFER]},
        response_class=Response,
    )
    async def post_trigger(request: Request) -> Response:
        """Place at most one call for a key; a repeated request gets the same answer.

        After a 503 or a lost response, retry with the same key.
        """
        return await trigger_api.post_trigger(gateway, request)

    @app.get(
        "/v1/triggers/{id}",
        summary="The state of a trigger, and which key a retry may use",
        tags=["triggers"],
        responses={**succeeds(200, TriggerState, "The state"), **problems(401, 403, 404, 422)},
        openapi_extra=BEARER,
        response_class=Response,
    )
    async def get_trigger(
        request: Request,
        trigger_id: Annotated[str, Path(alias="id", description="id returned by POST")],
    ) -> Response:
        """Find triggers of this client only. `unknown` means that a call may be active: inform a person."""
        return await trigger_api.get_trigger(gateway, request, trigger_id)

    @app.post(
        "/v1/tokens",
        status_code=201,
        summary="Mint a token for reading cases",
        tags=["tokens"],
        responses={**succeeds(201, Token, "Minted"), **problems(400, 401, 403, 413, 415, 422, 501)},
        openapi_extra={**BEARER, **body_of(TokenRequest)},
        response_class=Response,
    )
    async def post_token(request: Request) -> Response:
        """Leave to the back end which user may read which case: callwatch has no users."""
        return await token_api.post_token(gateway, request)


def _add_cases(app: FastAPI, gateway: Gateway) -> None:
    @app.get(
        "/v1/cases/{case:path}/history",
        summary="The events of a case, oldest first",
        tags=["cases"],
        responses={**succeeds(200, History, "Events"), **problems(400, 401, 403, 404, 422)},
        openapi_extra=BEARER,
        response_class=Response,
    )
    async def get_history(
        request: Request,
        case: CaseId,
        after: Annotated[
            str | None, Query(description="an event id: only later events are returned", json_schema_extra=EventId)
        ] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_EVENTS, description="maximum number of events")] = EVENTS_SHOWN,
    ) -> Response:
        """Events contain no personal data: person ids are masked."""
        return await case_api.get_history(gateway, request, case, after, limit)

    @app.get(
        "/v1/cases/{case:path}",
        summary="The current state of a case",
        tags=["cases"],
        responses={
            **succeeds(200, Snapshot, "A snapshot; an unknown case is empty", ETag="for If-None-Match"),
            304: {"description": "Unchanged since the ETag in If-None-Match"},
            **problems(400, 401, 403, 404, 422),
        },
        openapi_extra=BEARER,
        response_class=Response,
    )
    async def get_case(request: Request, case: CaseId) -> Response:
        """Return the same document as the first event of the stream."""
        return await case_api.get_case(gateway, request, case)

    @app.head("/v1/stream", include_in_schema=False)
    @app.get(
        "/v1/stream",
        summary="Stream the changes of cases",
        tags=["cases"],
        responses={
            200: {
                "description": "Events: snapshot, call, notice, pair, gone, state, beat, bye",
                "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
            },
            **problems(400, 401, 403, 406),
        },
        openapi_extra={**BEARER, "parameters": [CASES, *AFTER]},
        response_class=Response,
    )
    async def get_stream(request: Request) -> Response:
        """Send a snapshot with the missed notices first, then complete calls as they change."""
        return await case_api.get_stream(gateway, request)


def _add_pages(app: FastAPI, gateway: Gateway) -> None:
    def plain(path: str, get: Callable[..., Response], description: str, kind: str, *statuses: int) -> None:
        app.add_api_route(
            path,
            get,
            methods=["GET"],
            tags=["about"],
            summary=description,
            response_class=Response,
            responses={
                200: {"description": description, "content": {kind: {"schema": {"type": "string"}}}},
                **problems(*statuses),
            },
        )

    async def healthz() -> Response:
        return about_api.get_health()

    async def readyz() -> Response:
        return about_api.get_readiness(gateway)

    async def metrics(request: Request) -> Response:
        return about_api.get_metrics(gateway, request)

    async def openapi() -> Response:
        return Response(text_of(app.openapi()), media_type="application/json")

    async def problem(name: str) -> Response:
        return about_api.get_problem(name)

    plain("/healthz", healthz, "Liveness: the process answers", "text/plain")  # type: ignore[arg-type]
    plain("/readyz", readyz, "Readiness: Redis answers and events are read", "text/plain")  # type: ignore[arg-type]
    plain("/metrics", metrics, "Metrics of this process", "text/plain", 401)  # type: ignore[arg-type]
    plain("/problems/{name}", problem, "The meaning of a problem type", "text/html", 404, 422)  # type: ignore[arg-type]
    app.add_api_route("/openapi.json", openapi, methods=["GET"], include_in_schema=False, response_class=Response)


def document_of(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document."""
    if app.openapi_schema is None:
        made = get_openapi(title=TITLE, version=VERSION, description=DESCRIPTION, routes=app.routes)
        components = made.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        for model in (Trigger, TokenRequest, ProblemDocument):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        app.openapi_schema = made
    return app.openapi_schema

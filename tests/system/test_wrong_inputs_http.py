"""Test the wrong HTTP requests of a first day: one problem that names the field, its kind and the right form (S42)."""

import json
from collections.abc import Iterator

import pytest

from cli.up.embedded_redis import EmbeddedServer
from tests.deployment import wait_until
from tests.gatewayprocess import Gateway, environment
from tests.oneline import SECRET

GOOD = {"case_id": "C-1", "mediation_id": 20}
JSON, KEY = {"Content_Type": "application/json"}, {"Idempotency_Key": "k-1"}
TEXT = "a text of 1 to 200 characters"


@pytest.fixture(scope="module")
def gateway(redis_server: EmbeddedServer) -> Iterator[Gateway]:
    with Gateway(environment(redis_server.url, key_prefix="wrong-inputs")) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def keys(gateway: Gateway) -> dict[str, str]:
    """A credential of each kind."""
    found = {scope: gateway.make_key(f"only-{scope}", scope) for scope in ("read", "trigger")}
    wait_until(lambda: all(gateway.get("/v1/triggers/x", key=key).status in (403, 404) for key in found.values()))
    return found | {"token": gateway.token("C-1"), "none": "", "unknown": f"cw_backend_{SECRET}"}


@pytest.mark.parametrize(
    ("request_line", "key", "status", "field", "kind", "wanted"),
    [
        pytest.param(
            "GET /v1/cases/C-1", "none", 401, "Authorization", "missing", "Bearer and an API key", id="no key"
        ),
        pytest.param("GET /v1/cases/C-1", "unknown", 401, "Authorization", "unknown", "API key", id="an unknown key"),
        pytest.param(
            "GET /v1/cases/C-1", "trigger", 403, "Authorization", "scope trigger", "scope read", id="no reader"
        ),
        pytest.param("GET /v1/cases/C-2", "token", 403, "case", "not in the token", "named in the token", id="a case"),
        pytest.param("GET /v1/triggers/x", "token", 403, "Authorization", "scope watch", "scope", id="a page's token"),
        pytest.param("GET /v1/stream", "read", 400, "case", "given 0 times", "1 to 20 cases", id="a stream of nothing"),
        pytest.param("GET /v1/cases/C-1/history?limit=x", "read", 422, "limit", "a text of 1", "integer", id="a limit"),
        pytest.param("GET /v1/cases/C-1/history?limit=0", "read", 422, "limit", "a text of 1", "to 1", id="no limit"),
        pytest.param("GET /v1/triggers", "trigger", 405, "method", "not one of this path", "POST", id="GET for POST"),
        pytest.param("DELETE /v1/cases/C-1", "read", 405, "method", "not one of this path", "GET", id="DELETE"),
    ],
)
def test_wrong_request_is_one_problem_with_the_field(
    gateway: Gateway,
    keys: dict[str, str],
    request_line: str,
    key: str,
    status: int,
    field: str,
    kind: str,
    wanted: str,
) -> None:
    method, path = request_line.split()
    answer = gateway.request(method, path, key=keys[key])
    assert answer.status == status == answer.json["status"]
    assert answer.problem, "its type names the problem"
    (error,) = answer.json["errors"]
    assert error["field"] == field
    assert kind in error["kind"]
    assert wanted in error["wanted"]
    assert not keys[key] or keys[key] not in answer.body.decode()


@pytest.mark.parametrize(
    ("body", "headers", "status", "field", "kind", "wanted"),
    [
        # headers
        pytest.param(GOOD, JSON, 400, "Idempotency-Key", "missing", "1 to 255 printable ASCII", id="no key"),
        pytest.param(
            GOOD, {**JSON, "Idempotency_Key": ""}, 400, "Idempotency-Key", "empty", "1 to 255", id="empty key"
        ),
        pytest.param(GOOD, KEY, 415, "Content-Type", "missing", "application/json", id="no type"),
        pytest.param(
            b"case_id=C-1",
            {**KEY, "Content_Type": "application/x-www-form-urlencoded"},
            415,
            "Content-Type",
            "another media type",
            "application/json",
            id="a form",
        ),
        # bodies
        pytest.param(b"{'case_id': 'C-1'}", JSON | KEY, 400, "body", "invalid JSON", "a JSON object", id="no JSON"),
        pytest.param(b"", JSON | KEY, 400, "body", "invalid JSON", "a JSON object", id="nothing"),
        pytest.param([], JSON | KEY, 400, "body", "JSON of type list", "a JSON object", id="a list"),
        pytest.param(b"\xff\xfe{\0", JSON | KEY, 400, "body", "not UTF-8", "in UTF-8", id="UTF-16"),
        pytest.param(b" " * 70_000, JSON | KEY, 413, "body", "of 70000 bytes", "at most 65536 bytes", id="large"),
        # arguments
        pytest.param({"case_id": "C-1"}, JSON | KEY, 422, "mediation_id", "missing", TEXT, id="no mediation"),
        pytest.param({**GOOD, "mediation_id": 2.5}, JSON | KEY, 422, "mediation_id", "float", TEXT, id="a fraction"),
        pytest.param(
            {**GOOD, "call_auto": "1"}, JSON | KEY, 422, "call_auto", "a text", "0 (automatic) or 1", id="auto"
        ),
        pytest.param(
            {**GOOD, "callPersonId": SECRET}, JSON | KEY, 422, "callPersonId", "unknown", "call_person_id", id="camels"
        ),
        pytest.param({**GOOD, "expires_in": "1h"}, JSON | KEY, 422, "expires_in", "str", "seconds, 1 to", id="a unit"),
        pytest.param({**GOOD, "expires": 60}, JSON | KEY, 422, "expires", "unknown", "expires_in", id="Celery's name"),
    ],
)
def test_wrong_trigger_is_one_problem_with_the_field(
    gateway: Gateway,
    body: object,
    headers: dict[str, str],
    status: int,
    field: str,
    kind: str,
    wanted: str,
) -> None:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = gateway.request("POST", "/v1/triggers", sent, **headers)
    assert answer.status == status == answer.json["status"]
    (error,) = answer.json["errors"]
    assert error["field"] == field
    assert kind in error["kind"]
    assert wanted in error["wanted"]
    assert SECRET not in answer.body.decode()


@pytest.mark.parametrize("path", ["/v1/trigger", "/v1/triggers/", "/api/v1/cases"])
def test_unknown_path_is_a_problem_that_names_the_list(gateway: Gateway, path: str) -> None:
    answer = gateway.get(path)
    assert (answer.status, answer.problem) == (404, "not-found")
    assert answer.json["detail"] == "All paths are listed in /openapi.json."


def test_misspelt_names_are_answered_with_the_right_ones(gateway: Gateway) -> None:
    """Upstream's own names: each is unknown, and the right one is missing."""
    answer = gateway.post("/v1/triggers", {"caseId": "C-1", "mediationId": 20}, Idempotency_Key="k-2")
    assert answer.status == 422
    wanted = {error["field"]: error["wanted"] for error in answer.json["errors"] if error["kind"] == "unknown"}
    assert wanted == {"caseId": "case_id", "mediationId": "mediation_id"}

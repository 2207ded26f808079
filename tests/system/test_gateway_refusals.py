"""Test that each invalid request gets one problem with field and kind, never the value, and makes no call (S42)."""

import json
import socket
import time
from collections.abc import Iterator

import jwt
import pytest
import redis

from cli.up.embedded_redis import EmbeddedServer
from gateway.service import LONGEST_QUEUE
from tests.deployment import LIMIT, wait_until
from tests.gatewayprocess import SECRET, Answer, Gateway, environment

PERSON = "2303191513081131"
GOOD = {"case_id": "C-1", "mediation_id": 20}
HEADERS = {"Content_Type": "application/json", "Idempotency_Key": "k-1"}


@pytest.fixture(scope="module")
def gateway(redis_server: EmbeddedServer) -> Iterator[Gateway]:
    with Gateway(environment(redis_server.url, key_prefix="gateway-refusals")) as gateway:
        yield gateway


def raw(gateway: Gateway, text: bytes) -> bytes:
    """Return the response to a request that is sent byte for byte."""
    with socket.create_connection(("127.0.0.1", gateway.port), LIMIT) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def unsigned() -> str:
    claims = {"aud": "callwatch", "scope": "watch", "cases": ["C-1"], "exp": int(time.time()) + 600}
    return jwt.encode(claims, None, algorithm="none")


def expired() -> str:
    claims = {"aud": "callwatch", "scope": "watch", "cases": ["C-1"], "iat": 1, "exp": 2}
    return jwt.encode(claims, SECRET)


@pytest.mark.parametrize(
    ("path", "key", "problem", "status"),
    [
        pytest.param("/v1/cases/C-1", "", "unauthenticated", 401, id="no key"),
        pytest.param("/v1/cases/C-1", "cw_backend_x", "unauthenticated", 401, id="unknown key"),
        pytest.param("/v1/cases/C-2", "token", "other-case", 403, id="other case"),
        pytest.param("/v1/cases/C-2/history", "token", "other-case", 403, id="history of another case"),
        pytest.param("/v1/stream?case=C-1&case=C-2", "token", "other-case", 403, id="stream of another case"),
        pytest.param("/v1/triggers/x", "token", "insufficient-scope", 403, id="a token and a trigger"),
        pytest.param("/v1/cases/C-1", "expired", "token-expired", 401, id="expired token"),
        pytest.param("/v1/cases/C-1", "unsigned", "unauthenticated", 401, id="alg none"),
        pytest.param("/v1/stream?case=C-1", "unsigned", "unauthenticated", 401, id="alg none on a stream"),
        pytest.param("/v1/cases/" + "c" * 201, None, "invalid-arguments", 422, id="a case of 201"),
        pytest.param("/v1/cases/C-1/history?limit=0", None, "invalid-arguments", 422, id="no events"),
        pytest.param("/v1/cases/C-1/history?after=x", None, "malformed", 400, id="after nothing"),
        pytest.param("/v1/stream", None, "malformed", 400, id="a stream of nothing"),
        pytest.param("/v1/stream?" + "&".join(f"case=C-{n}" for n in range(21)), None, "malformed", 400, id="21 cases"),
        pytest.param("/v1/cases/C-1?" + "q" * 5_000, None, "url-too-long", 414, id="a long address"),
        pytest.param("/v2", None, "not-found", 404, id="no such page"),
        pytest.param("/docs", None, "not-found", 404, id="no page with foreign scripts"),
        pytest.param("/problems/none", "", "not-found", 404, id="no such problem"),
    ],
)
def test_each_invalid_read_is_one_problem(
    gateway: Gateway, path: str, key: str | None, problem: str, status: int
) -> None:
    credential = {"token": gateway.token("C-1"), "expired": expired(), "unsigned": unsigned()}.get(key or "", key)
    answer = gateway.get(path, key=credential)
    assert (answer.status, answer.problem) == (status, problem)
    assert set(answer.json) >= {"type", "title", "status", "detail", "instance"}
    assert "外呼" not in answer.json["detail"]  # the text for users is about triggers
    if problem != "not-found":
        assert_names_field_and_kind(answer)
    assert not credential or credential not in answer.body.decode()


def assert_names_field_and_kind(answer: Answer) -> None:
    """Require that each error names the field, the kind of its value and the expected kind."""
    errors = answer.json["errors"]
    assert errors
    assert all(set(error) == {"field", "kind", "wanted"} and all(error.values()) for error in errors)


def test_s42_page_token_can_neither_trigger_nor_mint(gateway: Gateway) -> None:
    token = gateway.token("C-1")
    assert gateway.post("/v1/triggers", GOOD, token, Idempotency_Key="k").problem == "insufficient-scope"
    assert gateway.post("/v1/tokens", {"cases": ["C-1"]}, token).problem == "insufficient-scope"
    assert gateway.get("/v1/cases/C-1", key=token).status == 200


@pytest.mark.parametrize("scope", ["read", "mint"])
def test_s42_key_is_limited_to_its_scopes(gateway: Gateway, scope: str) -> None:
    key = gateway.make_key(f"only-{scope}", scope)
    wait_until(lambda: gateway.get("/v1/triggers/x", key=key).status == 403)
    assert gateway.post("/v1/triggers", GOOD, key, Idempotency_Key="k").problem == "insufficient-scope"
    assert gateway.get("/v1/cases/C-1", key=key).status == (200 if scope == "read" else 403)
    assert gateway.post("/v1/tokens", {"cases": ["C-1"]}, key).status == (201 if scope == "mint" else 403)


@pytest.mark.parametrize(
    ("body", "headers", "problem", "status"),
    [
        pytest.param(
            json.dumps(GOOD), {"Content_Type": "application/json"}, "idempotency-key-missing", 400, id="no key"
        ),
        pytest.param(json.dumps(GOOD), {**HEADERS, "Idempotency_Key": "k" * 256}, "malformed", 400, id="key of 256"),
        pytest.param("x" * 65_537, HEADERS, "too-large", 413, id="65 KiB"),
        pytest.param("{", HEADERS, "malformed", 400, id="not JSON"),
        pytest.param('{"case_id": NaN}', HEADERS, "malformed", 400, id="NaN"),
        pytest.param('{"case_id": "\\ud800"}', HEADERS, "malformed", 400, id="a lone surrogate"),
        pytest.param('{"case_id": 1, "case_id": 2}', HEADERS, "malformed", 400, id="duplicate members"),
        pytest.param(json.dumps(GOOD), {**HEADERS, "Content_Type": "text/plain"}, "json-only", 415, id="no JSON type"),
        pytest.param('{"mediation_id": 1}', HEADERS, "invalid-arguments", 422, id="S2"),
        pytest.param(json.dumps({**GOOD, "person": PERSON}), HEADERS, "invalid-arguments", 422, id="unknown field"),
        pytest.param(json.dumps(GOOD), {**HEADERS, "Host": "evil"}, "wrong-host", 421, id="Host"),
        pytest.param(
            json.dumps(GOOD), {**HEADERS, "X_Big": "x" * 17_000}, "header-too-large", 431, id="header of 17 KiB"
        ),
    ],
)
def test_each_invalid_trigger_is_one_problem_without_a_call(
    gateway: Gateway, body: str, headers: dict[str, str], problem: str, status: int
) -> None:
    answer = gateway.request("POST", "/v1/triggers", body.encode(), **headers)
    assert (answer.status, answer.problem) == (status, problem)
    assert_names_field_and_kind(answer)
    text = answer.body.decode()
    assert [value for value in (PERSON, "k" * 20, "x" * 20, "evil", "text/plain", "ud800") if value in text] == []
    assert answer.json["instance"].startswith("r-")


def test_token_for_21_cases_is_refused(gateway: Gateway) -> None:
    answer = gateway.post("/v1/tokens", {"cases": [f"C-{number}" for number in range(21)]})
    assert (answer.status, answer.problem) == (422, "invalid-arguments")
    assert answer.json["errors"][0]["kind"] == "a list of 21"
    assert answer.json["detail"] == "No call was placed. Correct the fields in `errors`."
    assert "C-20" not in answer.body.decode()


def test_body_without_content_length_is_bounded(gateway: Gateway) -> None:
    head = f"POST /v1/triggers HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {gateway.key}\r\n"
    head += "Idempotency-Key: k\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    answer = raw(gateway, head.encode() + 5 * chunk + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"/problems/too-large" in answer


@pytest.mark.parametrize("request_line", [b"GET / HTTP/9\r\n\r\n", b"\x00\x01\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n"])
def test_malformed_http_is_a_problem(gateway: Gateway, request_line: bytes) -> None:
    answer = raw(gateway, request_line)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer


# -- limits ------------------------------------------------------------------------------------------------------------


def test_s40_rate_limited_caller_gets_429_with_retry_after(redis_url: str) -> None:
    """Requests with another key are not throttled."""
    with Gateway(environment(redis_url, gateway_rate=1)) as gateway:
        other = gateway.make_key("other", "read")
        answers = [gateway.get("/v1/cases/C-1") for _ in range(70)]
        limited = answers[-1]
        assert (answers[0].status, limited.status, limited.problem) == (200, 429, "http-problem-types#quota-exceeded")
        assert int(limited.headers["retry-after"]) >= 1
        assert limited.headers["ratelimit-policy"] == '"reads";q=60;w=60'
        wait_until(lambda: gateway.get("/v1/cases/C-1", key=other).status == 200)


def test_s42_full_queue_refuses_a_trigger_and_allows_a_retry_with_the_same_key(redis_url: str) -> None:
    with Gateway(environment(redis_url)) as gateway, redis.Redis.from_url(redis_url) as client:
        client.lpush("outbound.trigger", *["{}"] * LONGEST_QUEUE)
        refused = gateway.trigger("k-1")
        assert (refused.status, refused.problem) == (503, "queue-full")
        assert (refused.headers["retry-after"], refused.json["retry"]) == ("10", {"key": "same"})
        assert client.llen("outbound.trigger") == LONGEST_QUEUE
        client.delete("outbound.trigger")
        wait_until(lambda: gateway.trigger("k-1").status == 202)

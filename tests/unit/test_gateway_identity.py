"""Test that API keys and tokens identify a caller and its rights (S40), and that limits count per caller."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import jwt
import pytest

from config.api_keys import append_key, new_key
from gateway.identity import LONGEST_TOKEN, RELOAD_AFTER, KeyRing, Tokens, identify
from gateway.limits import REMEMBERED, Limit
from gateway.problems import QUOTA
from tests.problems import NOW, problem_of

SECRET = "s" * 32

# -- identity ----------------------------------------------------------------------------------------------------------


def token(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    usual = {"aud": "callwatch", "scope": "watch", "cases": ["C-1"], "iat": int(NOW), "exp": int(NOW) + 600}
    return jwt.encode({**usual, **claims}, secret, algorithm=algorithm)


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jwt.api_jwt.datetime", FixedTime)


class FixedTime:
    """Replacement for PyJWT's clock."""

    @staticmethod
    def now(tz: Any = None) -> Any:  # noqa: ARG004
        return type("Moment", (), {"timestamp": lambda _self: NOW})()


def test_token_grants_reading_of_its_cases_only() -> None:
    """S42."""
    minted, expires = Tokens(SECRET).mint("backend", ["C-1", "C-2"], "someone", now=NOW, lives=900)
    caller = Tokens(SECRET).read(minted, now=NOW)
    assert (caller.name, caller.cases, caller.expires) == ("backend", frozenset({"C-1", "C-2"}), NOW + 900)
    assert expires == NOW + 900
    caller.require_case("C-1")
    assert problem_of(caller.require_case, "C-3").name == "other-case"
    assert problem_of(caller.require, "trigger").name == "insufficient-scope"
    assert jwt.get_unverified_header(minted) == {"alg": "HS256", "typ": "at+jwt"}


def unsigned() -> str:
    def part(document: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()

    claims = {"aud": "callwatch", "scope": "watch", "cases": ["C-1"], "exp": NOW + 600}
    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims)}."


@pytest.mark.parametrize(
    ("given", "name"),
    [
        pytest.param(token(exp=int(NOW) - 1), "token-expired", id="expired"),
        pytest.param(unsigned(), "unauthenticated", id="alg none"),
        pytest.param(token(secret="t" * 32), "unauthenticated", id="another secret"),
        pytest.param(token(algorithm="HS512", secret="s" * 64), "unauthenticated", id="another algorithm"),
        pytest.param(token(aud="another"), "unauthenticated", id="for another service"),
        pytest.param(token(scope="trigger"), "unauthenticated", id="another scope"),
        pytest.param(token(cases=[]), "unauthenticated", id="no case"),
        pytest.param(token(cases=["C"] * 21), "unauthenticated", id="21 cases"),
        pytest.param(token(cases="C-1"), "unauthenticated", id="no list"),
        pytest.param(token(exp=int(NOW) + 3_600), "unauthenticated", id="lives for an hour"),
        pytest.param(token(iat=int(NOW) - 400), "unauthenticated", id="made to live too long"),
        pytest.param(token(iat=int(NOW) + 120, exp=int(NOW) + 700), "unauthenticated", id="from the future"),
        pytest.param("a.b.c", "unauthenticated", id="no token"),
        pytest.param("x" * 10_000, "unauthenticated", id="too long"),
    ],
)
def test_invalid_token_is_refused(given: str, name: str) -> None:
    problem = problem_of(Tokens(SECRET).read, given, now=NOW)
    assert (problem.name, problem.status) == (name, 401)
    assert problem.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


def test_tokens_are_refused_without_a_secret() -> None:
    assert problem_of(Tokens(None).read, token(), now=NOW).status == 401
    assert problem_of(Tokens(None).mint, "a", ["C-1"], "", now=NOW, lives=LONGEST_TOKEN).status == 501


def test_token_of_a_back_end_needs_only_the_required_claims() -> None:
    claims = {"aud": "callwatch", "scope": "watch", "cases": ["C-1"], "exp": int(NOW) + 60}
    caller = Tokens(SECRET).read(jwt.encode(claims, SECRET), now=NOW)
    assert (caller.name, caller.subject) == ("token", "token\0C-1")


@pytest.mark.parametrize("headers", [[], ["Basic eA=="], ["Bearer"], ["Bearer cw_a_x"], ["Bearer a", "Bearer b"]])
def test_unknown_credential_is_a_401(headers: list[str]) -> None:
    problem = problem_of(identify, headers, KeyRing(None), Tokens(SECRET), now=NOW)
    assert problem.status == 401
    assert "WWW-Authenticate" in problem.headers


def test_keys_are_reloaded_when_their_file_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A key is added and removed while the gateway runs; an unreadable file leaves the keys as they are."""
    place, clock = tmp_path / "keys", [0.0]
    first, kept = new_key("a", ["read"])
    append_key(place, kept)
    ring = KeyRing(place, monotonic=lambda: clock[0])
    second, other = new_key("b", ["trigger"])
    append_key(place, other)
    assert ring.find(second) is None, "the file is not read again yet"
    clock[0] += RELOAD_AFTER
    assert ring.find(second) == other
    place.write_text("nonsense\n")
    clock[0] += RELOAD_AFTER
    assert ring.find(first) == kept
    assert "the previous ones stay valid" in caplog.text
    place.unlink()
    clock[0] += RELOAD_AFTER
    assert len(ring) == 2
    place.write_text(other.line)
    os.utime(place, (1, 1))
    clock[0] += RELOAD_AFTER
    assert ring.find(first) is None


# -- limits ------------------------------------------------------------------------------------------------------------


def test_rate_limit_is_an_average_over_a_minute() -> None:
    limit = Limit("triggers", 2)
    for _ in range(120):
        limit.take("a", 0.0)
    problem = problem_of(limit.take, "a", 0.0)
    assert (problem.status, problem.headers["Retry-After"]) == (429, "1")
    assert problem.headers["RateLimit-Policy"] == '"triggers";q=120;w=60'
    assert json.loads(problem.body(prefix="", instance="r"))["type"] == QUOTA
    limit.take("b", 0.0)
    limit.take("a", 0.5)
    assert problem_of(limit.take, "a", 0.5).members["violated-policies"] == ["triggers"]
    Limit("none", 0).take("a", 0.0)


def test_full_buckets_are_dropped_and_a_throttled_caller_stays_throttled() -> None:
    limit = Limit("looks", 1)
    limit.take("once", 0.0)
    for _ in range(60):
        limit.take("greedy", 0.0)
    assert limit.forget(0.9) == 0
    assert limit.forget(1.0) == 1
    assert list(limit._buckets) == ["greedy"]
    assert problem_of(limit.take, "greedy", 0.9).status == 429
    assert limit.forget(60.0) == 1


def test_number_of_rate_limit_buckets_is_bounded() -> None:
    limit = Limit("looks", 1)
    for number in range(REMEMBERED):
        limit.take(str(number), 0.0)
    limit.take("one more", 0.5)
    assert len(limit._buckets) == REMEMBERED // 2 + 1, "no bucket is full: the oldest are dropped"
    for number in range(REMEMBERED):
        limit.take(str(number), 10_000.0)
    assert len(limit._buckets) <= REMEMBERED

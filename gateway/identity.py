"""Authenticate callers: API keys of back ends, read from a file, and short-lived signed tokens of pages (S40)."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from config.api_keys import ApiKey, KeysError, find_key, read_keys
from gateway.problems import BEARER, Problem, fault

log = logging.getLogger(__name__)

AUDIENCE, WATCH = "callwatch", "watch"
LONGEST_TOKEN = 900  # seconds
FIELD = "Authorization"
CLOCKS_APART = 60  # seconds by which a back end's clock may be ahead
MAX_CASES = 20
MAX_TOKEN_LENGTH = 8_192  # characters; also bounded by the headers
RELOAD_AFTER = 1.0  # seconds between two checks for a changed file


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller: its name in the log, its scopes, and its cases (None: all).

    Limits count per `subject`; `expires` (epoch seconds) is the expiry of a token.
    """

    name: str
    scopes: frozenset[str]
    subject: str
    cases: frozenset[str] | None = None
    expires: float | None = None

    def require(self, *scopes: str) -> None:
        """Require one of the scopes; Problem otherwise."""
        if not self.scopes.intersection(scopes):
            held = ", ".join(sorted(self.scopes))
            raise Problem(
                "insufficient-scope",
                headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scopes[0]}"'},
                errors=[fault(FIELD, f"a credential with the scope {held}", f"one with the scope {scopes[0]}")],
            )

    def require_case(self, case_id: str) -> None:
        """Require read access to a case; Problem otherwise."""
        self.require("read", WATCH)
        if self.cases is not None and case_id not in self.cases:
            raise Problem("other-case", errors=[fault("case", "not in the token", "a case named in the token")])


class KeyRing:
    """The API keys of a file, reloaded when the file changes; empty without a file."""

    def __init__(self, path: Path | None, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._monotonic = monotonic
        self._keys: Sequence[ApiKey] = ()
        self._seen: tuple[int, int] | None = None
        self._checked = 0.0
        if path is not None:
            self._seen = self._stamp(path)
            self._keys = read_keys(path)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, given: str) -> ApiKey | None:
        """Return the API key that matches a credential, or None."""
        self._reload()
        return find_key(self._keys, given)

    def _reload(self) -> None:
        now = self._monotonic()
        if self._path is None or now - self._checked < RELOAD_AFTER:
            return
        self._checked = now
        stamp = self._stamp(self._path)
        if stamp == self._seen:
            return
        try:
            self._keys = read_keys(self._path)
        except KeysError as error:
            log.error("API keys not reloaded, the previous ones stay valid: %s", error)  # noqa: TRY400
        else:
            log.info("API keys reloaded: %d", len(self._keys))
        self._seen = stamp

    @staticmethod
    def _stamp(path: Path) -> tuple[int, int] | None:
        try:
            status = path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size


class Tokens:
    """Mints and verifies the tokens of pages: HS256, read-only, for named cases."""

    def __init__(self, secret: str | None) -> None:
        self._secret = secret

    def mint(self, issuer: str, cases: Sequence[str], subject: str, *, now: float, lives: int) -> tuple[str, int]:
        """Return a token and its expiry (epoch seconds); Problem if no signing secret is set."""
        if self._secret is None:
            raise Problem("no-token-secret")
        expires = int(now) + lives
        claims = {
            "iss": issuer,
            "aud": AUDIENCE,
            "sub": subject,
            "cases": list(cases),
            "scope": WATCH,
            "iat": int(now),
            "exp": expires,
        }
        return jwt.encode(claims, self._secret, algorithm="HS256", headers={"typ": "at+jwt"}), expires

    def read(self, token: str, *, now: float) -> Caller:
        """Return the caller of a token; Problem if it is invalid, has expired, or has wrong claims."""
        if self._secret is None:
            raise unknown("a token", "an API key: this gateway has no token secret")
        if len(token) > MAX_TOKEN_LENGTH:
            raise unknown(f"a token of {len(token)} characters", f"at most {MAX_TOKEN_LENGTH}")
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=["HS256"],
                audience=AUDIENCE,
                options={"require": ["exp", "aud"], "verify_iat": False, "verify_sub": False, "verify_iss": False},
            )
        except jwt.ExpiredSignatureError:
            raise Problem("token-expired", errors=[fault(FIELD, "a token that has expired", "a new token")]) from None
        except jwt.PyJWTError:
            raise unknown("a token that is not valid", "a token signed with HS256 and this gateway's secret") from None
        return _caller(claims, now)


def unknown(kind: str, wanted: str, headers: Mapping[str, str] | None = None) -> Problem:
    """Return the problem for a credential that identifies no caller."""
    return Problem("unauthenticated", headers=headers, errors=[fault(FIELD, kind, wanted)])


def _caller(claims: dict[str, Any], now: float) -> Caller:
    cases, expires, begun = claims.get("cases"), float(claims["exp"]), claims.get("iat")
    listed = isinstance(cases, list) and 0 < len(cases) <= MAX_CASES and all(isinstance(case, str) for case in cases)
    if not listed or claims.get("scope") != WATCH:
        raise unknown("a token whose claims are wrong", f"`cases` with 1 to {MAX_CASES} texts, `scope` {WATCH}")
    assert isinstance(cases, list)  # noqa: S101 - for the type checker
    begun = float(begun) if isinstance(begun, int | float) else now
    if expires - now > LONGEST_TOKEN + CLOCKS_APART or expires - begun > LONGEST_TOKEN or begun > now + CLOCKS_APART:
        raise unknown("a token that lives too long", f"`exp` at most {LONGEST_TOKEN} s after `iat`")
    issuer = str(claims.get("iss") or "token")[:64]
    subject = str(claims.get("sub") or ",".join(sorted(cases)))
    return Caller(issuer, frozenset({WATCH}), f"{issuer}\0{subject}", frozenset(cases), expires)


def identify(authorization: Sequence[str], keys: KeyRing, tokens: Tokens, *, now: float) -> Caller:
    """Return the caller of the `Authorization` headers; Problem if it is unknown. `now` in epoch seconds."""
    if not authorization:
        raise unknown("missing", "Bearer and an API key or a token", BEARER)
    scheme, _, credential = authorization[0].strip().partition(" ")
    credential = credential.strip()
    if len(authorization) > 1 or scheme.lower() != "bearer" or not credential:
        raise unknown("not one credential of the scheme Bearer", "Bearer and one API key or token")
    if not credential.startswith("cw_"):
        return tokens.read(credential, now=now)
    key = keys.find(credential)
    if key is None:
        raise unknown("an unknown API key", "an API key of this gateway")
    return Caller(key.name, frozenset(key.scopes), f"{key.name}\0key")

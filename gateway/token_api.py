"""`/v1/tokens`: mint read-only tokens for pages (S42)."""

import secrets
import time

from fastapi import Request
from fastapi.responses import Response

from gateway.body import read_object
from gateway.identity import LONGEST_TOKEN, MAX_CASES
from gateway.problems import Problem, fault
from gateway.service import Gateway, answer
from worker.core.messages import MAX_ID_LENGTH

TOKEN_FIELDS = ("cases", "sub", "expires_in")


async def post_token(gateway: Gateway, request: Request) -> Response:
    """Mint a token for the cases of a page; Problem for wrong arguments."""
    caller = gateway.caller(request)
    caller.require("mint")
    gateway.limits.reads.take(caller.subject, time.monotonic())
    document = read_object(request.headers.get("content-type", ""), await request.body())
    cases, subject, lives = document.get("cases"), document.get("sub", ""), document.get("expires_in", LONGEST_TOKEN)
    errors = [fault(name[:64], "unknown", "cases, sub or expires_in") for name in document if name not in TOKEN_FIELDS]
    listed = cases if isinstance(cases, list) else []
    sound = all(isinstance(one, str) and one.strip() and len(one) <= MAX_ID_LENGTH for one in listed)
    if not sound or not 1 <= len(listed) <= MAX_CASES:
        errors.append(
            fault("cases", _kind(cases), f"a list of 1 to {MAX_CASES} ids of 1 to {MAX_ID_LENGTH} characters")
        )
    if not isinstance(subject, str) or len(subject) > MAX_ID_LENGTH:
        errors.append(fault("sub", _kind(subject), f"a text of at most {MAX_ID_LENGTH} characters"))
    if not isinstance(lives, int) or isinstance(lives, bool) or not 1 <= lives <= LONGEST_TOKEN:
        errors.append(fault("expires_in", _kind(lives), f"seconds, 1 to {LONGEST_TOKEN}"))
    if errors:
        raise Problem("invalid-arguments", errors=errors)
    subject = subject or secrets.token_urlsafe(9)
    token, expires = gateway.tokens.mint(
        caller.name, list(dict.fromkeys(listed)), subject, now=time.time(), lives=lives
    )
    return answer({"token": token, "expires_at": expires}, status=201)


def _kind(value: object) -> str:
    if value is None:
        return "missing"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"of type {type(value).__name__}, or out of range"

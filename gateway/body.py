"""Parse JSON bodies strictly: refuse documents that parsers could interpret differently. Pure."""

import json
from typing import Any

from gateway.problems import Problem, fault, malformed

JSON_BODY = "a JSON object in UTF-8 with unique names and finite numbers"


def read_object(content_type: str, body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body; Problem if it is invalid. The problem quotes no part of the body."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        kind = "another media type" if content_type else "missing"
        raise Problem("json-only", errors=[fault("Content-Type", kind, "application/json")])
    try:
        document = json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
        json.dumps(document, ensure_ascii=False).encode()  # fails on a lone surrogate
    except UnicodeError:
        raise malformed("body", "not UTF-8", JSON_BODY) from None
    except _FaultyError as error:
        raise malformed("body", str(error), JSON_BODY) from None
    except (ValueError, RecursionError):
        raise malformed("body", "invalid JSON", JSON_BODY) from None
    if not isinstance(document, dict):
        raise malformed("body", f"JSON of type {type(document).__name__}", JSON_BODY)
    return document


class _FaultyError(Exception):
    """JSON that parsers could interpret differently."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _FaultyError("a duplicate name")
    return found


def _no_constant(_name: str) -> Any:
    raise _FaultyError("NaN or Infinity")

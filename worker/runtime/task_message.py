"""Validate a message of a task's queue before kombu and Celery process it (S38).

Producers in any language push messages by hand, and a program with the right to push can push anything. `read_task`
validates such an entry and builds a new message, which names the entry's own queue and that queue's task, and contains
only the fields that callwatch needs.
"""

import base64
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, Literal

from kombu.utils import json as kombu_json
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from worker.core.messages import MAX_ID_LENGTH

LONGEST = {"outbound.trigger": 16_384}  # bytes of an entry in a queue that producers write to
LONGEST_OF_OURS = 16_777_216  # bytes of an entry in any other queue: a message of many polls
DEEPEST = 20  # levels of a body: far below the depth at which Python raises RecursionError

READING = (ValueError, TypeError, ArithmeticError, RecursionError, LookupError, AttributeError)
"""Errors raised by reading a malformed entry; kombu's JSON also converts tagged dates, decimals and UUIDs."""


class MalformedError(ValueError):
    """An entry that is no valid task: its wrong `field`, and the fault. `str()` quotes nothing of the entry."""

    def __init__(self, field: str, fault: str) -> None:
        super().__init__(f"{field}: {fault}")
        self.field = field
        self.fault = fault


MOMENT = "should be an ISO 8601 time with its zone, like 2026-11-22T09:00:00Z"
ID = f"should be a text of 1 to {MAX_ID_LENGTH} printable characters"
BODY = "should be a JSON text (a string) of a list of three: positional arguments, kwargs, an empty object"
FORMS = {
    "body": BODY,
    "content-type": "should be application/json",
    "content-encoding": "should be utf-8",
    "headers": "should be a JSON object",
    "headers.task": "should be the task of this queue",
    "headers.id": ID,
    "headers.eta": MOMENT,
    "headers.expires": MOMENT,
    "headers.root_id": ID,
    "headers.parent_id": ID,
    "properties": "should be a JSON object",
    "properties.delivery_tag": "should be a UUID",
    "properties.delivery_info": "should be a JSON object",
    "properties.delivery_info.exchange": "should be an empty text",
    "properties.delivery_info.routing_key": "should be the name of this queue",
}
"""The expected form of each field that producers write; the text of pydantic is used for the others."""


def _moment(text: str) -> str:
    try:
        zone = datetime.fromisoformat(text).tzinfo
    except ValueError:
        zone = None
    if zone is None:
        raise ValueError(MOMENT)
    return text


def _printable(text: str) -> str:
    if not text.isprintable():  # control and format characters, lone surrogates
        raise ValueError(ID)
    return text


Text = Annotated[str, Field(min_length=1)]
TaskId = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH), AfterValidator(_printable)]
Moment = Annotated[str, AfterValidator(_moment)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Place(_Part):
    exchange: str
    routing_key: str
    redelivered: bool | None = None


class _Properties(_Part):
    delivery_tag: Text
    delivery_info: _Place
    body_encoding: Literal["base64"] | None = None
    priority: Annotated[int, Field(ge=0, le=9)] | None = None


class _Entry(_Part):
    body: Text
    content_type: Annotated[Literal["application/json"], Field(alias="content-type")]
    content_encoding: Annotated[Literal["utf-8", "UTF-8"] | None, Field(alias="content-encoding")] = None
    headers: dict[str, Any] | None = None
    properties: _Properties


class _Headers(_Part):
    """The headers that callwatch needs. All others are dropped, for example `group`, `timelimit` and `shadow`."""

    task: Text
    id: TaskId
    eta: Moment | None = None
    expires: Moment | None = None
    root_id: TaskId | None = None
    parent_id: TaskId | None = None
    ignore_result: bool | None = None


_TRIPLE = TypeAdapter(tuple[list[Any], dict[str, Any], dict[str, Any] | None])
EMBEDDED = ("callbacks", "errbacks", "chain", "chord")
"""Parts of a body that Celery would publish with the worker's rights, to queues that the message names."""


def read_task(text: bytes, queue: str, task: str) -> dict[str, Any]:
    """Validate an entry of a task's queue and return a new message for kombu; MalformedError names the wrong field."""
    longest = LONGEST.get(queue, LONGEST_OF_OURS)
    if len(text) > longest:
        raise MalformedError("entry", f"should have at most {longest} bytes")
    with _part("entry", "should be a JSON object in UTF-8"):
        decoded = json.loads(text.decode())
    with _part(""):
        entry = _Entry.model_validate(decoded)
    given = entry.headers or {}
    if given.get("compression") is not None:
        raise MalformedError("headers.compression", "should be absent")
    with _part("body", BODY):
        body, given, embedded = _read_body(entry, given)
    _refuse_embedded(embedded)
    with _part("headers"):
        headers = _Headers.model_validate(given)
    if headers.task != task:
        raise MalformedError("headers.task", f"should be {task}, the task of this queue")
    return {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers.model_dump(exclude_none=True),
        "properties": {
            "delivery_tag": str(uuid.uuid4()),  # two messages with the same tag would overwrite each other
            "delivery_info": {  # a redelivery goes to this queue, with the worker's rights; the mark is kombu's (S18)
                "exchange": "",
                "routing_key": queue,
                "redelivered": bool(entry.properties.delivery_info.redelivered),
            },
            "priority": entry.properties.priority or 0,
        },
    }


@contextmanager
def _part(name: str, fault: str = "") -> Iterator[None]:
    """Raise MalformedError for every error in reading a part of an entry; its text is `fault`, or the field's form."""
    try:
        yield
    except MalformedError:
        raise
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = name if fault else ".".join(filter(None, (name, *map(str, first["loc"]))))
        form = "should be a JSON object" if first["type"] == "model_type" else FORMS.get(field, first["msg"])
        missing = "missing, " if first["type"] == "missing" else ""
        raise MalformedError(field or "entry", fault or missing + form) from None
    except READING:
        raise MalformedError(name or "entry", fault or "should be readable") from None


def _read_body(entry: _Entry, headers: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return body and headers of an entry, and the part of the body that Celery would act on."""
    encoded = entry.body.encode()
    if entry.properties.body_encoding:
        encoded = base64.b64decode(encoded)
    payload = kombu_json.loads(encoded)  # the same decoder that Celery uses later
    _refuse_depth(payload, DEEPEST)
    if isinstance(payload, list):
        return encoded.decode(), headers, _TRIPLE.validate_python(payload)[2] or {}
    payload, headers, embedded = _protocol_1(payload, headers)
    return kombu_json.dumps(payload), headers, embedded


def _protocol_1(payload: Any, headers: dict[str, Any]) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Return body, headers and embedded part of a message of Celery's protocol 1, whose body contains all three."""
    if not isinstance(payload, dict) or ("args" not in payload and "task" in headers):
        raise MalformedError("body", BODY)
    args, kwargs, _ = _TRIPLE.validate_python((payload.get("args", []), payload.get("kwargs", {}), None))
    embedded = {name: payload[name] for name in EMBEDDED if name in payload}
    return [args, kwargs, {}], payload | headers, embedded


def _refuse_embedded(embedded: dict[str, Any]) -> None:
    for name, value in embedded.items():
        if name not in EMBEDDED:
            raise MalformedError("body", "should embed nothing")
        if value:
            raise MalformedError(f"body.{name}", "should be absent")


def _refuse_depth(value: Any, levels: int) -> None:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        if isinstance(one, dict | list):
            if levels == 0:
                raise MalformedError("body", f"should have at most {DEEPEST} levels")
            _refuse_depth(one, levels - 1)

"""Quarantine malformed messages: log them, keep the raw entry in `outbound.malformed`, continue with the next one.

Producers in any language push messages by hand, and a program with the right to push can push anything. So the channel
validates every entry of a task's queue before kombu and Celery process it (S38). It then builds a new message, which
names the entry's own queue and that queue's task, and contains only the fields that callwatch needs. An error that
kombu or Celery raises on such a message is not the producer's fault: it is delivered again, never quarantined.
"""

import base64
import json
import logging
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from queue import Empty
from typing import Annotated, Any, Literal

from kombu.utils import json as kombu_json
from kombu.utils.encoding import bytes_to_str
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

MALFORMED_QUEUE = "outbound.malformed"  # a Redis list for operators; no worker consumes it
KEPT = 100  # newest entries that are kept
KEPT_FOR = 86_400  # seconds that the list is kept after its newest entry
KEPT_LENGTH = 16_384  # bytes that are kept of each entry
LONGEST_ID = 200  # characters of a task id
LONGEST = {"outbound.trigger": 16_384}  # bytes of an entry in a queue that producers write to
LONGEST_OF_OURS = 16_777_216  # bytes of an entry in any other queue: a message of many polls
DEEPEST = 20  # levels of a body: far below the depth at which Python raises RecursionError

READING = (ValueError, TypeError, ArithmeticError, RecursionError, LookupError, AttributeError)
"""Errors raised by reading a malformed entry; kombu's JSON also converts tagged dates, decimals and UUIDs."""

log = logging.getLogger(__name__)


class MalformedError(ValueError):
    """An entry that is JSON but not a valid task; `str()` quotes nothing of the entry."""


def _moment(text: str) -> str:
    datetime.fromisoformat(text)
    return text


def _printable(text: str) -> str:
    if not text.isprintable():  # control and format characters, lone surrogates
        raise ValueError
    return text


Text = Annotated[str, Field(min_length=1)]
TaskId = Annotated[str, Field(min_length=1, max_length=LONGEST_ID), AfterValidator(_printable)]
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
    """Validate an entry of a task's queue and return a new message for kombu; a malformed entry raises `READING`."""
    if len(text) > LONGEST.get(queue, LONGEST_OF_OURS):
        raise MalformedError("too long")
    entry = _Entry.model_validate(json.loads(text.decode()))
    given = entry.headers or {}
    if given.get("compression") is not None:
        raise MalformedError("compression")
    encoded = entry.body.encode()
    if entry.properties.body_encoding:
        encoded = base64.b64decode(encoded)
    payload = kombu_json.loads(encoded)  # the same decoder that Celery uses later
    _refuse_depth(payload, DEEPEST)
    if isinstance(payload, list):
        body, (_, _, embedded) = encoded.decode(), _TRIPLE.validate_python(payload)
    else:
        payload, given, embedded = _protocol_1(payload, given)
        body = kombu_json.dumps(payload)
    _refuse_embedded(embedded or {})
    headers = _Headers.model_validate(given)
    if headers.task != task:
        raise MalformedError("task")
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


def _protocol_1(payload: Any, headers: dict[str, Any]) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Return body, headers and embedded part of a message of Celery's protocol 1, whose body contains all three."""
    if not isinstance(payload, dict) or ("args" not in payload and "task" in headers):
        raise MalformedError("body")
    args, kwargs, _ = _TRIPLE.validate_python((payload.get("args", []), payload.get("kwargs", {}), None))
    embedded = {name: payload[name] for name in EMBEDDED if name in payload}
    return [args, kwargs, {}], payload | headers, embedded


def _refuse_embedded(embedded: dict[str, Any]) -> None:
    for name, value in embedded.items():
        if name not in EMBEDDED:
            raise MalformedError("embedded part")
        if value:
            raise MalformedError(name)


def _refuse_depth(value: Any, levels: int) -> None:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        if isinstance(one, dict | list):
            if levels == 0:
                raise MalformedError("nested too deeply")
            _refuse_depth(one, levels - 1)


class ForgivingChannel:
    """Mixin for a Redis channel: a malformed entry does not end the event loop."""

    task_queues: Mapping[str, str] = {}  # the name of the only task of each queue

    def _brpop_read(self, **options: Any) -> bool:
        """Read the reply of BRPOP and deliver it; unlike kombu, separate errors in reading from those in delivering."""
        channel: Any = self
        try:
            queue, text = self._popped(options)
            message = self._read(queue, text)
            if message is not None:
                channel.connection._deliver(message, queue)  # noqa: SLF001
        finally:
            channel._in_poll = None  # noqa: SLF001
            channel._flush_brpop_reauth()  # noqa: SLF001
        return True

    def _popped(self, options: dict[str, Any]) -> tuple[str, bytes]:
        channel: Any = self
        try:
            found = channel.client.parse_response(channel.client.connection, "BRPOP", **options)
        except channel.connection_errors:
            channel.client.connection.disconnect()  # the next iteration of the loop reconnects
            raise
        if not found:
            raise Empty
        queue: str = bytes_to_str(found[0]).rsplit(channel.sep, 1)[0]
        channel._queue_cycle.rotate(queue)  # noqa: SLF001
        return queue, found[1]

    def _read(self, queue: str, text: bytes) -> Any:
        try:
            task = self.task_queues.get(queue)
            return kombu_json.loads(text) if task is None else read_task(text, queue, task)
        except READING as error:
            quarantine(self, text, error)
            return None

    def _receive_one(self, client: Any) -> Any:
        """Receive a remote command or an event; in plain kombu an unreadable one ends the event loop."""
        try:
            return super()._receive_one(client)  # type: ignore[misc]
        except READING as error:
            log.error("unreadable event or remote command dropped: %s", _reason(error))  # noqa: TRY400 - quotes it
            return False


class ForgivingTransport:
    """Mixin for a Redis transport: a malformed remote command or reply does not end the event loop."""

    def _deliver(self, entry: Any, queue: str) -> None:
        channel: Any = next(iter(self.channels))  # type: ignore[attr-defined]
        if queue in channel.task_queues:
            super()._deliver(entry, queue)  # type: ignore[misc]
            return
        try:
            super()._deliver(entry, queue)  # type: ignore[misc]
        except READING as error:
            quarantine(channel, _written(entry), error)
            with suppress(*READING):
                channel.basic_reject(entry["properties"]["delivery_tag"], requeue=False)


def _written(entry: Any) -> bytes:
    with suppress(*READING):
        return kombu_json.dumps(entry).encode()  # type: ignore[no-any-return]
    return b""


def quarantine(channel: Any, text: bytes, error: Exception) -> None:
    """Quarantine an entry for an operator, and log it without its content (S37)."""
    log.error("malformed message of %s bytes put aside in %s: %s", len(text), MALFORMED_QUEUE, _reason(error))
    with channel.conn_or_acquire() as client, client.pipeline() as pipe:
        pipe.lpush(MALFORMED_QUEUE, text[:KEPT_LENGTH])
        pipe.ltrim(MALFORMED_QUEUE, 0, KEPT - 1)
        pipe.expire(MALFORMED_QUEUE, KEPT_FOR)
        pipe.execute()


def _reason(error: Exception) -> str:
    """Return the reason without the message's content: only the text of our own errors quotes none of it."""
    if isinstance(error, ValidationError):
        field = ".".join(map(str, error.errors(include_input=False)[0]["loc"])) or "body"
        return f"{type(error).__name__} ({field})"
    return f"{type(error).__name__} ({error})" if isinstance(error, MalformedError) else type(error).__name__

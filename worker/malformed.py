"""Quarantine malformed messages: log them, keep the raw entry in `outbound.malformed`, go on with the next one.

Producers of any language push their messages by hand. kombu and Celery let most malformed ones end the worker's loop,
and the broker then hands the entry to the next worker. So a task's message is read completely before it is handed to
them. What they raise then is no fault of the message: it is handed out again, and never put aside.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

MALFORMED_QUEUE = "outbound.malformed"  # a list beside the queues; nobody consumes it
KEPT = 100  # entries, the newest
KEPT_FOR = 86_400  # seconds after the newest

FAULTS = (ValueError, TypeError, KeyError, IndexError, AttributeError)  # what taking apart the unexpected raises

log = logging.getLogger(__name__)

Text = Annotated[str, Field(min_length=1)]
Moment = Annotated[str, AfterValidator(datetime.fromisoformat)]


class MalformedError(Exception):
    """A message that kombu can read, and Celery could not; `str()` quotes none of it."""


class HandedOnError(Exception):
    """What a message's consumer raised, which must not pass for a fault of the message."""


class _Envelope(BaseModel):
    model_config = ConfigDict(strict=True)


class _Place(_Envelope):
    exchange: str
    routing_key: str


class _Properties(_Envelope):
    delivery_tag: Text
    delivery_info: _Place


class _Headers(_Envelope):
    """The fields that Celery's worker itself reads before a thread or process of its pool takes the task over."""

    task: Text
    id: Text
    shadow: str | None = None
    eta: Moment | None = None
    expires: Moment | None = None
    timelimit: Annotated[list[FiniteFloat | None], Field(min_length=2, max_length=2)] | None = None
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None


_BODY = TypeAdapter(tuple[list[Any], dict[str, Any], dict[str, Any] | None])


def read_task(channel: Any, entry: Any) -> None:
    """Read a task's message as kombu and Celery will; whatever is raised says that they cannot."""
    if not isinstance(entry, dict):
        raise MalformedError("no object")
    message = channel.Message(entry, channel=channel)
    if message.errors:
        raise MalformedError("compression")
    _Properties.model_validate(message.properties)
    payload, headers = message.decode(), message.headers  # JSON: kombu decodes nothing else
    if isinstance(payload, list):
        _BODY.validate_python(payload)
        _Headers.model_validate(headers)
    elif isinstance(payload, dict) and ("args" in payload or "task" not in headers):  # message protocol 1
        _BODY.validate_python((payload.get("args", []), payload.get("kwargs", {}), None))
        _Headers.model_validate({**payload, **headers} if "args" in payload else payload)
    else:
        raise MalformedError("body")


class ForgivingChannel:
    """Mixin for a Redis channel: entries that are no JSON do not end the loop."""

    task_queues: tuple[str, ...] = ()  # whose messages are read before they are handed on

    def _brpop_read(self, **options: Any) -> Any:
        with self.forgiving():
            return super()._brpop_read(**options)  # type: ignore[misc]
        return True

    @contextmanager
    def forgiving(self) -> Iterator[None]:
        """Put aside what is no JSON; of what is nested too deeply only that it was there, for the error has no text."""
        try:
            yield
        except json.JSONDecodeError as error:
            put_aside(self, error.doc, error)
        except RecursionError as error:
            put_aside(self, "nested too deeply", error)


class ForgivingTransport:
    """Mixin for a Redis transport: entries that are no message, or no task's message, do not end the loop."""

    def _deliver(self, entry: Any, queue: str) -> None:
        channel: Any = next(iter(self.channels))  # type: ignore[attr-defined]
        if queue not in channel.task_queues:
            self._try_to_deliver(channel, entry, queue)
            return
        try:
            read_task(channel, entry)
        except Exception as error:  # noqa: BLE001  kombu reads here, and nothing else
            put_aside(channel, json.dumps(entry), error)
            return
        try:
            super()._deliver(entry, queue)  # type: ignore[misc]
        except (json.JSONDecodeError, RecursionError) as error:
            raise HandedOnError from error

    def _try_to_deliver(self, channel: Any, entry: Any, queue: str) -> None:
        """Deliver what is no task, from remote control or a reply: whatever goes wrong with it must stop nothing."""
        try:
            super()._deliver(entry, queue)  # type: ignore[misc]
        except (*FAULTS, RecursionError) as error:
            put_aside(channel, json.dumps(entry), error)
            tag = entry.get("properties", {}).get("delivery_tag") if isinstance(entry, dict) else None
            if tag is not None:
                channel.basic_reject(tag, requeue=False)


def put_aside(channel: Any, entry: str, error: Exception) -> None:
    """Keep an entry where a person can look at it, and say so without repeating any of it (S37)."""
    log.error("malformed message of %s characters put aside in %s: %s", len(entry), MALFORMED_QUEUE, _reason(error))
    with channel.conn_or_acquire() as client:
        client.lpush(MALFORMED_QUEUE, entry)
        client.ltrim(MALFORMED_QUEUE, 0, KEPT - 1)
        client.expire(MALFORMED_QUEUE, KEPT_FOR)


def _reason(error: Exception) -> str:
    """Return what is wrong in words of ours: the text of any other error may quote the message."""
    if isinstance(error, ValidationError):
        field = ".".join(map(str, error.errors(include_input=False)[0]["loc"])) or "body"
        return f"{type(error).__name__} ({field})"
    return f"{type(error).__name__} ({error})" if isinstance(error, MalformedError) else type(error).__name__

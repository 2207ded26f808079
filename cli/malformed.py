"""Show the quarantined messages, each with its wrong field and without its content: `callwatch malformed`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, cast

import redis

from cli.connect import connect, no_answer, read_settings
from cli.ui.output import DONE, Failure, printable, say, say_json
from config.settings import Settings
from worker.core.messages import plain_id
from worker.runtime.celery_config import TASKS, TRIGGER_QUEUE
from worker.runtime.malformed import KEPT_LENGTH, MALFORMED_QUEUE
from worker.runtime.task_message import READING, MalformedError, read_task


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A quarantined entry: its wrong field, the fault, and its ids where they can be read."""

    field: str
    fault: str
    task_id: str
    case_id: str
    mediation_id: str
    bytes: int


def malformed(*, clear: bool, as_json: bool) -> int:
    """List the quarantined messages, the newest first, and delete them on request; return the exit code."""
    settings = read_settings()
    entries = read_entries(settings)
    found = [examine(entry) for entry in entries]
    if clear:
        delete_entries(settings, entries)
    if as_json:
        say_json({"messages": [asdict(one) for one in found], "cleared": clear})
        return DONE
    for one in found:
        say(_line(one))
    say(f"{len(found)} quarantined messages{' deleted' if clear else ''}")
    return DONE


def examine(entry: bytes) -> Quarantined:
    """Return the fault of an entry and its ids: never another part of it, which may hold personal data (S37)."""
    fault = _fault(entry)
    parts: dict[str, Any] = {}
    with suppress(*READING):
        message = json.loads(entry)
        parts = {"task_id": message["headers"].get("id")}
        kwargs = json.loads(message["body"])[1]
        parts |= {name: kwargs.get(name) for name in ("case_id", "mediation_id")}
    ids = {name: plain_id(parts.get(name)) for name in ("task_id", "case_id", "mediation_id")}
    return Quarantined(fault.field, fault.fault, bytes=len(entry), **ids)


def _fault(entry: bytes) -> MalformedError:
    """Validate an entry again, for the queue that it names: the list does not keep its queue."""
    if len(entry) >= KEPT_LENGTH:
        return MalformedError("entry", "is too long, or was cut: the log of the worker names the field")
    queue = TRIGGER_QUEUE
    with suppress(*READING):
        named = json.loads(entry)["properties"]["delivery_info"]["routing_key"]
        queue = named if named in TASKS else queue
    try:
        read_task(entry, queue, TASKS[queue])
    except MalformedError as error:
        return error
    return MalformedError("headers.task", "should be the task of its queue")  # the only part that depends on the queue


def _line(one: Quarantined) -> str:
    pair = "/".join(filter(None, (one.case_id, one.mediation_id)))
    parts = (f"{one.field}: {one.fault}", pair, one.task_id and f"task id {one.task_id}", f"{one.bytes} bytes")
    return printable("  ".join(filter(None, parts)))


@contextmanager
def _broker(settings: Settings) -> Iterator[Any]:
    try:
        with connect(settings.broker_url, decode=False) as client:  # an entry may be no text
            yield client
    except redis.RedisError as error:
        raise Failure(no_answer(settings.broker_url, "CALLWATCH_BROKER_URL", error)) from None


def read_entries(settings: Settings) -> list[bytes]:
    """Return the quarantined entries, the newest first; Failure if the broker does not answer."""
    with _broker(settings) as client:
        return cast("list[bytes]", client.lrange(MALFORMED_QUEUE, 0, -1))


def delete_entries(settings: Settings, entries: list[bytes]) -> int:
    """Delete quarantined entries; return their number."""
    with _broker(settings) as client:
        return sum(int(client.lrem(MALFORMED_QUEUE, 0, one)) for one in set(entries))

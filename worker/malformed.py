"""What becomes of a queue entry that nobody can take apart: it is said, kept aside, and stops no worker.

Producers of any language push their messages by hand. kombu and Celery let most malformed ones end the worker's loop,
and the broker then hands the entry to the next worker.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MALFORMED_QUEUE = "outbound.malformed"  # a list beside the queues; nobody consumes it
KEPT = 100  # entries, the newest
KEPT_FOR = 86_400  # seconds after the newest

FAULTS = (ValueError, TypeError, KeyError, IndexError, AttributeError)  # what taking apart the unexpected raises

log = logging.getLogger(__name__)


class ForgivingChannel:
    """Mixin for a Redis channel: entries that are no JSON do not end the loop."""

    def _brpop_read(self, **options: Any) -> Any:
        with self.forgiving():
            return super()._brpop_read(**options)  # type: ignore[misc]
        return True

    @contextmanager
    def forgiving(self) -> Iterator[None]:
        """Put aside what is no JSON."""
        try:
            yield
        except json.JSONDecodeError as error:
            put_aside(self, error.doc, error)


class ForgivingTransport:
    """Mixin for a Redis transport: entries that are no message, or no task's message, do not end the loop."""

    def _deliver(self, message: Any, queue: str) -> None:
        try:
            super()._deliver(message, queue)  # type: ignore[misc]
        except FAULTS as error:
            channel: Any = next(iter(self.channels))  # type: ignore[attr-defined]
            put_aside(channel, json.dumps(message), error)
            tag = message.get("properties", {}).get("delivery_tag") if isinstance(message, dict) else None
            if tag is not None:
                channel.basic_reject(tag, requeue=False)


def put_aside(channel: Any, entry: str, error: Exception) -> None:
    """Keep an entry where a person can look at it, and say so without repeating any of it (S37)."""
    log.error(
        "malformed message of %s characters put aside in %s: %s", len(entry), MALFORMED_QUEUE, type(error).__name__
    )
    with channel.conn_or_acquire() as client:
        client.lpush(MALFORMED_QUEUE, entry)
        client.ltrim(MALFORMED_QUEUE, 0, KEPT - 1)
        client.expire(MALFORMED_QUEUE, KEPT_FOR)

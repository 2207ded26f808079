"""Quarantine malformed messages: log them, keep the raw entry in `outbound.malformed`, continue with the next one.

The channel validates every entry of a task's queue (worker/runtime/task_message.py) before kombu and Celery process it
(S38). An error that kombu or Celery raises on a valid message is not the producer's fault: it is delivered again, never
quarantined.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from queue import Empty
from typing import Any

from kombu.utils import json as kombu_json
from kombu.utils.encoding import bytes_to_str

from worker.runtime.task_message import READING, MalformedError, read_task

MALFORMED_QUEUE = "outbound.malformed"  # a Redis list for operators; no worker consumes it
KEPT = 100  # newest entries that are kept
KEPT_FOR = 86_400  # seconds that the list is kept after its newest entry
KEPT_LENGTH = 16_384  # bytes that are kept of each entry

log = logging.getLogger(__name__)


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
            log.error("unreadable event or remote command dropped: %s", _fault(error))  # noqa: TRY400 - quotes it
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
    log.error(
        "malformed message of %s bytes put aside in %s: %s",
        len(text),
        MALFORMED_QUEUE,
        _fault(error),
        extra={"field": error.field} if isinstance(error, MalformedError) else {},
    )
    with channel.conn_or_acquire() as client, client.pipeline() as pipe:
        pipe.lpush(MALFORMED_QUEUE, text[:KEPT_LENGTH])
        pipe.ltrim(MALFORMED_QUEUE, 0, KEPT - 1)
        pipe.expire(MALFORMED_QUEUE, KEPT_FOR)
        pipe.execute()


def _fault(error: Exception) -> str:
    """Return the fault without the message's content: the text of any error but our own may quote it."""
    return str(error) if isinstance(error, MalformedError) else type(error).__name__

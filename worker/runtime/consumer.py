"""Celery's consumer, which connects again at once and quotes no refused message (S37); the remote commands (S40)."""

import functools
import logging
from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.control import Panel

from worker.runtime.malformed import LONGEST_ID

RECONNECT_EVERY = 0.5  # seconds between two attempts to connect to Redis: a refused one costs next to nothing
ASKED = frozenset(
    {
        *("active", "active_queues", "clock", "conf", "ping", "query_task"),
        *("registered", "report", "reserved", "revoked", "scheduled", "stats"),
        *("enable_events", "heartbeat"),  # what Flower sends of itself: a worker's events are on in any case
    }
)
"""Commands that change nothing. The others end a worker, stop its queues or events, or revoke triggers (`hello`)."""

log = logging.getLogger(__name__)


class Consumer(CeleryConsumer):  # type: ignore[misc]  # Celery has no types
    """A consumer that says of a refused message its kind, its length and its task id.

    It does not exchange lists of revoked tasks with other workers: nothing can be revoked, and mingle costs a second at
    each start and each new connection. Celery would wait 2, 4, 6 … seconds between its attempts to connect.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **(options | {"without_mingle": True, "without_gossip": True}))

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, trying again every `RECONNECT_EVERY` seconds."""
        conn.ensure_connection = functools.partial(
            conn.ensure_connection, interval_start=RECONNECT_EVERY, interval_step=0, interval_max=RECONNECT_EVERY
        )
        return super().ensure_connected(conn)

    def on_unknown_message(self, _body: Any, message: Any) -> None:
        """Refuse what is no task."""
        self._refuse("unknown message", message)

    def on_unknown_task(self, _body: Any, message: Any, _error: Any) -> None:
        """Refuse a task that does not exist."""
        self._refuse("unknown task", message)

    def on_invalid_task(self, _body: Any, message: Any, _error: Any) -> None:
        """Refuse a task whose message is not as Celery wants it."""
        self._refuse("invalid task", message)

    def on_decode_error(self, message: Any, _error: Any) -> None:
        """Refuse what cannot be decoded."""
        self._refuse("unreadable message", message)

    def _refuse(self, kind: str, message: Any) -> None:
        headers = message.headers if isinstance(message.headers, dict) else {}
        task_id = headers.get("id")
        shown = task_id if isinstance(task_id, str) and len(task_id) <= LONGEST_ID else ""
        log.error("%s of %s bytes refused", kind, len(message.body or ""), extra={"task_id": shown})
        message.reject_log_error(log, self.connection_errors)


def take_no_commands() -> None:
    """Take from a worker's panel whatever changes something (S40)."""
    for name in Panel.data.keys() - ASKED:
        Panel.data.pop(name)

"""Celery's consumer: reconnect quickly, log refused messages without their content (S37), disable commands (S40)."""

import functools
import logging
import time
from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.control import Panel

from worker.core.messages import MAX_ID_LENGTH

RECONNECT_EVERY = 0.5  # seconds between two attempts to connect to Redis; a refused attempt is cheap
READ_ONLY_COMMANDS = frozenset(
    {
        *("active", "active_queues", "clock", "conf", "ping", "query_task"),
        *("registered", "report", "reserved", "revoked", "scheduled", "stats"),
        *("enable_events", "heartbeat"),  # Flower sends them by itself; a worker's events are always on
    }
)
"""Commands that change nothing. The others stop a worker, its queues or events, or revoke triggers (`hello`)."""

log = logging.getLogger(__name__)


class Consumer(CeleryConsumer):  # type: ignore[misc]  # Celery has no types
    """Consume messages; log only kind, length and task id of a refused message.

    Mingle and gossip are off: no task can be revoked, so workers need not exchange lists of revoked tasks, and mingle
    costs a second at each start and each new connection. Celery's own back-off between connection attempts is 2, 4,
    6 … seconds.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **(options | {"without_mingle": True, "without_gossip": True}))

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, with a retry every `RECONNECT_EVERY` seconds."""
        conn.ensure_connection = functools.partial(
            conn.ensure_connection, interval_start=RECONNECT_EVERY, interval_step=0, interval_max=RECONNECT_EVERY
        )
        return super().ensure_connected(conn)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Wait `RECONNECT_EVERY` seconds for a Redis that accepts connections and refuses writes.

        Celery would try again at once, five times a second, and log each attempt and a traceback for all of them.
        """
        super().on_connection_error_before_connected(exc)
        time.sleep(RECONNECT_EVERY)

    def on_unknown_message(self, _body: Any, message: Any) -> None:
        """Refuse a message that is not a task."""
        self._refuse("unknown message", message)

    def on_unknown_task(self, _body: Any, message: Any, _error: Any) -> None:
        """Refuse a task that does not exist."""
        self._refuse("unknown task", message)

    def on_invalid_task(self, _body: Any, message: Any, _error: Any) -> None:
        """Refuse a task whose message Celery cannot accept."""
        self._refuse("invalid task", message)

    def on_decode_error(self, message: Any, _error: Any) -> None:
        """Refuse a message that cannot be decoded."""
        self._refuse("unreadable message", message)

    def _refuse(self, kind: str, message: Any) -> None:
        headers = message.headers if isinstance(message.headers, dict) else {}
        task_id = headers.get("id")
        shown = task_id if isinstance(task_id, str) and len(task_id) <= MAX_ID_LENGTH else ""
        log.error("%s of %s bytes refused", kind, len(message.body or ""), extra={"task_id": shown})
        message.reject_log_error(log, self.connection_errors)


def disable_commands() -> None:
    """Remove all remote commands that change something (S40)."""
    for name in Panel.data.keys() - READ_ONLY_COMMANDS:
        Panel.data.pop(name)

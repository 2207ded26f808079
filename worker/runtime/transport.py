"""The Redis transport of kombu, mended so that a worker outlives its connection; see docs/adr/0015-timers-in-redis.md.

Every override names the fault of plain kombu that it mends; tests/unit/test_broker.py runs plain kombu into each.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from celery.app.events import Events as CeleryEvents
from celery.events import EventDispatcher
from kombu import transport
from kombu.transport import TRANSPORT_ALIASES, redis

from worker.runtime.malformed import ForgivingChannel, ForgivingTransport

MADE_FOR_KOMBU = "5.7"  # with another version see first whether its faults are still there


class QoS(redis.QoS):
    """The messages that this process holds, also beyond the end of the connection that they came by.

    `left` are the delivery tags that lost connections of this process held, and those whose acknowledgement failed.
    Redis keeps their messages, and the next connection puts them back, instead of the visibility time-out. `popped` are
    messages that this process alone had when it lost its connection, by their tags.
    """

    left: ClassVar[set[str]] = set()
    popped: ClassVar[dict[str, Any]] = {}

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message as delivered; kombu loses the one that it has popped and cannot note."""
        try:
            super().append(message, delivery_tag)
        except Exception:
            self.popped[delivery_tag] = message
            raise

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message."""
        with self._given_up(delivery_tag):
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Hand a message back, or drop it."""
        with self._given_up(delivery_tag):
            super().reject(delivery_tag, requeue)

    @contextmanager
    def _given_up(self, delivery_tag: str) -> Iterator[None]:
        """Free a message's place though Redis did not take its acknowledgement.

        Celery logs a failed acknowledgement and goes on; kombu counts the message as held. With as many as the worker
        has threads it would never fetch another one, and so never notice that its connection is of no use.
        """
        try:
            yield
        except Exception:
            self.left.add(delivery_tag)
            self._quick_ack(delivery_tag)
            raise

    def leave(self) -> None:
        """Drop everything that is not acknowledged; the next connection puts it back."""
        self._flush()
        self.left.update(self._delivered)
        self._delivered.clear()

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Put back what lost connections held, then what has been away for the visibility time-out."""
        for tag, message in tuple(self.popped.items()):
            self._put_back(message)
            self.popped.pop(tag, None)
            self.left.discard(tag)
        for tag in tuple(self.left):
            self.restore_by_tag(tag)
            self.left.discard(tag)
        super().restore_visible(*args, **kwargs)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Put a message back, unless the channel is closed: then kombu finds no queue for it, and deletes it."""
        if self.channel.connection is not None:
            super().restore_by_tag(tag, client, leftmost)

    def _put_back(self, message: Any) -> None:
        info = message.delivery_info
        with self.channel.conn_or_acquire() as client:
            self.channel._do_restore_message(message._raw, info["exchange"], info["routing_key"], client, True)  # noqa: SLF001


class Channel(ForgivingChannel, redis.Channel):
    """A channel whose client outlives it: a task that ends after the connection was lost still acknowledges through it.

    A client of the Redis library is safe to share between threads: each command takes a connection from the pool.
    """

    QoS = QoS
    from_transport_options = (*redis.Channel.from_transport_options, "task_queues")

    def _create_client(self, asynchronous: bool = False) -> Any:
        return super()._create_client(asynchronous=True) if asynchronous else self._shared_client

    @functools.cached_property
    def _shared_client(self) -> Any:
        return super()._create_client()

    def abandon(self) -> None:
        """Close without a word to Redis: nothing read, deleted or put back."""
        self._in_poll = None
        self.auto_delete_queues.clear()
        self.qos.leave()
        self.close()


class Transport(ForgivingTransport, redis.Transport):
    """kombu's Redis transport with that channel.

    A Redis that refuses (as a replica after a failover, with its memory or disk full) counts as one that is away.
    """

    Channel = Channel
    connection_errors = redis.Transport.connection_errors + redis.Transport.channel_errors

    def _collect(self, _connection: object) -> None:
        """Drop a lost connection.

        Celery calls it (through kombu's `Connection.collect`) before it connects again. Without it kombu closes each
        channel with commands to the Redis that is away, and what those raise ends the worker.
        """
        self.cycle.close()  # or the event loop would go on watching its file descriptors, which others have by then
        for channel in tuple(self.channels):
            channel.abandon()


class Dispatcher(EventDispatcher):
    """Sends a worker's events, each once; what Redis does not take is kept for the next connection."""

    def send(self, *args: Any, retry: bool = False, **kwargs: Any) -> Any:  # noqa: ARG002 - the point of it
        """Send an event.

        Celery has each heartbeat tried until Redis is back, and that in the worker's only loop: it then hears nothing
        else, a SIGTERM included.
        """
        return super().send(*args, **kwargs)


class Events(CeleryEvents):
    """The events of an application, with that dispatcher: for `Celery(events=…)`."""

    dispatcher_cls = f"{__name__}:{Dispatcher.__name__}"


def install() -> None:
    """Let kombu use this transport wherever a URL says Redis, also where the process has used kombu before."""
    for name in ("redis", "rediss"):
        TRANSPORT_ALIASES[name] = f"{__name__}:Transport"
        transport._transport_cache.pop(name, None)  # noqa: SLF001

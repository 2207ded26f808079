"""kombu's Redis transport, corrected so that a worker survives a lost connection; see docs/adr/0015-timers-in-redis.md.

Every override names the fault of plain kombu that it corrects; tests/unit/test_transport.py reproduces each fault.
"""

import functools
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from celery.app.backends import BACKEND_ALIASES
from celery.app.events import Events as CeleryEvents
from celery.backends.redis import RedisBackend
from celery.events import EventDispatcher
from kombu import transport
from kombu.transport import TRANSPORT_ALIASES, redis, virtual

from worker.runtime.malformed import ForgivingChannel, ForgivingTransport
from worker.store.primary import Primary

MADE_FOR_KOMBU = "5.7"  # before an upgrade, check which of the faults the new version still has


class QoS(redis.QoS):
    """The unacknowledged messages of this process, including those of lost connections.

    `left` contains the delivery tags of messages that were unacknowledged when a connection was lost, or whose
    acknowledgement failed. Redis still has these messages, and the next connection requeues them without waiting for
    the visibility time-out. `popped` maps tags to messages that were removed from their queue but not yet recorded in
    Redis when the connection was lost.
    """

    left: ClassVar[set[str]] = set()
    popped: ClassVar[dict[str, Any]] = {}

    def append(self, message: Any, delivery_tag: str) -> None:
        """Record a message as unacknowledged; if Redis is away, kombu loses the message that it has popped.

        A message of a leased queue counts towards the prefetch limit and is not recorded in Redis: the leases of its
        polls replace it if it is lost. Recording and acknowledging it would cost an eighth of a poll's CPU time.
        """
        if self._is_leased(message):
            virtual.QoS.append(self, message, delivery_tag)
            return
        try:
            super().append(message, delivery_tag)
        except Exception:
            self.popped[delivery_tag] = message
            raise

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message."""
        if self._is_leased(self._delivered.get(delivery_tag)):
            self._quick_ack(delivery_tag)
            return
        with self._given_up(delivery_tag):
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Requeue or drop a message."""
        with self._given_up(delivery_tag):
            super().reject(delivery_tag, requeue)

    @contextmanager
    def _given_up(self, delivery_tag: str) -> Iterator[None]:
        """Free a message's prefetch slot if its acknowledgement fails.

        Celery logs a failed acknowledgement and continues, but kombu still counts the message as unacknowledged. With
        as many such messages as threads, the worker would fetch no message and never notice the broken connection.
        """
        try:
            yield
        except Exception:
            self.left.add(delivery_tag)
            self._quick_ack(delivery_tag)
            raise

    def leave(self) -> None:
        """Forget all unacknowledged messages; the next connection requeues them."""
        self._flush()
        self.left.update(self._delivered)
        self._delivered.clear()

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Requeue the messages of lost connections, then those whose visibility time-out has passed."""
        for tag, message in tuple(self.popped.items()):
            self._put_back(message)
            self.popped.pop(tag, None)
            self.left.discard(tag)
        for tag in tuple(self.left):
            self.restore_by_tag(tag)
            self.left.discard(tag)
        super().restore_visible(*args, **kwargs)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Requeue a message unless the channel is closed; plain kombu then finds no queue and deletes the message."""
        if self.channel.connection is None:
            return
        if self._is_leased(message := self._delivered.get(tag)):
            self._put_back(message)
        else:
            super().restore_by_tag(tag, client, leftmost)

    def _is_leased(self, message: Any) -> bool:
        return message is not None and message.delivery_info.get("routing_key") in self.channel.leased_queues

    def _put_back(self, message: Any) -> None:
        info = message.delivery_info
        with self.channel.conn_or_acquire() as client:
            self.channel._do_restore_message(message._raw, info["exchange"], info["routing_key"], client, True)  # noqa: SLF001


class Channel(ForgivingChannel, redis.Channel):
    """A channel whose Redis client survives a lost connection, so that running tasks can still acknowledge.

    The client is safe to share between threads: each command takes a connection from the pool.
    """

    QoS = QoS
    from_transport_options = (*redis.Channel.from_transport_options, "task_queues", "leased_queues", "primary")
    leased_queues: Collection[str] = ()  # the queues whose messages are replaced if they are lost
    primary: Primary | None = None

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        """Return the arguments of a pool whose connections follow the primary; kombu's own stay on a demoted server."""
        params: dict[str, Any] = super()._connparams()
        if self.primary is not None:
            params |= self.primary.options()
        if asynchronous:
            params["connection_class"] = self._polled(params["connection_class"])
        return params

    def _polled(self, kind: type) -> type:
        """Return a connection class for the event loop: a lost connection is removed from it, as in kombu."""
        channel = self

        class Polled(kind):
            def disconnect(self, *args: Any, **kwargs: Any) -> None:
                super().disconnect(*args, **kwargs)
                if channel._registered:
                    channel._on_connection_disconnect(self)

        return Polled

    def _create_client(self, asynchronous: bool = False) -> Any:
        return super()._create_client(asynchronous=True) if asynchronous else self._shared_client

    @functools.cached_property
    def _shared_client(self) -> Any:
        return super()._create_client()

    def abandon(self) -> None:
        """Close without a command to Redis: read, delete and requeue nothing."""
        self._in_poll = None
        self.auto_delete_queues.clear()
        self.qos.leave()
        self.close()


class Transport(ForgivingTransport, redis.Transport):
    """kombu's Redis transport with the corrected channel.

    A Redis that rejects commands (a replica after a failover, full memory or disk) counts as a lost connection.
    """

    Channel = Channel
    connection_errors = redis.Transport.connection_errors + redis.Transport.channel_errors

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Register the connection; discard it if Redis refuses its first write, or its channels would stay for ever."""
        try:
            super().register_with_event_loop(connection, loop)
        except self.connection_errors:
            self._collect(connection)
            raise

    def _collect(self, _connection: object) -> None:
        """Discard a lost connection.

        Celery calls it (through kombu's `Connection.collect`) before it reconnects. Plain kombu closes each channel
        with commands to the unavailable Redis, and their errors end the worker.
        """
        self.cycle.close()  # stop polling its file descriptors: the system reuses their numbers for other files
        for channel in tuple(self.channels):
            channel.abandon()


class Results(RedisBackend):
    """Celery's result backend, over connections that follow the primary."""

    def _get_pool(self, **params: Any) -> Any:
        primary: Primary | None = self._transport_options.get("primary")
        return super()._get_pool(**(params | (primary.options() if primary else {})))

    def _store_result(self, *args: Any, **kwargs: Any) -> Any:
        """Store a result; after a lost connection once more, over a new one.

        Celery reads the stored result first, without the retries of a write. If an idle connection has died without a
        sign, that read times out, and a trigger that was carried out would get the result FAILURE.
        """
        try:
            return super()._store_result(*args, **kwargs)
        except self.connection_errors:
            return super()._store_result(*args, **kwargs)


class Dispatcher(EventDispatcher):
    """Send a worker's events without retries; Celery buffers failed events for the next connection."""

    def send(self, *args: Any, retry: bool = False, **kwargs: Any) -> Any:  # noqa: ARG002 - dropped on purpose
        """Send an event, ignoring `retry`.

        Celery retries each heartbeat until Redis is back, in the worker's only event loop, which meanwhile handles
        nothing else, not even SIGTERM.
        """
        return super().send(*args, **kwargs)


class Events(CeleryEvents):
    """The events of an application with the dispatcher above, for `Celery(events=…)`."""

    dispatcher_cls = f"{__name__}:{Dispatcher.__name__}"


def install() -> None:
    """Register transport and result backend for all Redis URLs, replacing a transport that kombu has cached."""
    for name in ("redis", "rediss", "sentinel"):
        TRANSPORT_ALIASES[name] = f"{__name__}:Transport"
        BACKEND_ALIASES[name] = f"{__name__}:Results"
        transport._transport_cache.pop(name, None)  # noqa: SLF001

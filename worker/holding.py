"""What a worker holds of its queues, accounted for beyond the end of a connection; see docs/adr/0006-redis-away.md."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from kombu.transport import redis


class QoS(redis.QoS):
    """What was delivered and not acknowledged.

    A message from one of `swept_queues` is noted in this process alone: the sweep publishes it again should the process
    die, and to note it in Redis and to strike it out there were a third of a poll's CPU time.

    `left` are the delivery tags that lost connections of this process held, and those whose acknowledgement failed.
    Redis keeps their messages, and they are put back, instead of waiting for the visibility time-out. `popped` are
    messages that this process alone had when it lost its connection, by their tags.
    """

    left: ClassVar[set[str]] = set()
    popped: ClassVar[dict[str, Any]] = {}

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message as delivered."""
        if self._is_swept(message):
            super(redis.QoS, self).append(message, delivery_tag)
            return
        try:
            super().append(message, delivery_tag)
        except Exception:
            self.popped[delivery_tag] = message
            raise

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message."""
        if self._is_noted(delivery_tag):
            with self._given_up(delivery_tag):
                super().ack(delivery_tag)
        else:
            self._strike_out(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Hand a message back, or drop it."""
        if self._is_noted(delivery_tag):
            with self._given_up(delivery_tag):
                super().reject(delivery_tag, requeue)
        elif requeue:
            self.restore_by_tag(delivery_tag, leftmost=True)
            self._quick_ack(delivery_tag)
        else:
            self._strike_out(delivery_tag)

    def _is_swept(self, message: Any) -> bool:
        return message.delivery_info["routing_key"] in self.channel.swept_queues

    def _is_noted(self, delivery_tag: str) -> bool:
        message = self._delivered.get(delivery_tag) or self.popped.get(delivery_tag)
        return message is None or not self._is_swept(message)

    def _strike_out(self, delivery_tag: str) -> None:
        self.popped.pop(delivery_tag, None)
        self._quick_ack(delivery_tag)

    @contextmanager
    def pipe_or_acquire(self, pipe: Any = None, client: Any = None) -> Iterator[Any]:
        """Give a pipeline for a message's two entries, without the `MULTI` that doubles what it costs.

        Both commands leave in one write, so a process that dies sends both or none.
        """
        if pipe is not None:
            yield pipe
            return
        with self.channel.conn_or_acquire(client) as connected:
            yield connected.pipeline(transaction=False)

    @contextmanager
    def _given_up(self, delivery_tag: str) -> Iterator[None]:
        """Free a message's place though Redis did not hear of it.

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
        """Let go of everything that is not acknowledged; the next connection puts it back."""
        self._flush()
        for tag, message in self._delivered.items():
            if self._is_swept(message):
                self.popped[tag] = message
            else:
                self.left.add(tag)
        self._delivered.clear()

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Put back what lost connections held, then what has been away for the visibility time-out."""
        for tag, message in tuple(self.popped.items()):
            self._put_back(message)
            self.popped.pop(tag, None)
        for tag in tuple(self.left):
            self.restore_by_tag(tag)
            self.left.discard(tag)
        super().restore_visible(*args, **kwargs)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Put a message back, unless the channel was let go: then the next connection does it, or has done it."""
        if self.channel.connection is None:  # kombu would find no queue for the message, and delete it
            return
        if self._is_noted(tag):
            super().restore_by_tag(tag, client, leftmost)
        else:
            try:
                self._put_back(self._delivered[tag], client, leftmost)
            except Exception:
                self.popped[tag] = self._delivered[tag]
                raise

    def _put_back(self, message: Any, client: Any = None, leftmost: bool = True) -> None:
        info = message.delivery_info
        with self.channel.conn_or_acquire(client) as connected:
            self.channel._do_restore_message(message._raw, info["exchange"], info["routing_key"], connected, leftmost)  # noqa: SLF001

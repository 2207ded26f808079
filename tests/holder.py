"""Hold unacknowledged messages as a worker does, over the transport of kombu or of callwatch."""

import contextlib

import redis
from kombu import Connection, Consumer, Exchange, Message, Queue

from worker.runtime import transport as transport_module

NAMED, NAMELESS = "outbound", ""  # exchanges: Celery's producers mostly use the nameless one


class Holder:
    """A connection with unacknowledged messages and a fanout control queue, as in a worker."""

    def __init__(
        self,
        url: str,
        exchange: str,
        *,
        transport: object = transport_module.Transport,
        messages: int = 3,
        **options: object,
    ) -> None:
        queue = Queue("polls", Exchange(exchange), routing_key="polls")
        self.held: list[Message] = []
        self.connection = Connection(url, transport=transport, transport_options=options)
        with self.connection.Producer() as producer:
            for number in range(messages):
                declare = [queue] if exchange else []
                producer.publish({"n": number}, exchange=exchange, routing_key="polls", declare=declare)
        self.consumer = Consumer(self.connection, [queue], on_message=self.held.append)
        self.consumer.channel.brpop_timeout = 60  # seconds
        self.consumer.consume()
        control = Queue("control", Exchange("control", type="fanout"), auto_delete=True)
        Consumer(self.connection.channel(), [control]).consume()
        while (
            len(self.held) < messages or not self.consumer.channel._in_poll
        ):  # until it waits for the next message, as a worker does
            with contextlib.suppress(TimeoutError):
                self.connection.drain_events(timeout=0.05)

    def leave(self) -> None:
        """Close the connection as a stopping worker does: no message is being fetched."""
        self.consumer.channel._in_poll = None
        self.connection.close()

    def lose(self) -> None:
        """Drop the connection as Celery's `Consumer.on_connection_error_after_connected` does."""
        self.connection.collect(socket_timeout=5)
        self.connection.close()


def connect_again(url: str, **options: object) -> None:
    """Connect as the worker does, far enough to restore messages."""
    with Connection(url, transport=transport_module.Transport, transport_options=options) as connection:
        connection.connect()
        connection.transport.cycle.on_poll_init(connection.transport.cycle.poller)


def waiting_and_held(url: str) -> tuple[int, int]:
    with redis.Redis.from_url(url) as client:
        return client.llen("polls"), client.hlen("unacked")

"""The Redis transport of kombu, mended so that a worker outlives its connection; see docs/adr/0006-redis-away.md."""

import functools
import json
from collections import defaultdict
from typing import Any

from celery.app.events import Events as CeleryEvents
from celery.events import EventDispatcher
from kombu import transport
from kombu.transport import TRANSPORT_ALIASES, redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps

from worker.holding import QoS
from worker.malformed import ForgivingChannel, ForgivingTransport

MADE_FOR_KOMBU = "5.7"  # with another version see first whether its faults are still there: tests/unit/test_broker.py
PAUSE = 0.1  # seconds between two times of fetching polls: each is fetched an interval ahead of its time anyway
FETCHED = 100  # polls at a time, at the most


class Batch(redis.PublishBatch):
    """Messages that leave together; those for the head of one queue as one command, in the order given.

    The client library writes several commands in pieces of 6,000 bytes. A busy process gives its interpreter to another
    thread at each write: what takes 0.07 s of its time took the sweep over 1 s.
    """

    def __init__(self, channel: Any, max_size: int) -> None:
        super().__init__(channel, max_size)
        self._heads: defaultdict[str, list[str]] = defaultdict(list)

    def put_first(self, queue: str, message: str) -> None:
        """Put a message at the head of its queue."""
        self._heads[queue].append(message)
        self._buffered += 1

    def flush(self) -> None:
        """Send everything."""
        for queue, messages in self._heads.items():
            self.pipeline.rpush(queue, *messages)
        self._heads.clear()
        super().flush()


class Channel(ForgivingChannel, redis.Channel):
    """A channel that keeps its client: making one anew for each publish, pop and ack cost 13 % of a poll's CPU time.

    A client of the Redis library is safe to share between threads: each command takes a connection from the pool. It
    also outlives the channel, for tasks that end after the connection was lost still acknowledge through it.
    """

    QoS = QoS
    swept_queues: tuple[str, ...] = ()  # whose messages the sweep publishes again when they are lost
    _pauses = False
    from_transport_options = (*redis.Channel.from_transport_options, "swept_queues")

    def _create_client(self, asynchronous: bool = False) -> Any:
        return super()._create_client(asynchronous=True) if asynchronous else self._shared_client

    @functools.cached_property
    def _shared_client(self) -> Any:
        return super()._create_client()

    def _put(self, queue: str, message: Any, **options: Any) -> None:
        """Put a message into its queue; what the sweep publishes again, in a batch, goes before all that wait there.

        They wait for their time, it is late already, and a worker with too much to do fetches late.
        """
        batch = options.get("_publish_batch")
        if batch is None or queue not in self.swept_queues:
            super()._put(queue, message, **options)
        else:
            batch.put_first(queue, dumps(message))

    def create_publish_batch(self, max_size: int) -> Batch:
        """Return what collects messages that leave together."""
        return Batch(self, max_size)

    def _brpop_start(self, timeout: float | None = None) -> None:
        if not self._pauses:
            super()._brpop_start(timeout)

    def _brpop_read(self, **options: Any) -> Any:
        """Take what came, and with it the polls that wait: one request for many, as each costs a turn of the loop."""
        something = super()._brpop_read(**options)
        loop, queues = self.connection.loop, set(self.swept_queues).intersection(self.active_queues)
        if queues and loop is not None and not self._closing:
            self._pauses = True
            loop.call_later(PAUSE, self._go_on)
            for queue in queues:
                self._take(queue)
        return something

    def _take(self, queue: str) -> None:
        with self.conn_or_acquire() as client:
            entries = client.rpop(queue, FETCHED) or []
        for entry in entries:
            with self.forgiving():
                self.connection._deliver(json.loads(bytes_to_str(entry)), queue)  # noqa: SLF001

    def _go_on(self) -> None:
        self._pauses = False

    def abandon(self) -> None:
        """Close without a word to Redis: nothing read, deleted or put back."""
        self._in_poll = None
        self.auto_delete_queues.clear()
        self.qos.leave()
        self.close()


class Loop:
    """A worker's loop to which kombu's channels add their sockets once, and not at each of its turns."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def add_reader(self, fd: int, callback: Any, *args: Any) -> None:
        """Listen to a socket, unless the loop does; kombu itself registers a new socket of an old number."""
        if self._loop.readers.get(fd) != (callback, args):
            self._loop.add_reader(fd, callback, *args)


class Transport(ForgivingTransport, redis.Transport):
    """kombu's Redis transport with that channel.

    A Redis that refuses (as a replica after a failover, with its memory or disk full) counts as one that is away.
    """

    Channel = Channel
    connection_errors = redis.Transport.connection_errors + redis.Transport.channel_errors
    loop: Any = None

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Let a worker's loop serve this connection."""
        self.loop = loop
        super().register_with_event_loop(connection, Loop(loop))

    def _collect(self, _connection: object) -> None:
        """Let go of a lost connection.

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

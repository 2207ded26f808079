"""What lives in a worker beside its tasks: the dispatcher, the sweep, the notifier, and the sign that it works.

Dispatcher and sweep are threads of every worker: no process of its own could be the one that died. The sweep's thread
signs; the sign is withheld unless sweep and dispatcher have succeeded lately, the consumer's event loop turns, Redis
answers, and the worker takes what waits in its queues. An idle worker is healthy; one that is up and deaf is not.
"""

import contextlib
import functools
import logging
import threading
import time
from pathlib import Path
from typing import Any

import redis
from celery import bootsteps
from celery.worker import state

from config.redis_url import parse_redis_url
from config.settings import Settings
from worker.app import app
from worker.container import container, new_token
from worker.core.interfaces import Deliver, StoreUnavailable
from worker.core.notice import NoticeChannel
from worker.flows.dispatch import dispatch_forever
from worker.flows.notify import Notifier
from worker.flows.sweep import sweep_forever
from worker.runtime.celery_config import TASKS, TRIGGER_QUEUE
from worker.runtime.liveness import TICK, HealthFile, Heartbeat, QueueLoad
from worker.runtime.notice_delivery import TaskCall, Webhook
from worker.store.connection import NOT_DURABLE
from worker.tasks import PollQueue, Publisher, this_process

ANSWER_WITHIN = 2  # seconds for the broker to say what waits: the sweep must not hang on it
DISPATCH_WITHIN = 1.0  # seconds between two turns of the dispatcher, the longest pause after a failure included

log = logging.getLogger(__name__)


class DispatcherStep(bootsteps.StartStopStep):
    """Dispatches due polls from the worker's start to its end; every worker does, without a leader (S20, S28)."""

    requires = (f"{__name__}:SweepStep",)  # which makes the worker's health

    def __init__(self, parent: Any, **_: Any) -> None:
        super().__init__(parent)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, parent: Any) -> None:
        """Start the thread."""
        health = getattr(parent, "callwatch_health", None)
        dispatcher = container().dispatcher(PollQueue(container().settings), this_process.free)
        done = functools.partial(health.succeeded, "dispatcher") if health else lambda: None
        arguments = (dispatcher, self._over.wait, done)
        self._thread = threading.Thread(target=dispatch_forever, args=arguments, name="dispatcher", daemon=True)
        self._thread.start()

    def stop(self, _parent: Any) -> None:
        """End the thread after the turn that it is at."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    terminate = stop


class SweepStep(bootsteps.StartStopStep):
    """Sweeps from the worker's start to its end; of all workers one at a time does the work (S18)."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **_: Any) -> None:
        super().__init__(parent)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._health: WorkerHealth | None = None
        self._durability_checked = False

    def start(self, parent: Any) -> None:
        """Start the thread."""
        settings = container().settings
        self._durability_checked = settings.demo or TRIGGER_QUEUE not in app.amqp.queues.consume_from
        if settings.health_file:
            parent.callwatch_health = self._health = WorkerHealth(settings, threads=parent.concurrency)
        sweep = container().sweep(Publisher())
        done = functools.partial(self._health.succeeded, "sweep") if self._health else lambda: None
        arguments = (sweep, self._wait, container().clock, done)
        self._thread = threading.Thread(target=sweep_forever, args=arguments, name="sweep", daemon=True)
        self._thread.start()

    def stop(self, _parent: Any) -> None:
        """End the thread after the sweep that it is at."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        if self._health is not None:
            self._health.close()

    terminate = stop

    def _wait(self, seconds: float) -> bool:
        over = self._over.wait(seconds)
        if not over:
            with contextlib.suppress(StoreUnavailable):  # the sweep says so
                container().store.cache_counts(limit=container().settings.overdue_grace)
                self._check_durability()
        if self._health is not None and not over:
            self._health.sign()
        return over

    def _check_durability(self) -> None:
        """Warn once where a worker that dials writes `sending` to a Redis that may forget it (S18)."""
        if self._durability_checked:
            return
        durable = container().store.durability != "none"  # StoreUnavailable: after the next sweep, then
        self._durability_checked = True
        if not durable:
            log.warning(NOT_DURABLE)


class NotifierStep(bootsteps.StartStopStep):
    """Tells back ends what became of calls, where that is configured; of all workers one at a time does so."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **_: Any) -> None:
        super().__init__(parent)
        self._over = threading.Event()

    def start(self, _parent: Any) -> None:
        """Start a thread for each channel."""
        for channel in container().settings.notice_channels:
            notifier = Notifier(container().store.outbox(channel), way(channel), container().clock, token=new_token())
            threading.Thread(target=notifier.run, args=(self._over,), name=f"notices-{channel}", daemon=True).start()

    def stop(self, _parent: Any) -> None:
        """Let the threads end; what they have not delivered stays in the outbox."""
        self._over.set()

    terminate = stop


def way(channel: NoticeChannel) -> Deliver:
    """Return the way to the back end that is configured for a channel."""
    settings = container().settings
    if channel == "task":
        return TaskCall(app, settings.notice_task, settings.notice_queue)
    secret = settings.notice_secret.get_secret_value() if settings.notice_secret else ""
    return Webhook(str(settings.notice_url), secret=secret)


class TickStep(bootsteps.StartStopStep):
    """Tells with every turn of the consumer's event loop that it turns; begun anew with every connection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **_: Any) -> None:
        super().__init__(parent)
        self._timer: Any = None

    def start(self, parent: Any) -> None:
        """Begin to tick."""
        health = getattr(parent.controller, "callwatch_health", None)
        if health is not None:
            self._timer = parent.timer.call_repeatedly(TICK, health.tick)

    def stop(self, _parent: Any) -> None:
        """Tick no more: without a connection there is no work."""
        if self._timer is not None:
            self._timer.cancel()

    terminate = shutdown = stop


class WorkerHealth:
    """The judge, the sign, and what they have to know of this worker, of its broker and of the store."""

    def __init__(self, settings: Settings, *, threads: int) -> None:
        now = time.monotonic()
        threads_of = {"sweep": settings.sweep_interval, "dispatcher": DISPATCH_WITHIN}
        self._beat = Heartbeat(longest=settings.dial_limit, now=now, succeed_within=threads_of)
        # A sweep signs once an interval, so that much on top of the limit is nobody's fault.
        self._sign = HealthFile(
            Path(settings.health_file), holds=settings.health_limit + settings.sweep_interval, now=now
        )
        self._sign.withdraw()
        self._threads = threads
        self._queues = {queue: TASKS[queue] for queue in app.amqp.queues.consume_from}
        self._broker = redis.Redis.from_url(
            parse_redis_url(settings.broker_url).for_redis_py(),
            socket_timeout=ANSWER_WITHIN,
            socket_connect_timeout=ANSWER_WITHIN,
        )

    def tick(self) -> None:
        """Note a turn of the event loop."""
        self._beat.tick(time.monotonic())

    def succeeded(self, thread: str) -> None:
        """Note that the sweep or the dispatcher has just succeeded."""
        self._beat.succeeded(thread, time.monotonic())

    def sign(self) -> None:
        """Give a sign of work, if there is none of trouble."""
        self._sign.give(self._trouble, now=time.monotonic())

    def close(self) -> None:
        """Take the sign away."""
        self._sign.withdraw()
        self._broker.close()

    def _trouble(self) -> str | None:
        try:
            container().store.now()
            loads = {
                queue: QueueLoad(int(str(self._broker.llen(queue))), state.total_count[task])
                for queue, task in self._queues.items()
            }
        except (StoreUnavailable, redis.RedisError) as error:
            return f"Redis does not answer: {type(error).__name__}"
        full = len(state.active_requests) >= self._threads
        return self._beat.trouble(loads, time.monotonic(), full=full)


app.steps["worker"].add(SweepStep)
app.steps["worker"].add(DispatcherStep)
app.steps["worker"].add(NotifierStep)
app.steps["consumer"].add(TickStep)

"""Bootsteps of a worker: the threads of dispatcher, sweep and notifier, and the health file.

Dispatcher and sweep run as threads of every worker, so that no single process is needed for them. The thread of the
sweep renews the health file after each sweep if the worker is healthy: sweep and dispatcher have succeeded recently,
the consumer's event loop runs, Redis answers, and the worker takes the messages that wait in its queues. An idle worker
is healthy; a running worker that takes no messages is not. A worker that stays unhealthy although Redis works ends.
"""

import contextlib
import functools
import logging
import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import redis
from celery import bootsteps
from celery.worker import state

from config.settings import Settings
from worker.app import app
from worker.container import container, new_token
from worker.core.interfaces import Deliver, StoreUnavailable
from worker.core.notice import NoticeChannel
from worker.flows.dispatch import dispatch_forever
from worker.flows.notify import Notifier
from worker.flows.sweep import sweep_forever
from worker.runtime.celery_config import TASKS, TRIGGER_QUEUE
from worker.runtime.garbage import tune_collector
from worker.runtime.liveness import RESTART_AFTER, TICK, HealthFile, Heartbeat, QueueLoad, RestartTimer
from worker.runtime.notice_delivery import TaskCall, Webhook
from worker.store.base import is_away
from worker.store.connection import connect
from worker.store.keys import Keys
from worker.tasks import PollQueue, Publisher, this_process

ANSWER_WITHIN = 2  # seconds: time-out of the broker when the health check reads the queues' lengths
DURABILITY_EVERY = 3_600.0  # seconds between two checks that Redis keeps the record of a call request in a crash
WRITE_KEPT = 1_000  # milliseconds for which a write of the health check stays in Redis
DISPATCH_WITHIN = 1.0  # seconds: the longest pause between two rounds of the dispatcher

log = logging.getLogger(__name__)


class DispatcherStep(bootsteps.StartStopStep):
    """Dispatch due polls while the worker runs; every worker does, without a leader (S20, S28)."""

    requires = (f"{__name__}:SweepStep",)  # which creates the worker's health check

    def __init__(self, parent: Any, **_: Any) -> None:
        super().__init__(parent)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, parent: Any) -> None:
        """Start the thread; by now the worker has created the objects that it keeps."""
        tune_collector()
        health = getattr(parent, "callwatch_health", None)
        dispatcher = container().dispatcher(PollQueue(container().settings), this_process.free)
        done = functools.partial(health.succeeded, "dispatcher") if health else lambda: None
        arguments = (dispatcher, self._over.wait, done)
        self._thread = threading.Thread(target=dispatch_forever, args=arguments, name="dispatcher", daemon=True)
        self._thread.start()

    def stop(self, _parent: Any) -> None:
        """End the thread after its current round."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    terminate = stop


class SweepStep(bootsteps.StartStopStep):
    """Sweep while the worker runs; of all workers, the holder of the leader lock acts (S18)."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **_: Any) -> None:
        super().__init__(parent)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._health: WorkerHealth | None = None
        self._durability_due = 0.0

    def start(self, parent: Any) -> None:
        """Start the thread."""
        settings = container().settings
        dials = TRIGGER_QUEUE in app.amqp.queues.consume_from
        self._durability_due = -math.inf if dials and not settings.demo else math.inf
        if settings.health_file:
            parent.callwatch_health = self._health = WorkerHealth(settings, threads=parent.concurrency)
        sweep = container().sweep(Publisher())
        done = functools.partial(self._health.succeeded, "sweep") if self._health else lambda: None
        arguments = (sweep, self._wait, container().clock, done)
        self._thread = threading.Thread(target=sweep_forever, args=arguments, name="sweep", daemon=True)
        self._thread.start()

    def stop(self, _parent: Any) -> None:
        """End the thread after its current sweep, and remove the health file."""
        log.info("the worker stops: it ends its running tasks")
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        if self._health is not None:
            self._health.close()

    terminate = stop

    def _wait(self, seconds: float) -> bool:
        over = self._over.wait(seconds)
        if not over:
            with contextlib.suppress(StoreUnavailable):  # the sweep logs it
                container().store.cache_counts(limit=container().settings.overdue_grace)
                self._check_durability()
        if self._health is not None and not over:
            self._health.renew_file()
        return over

    def _check_durability(self) -> None:
        """Warn at the start and once an hour if this worker dials and its Redis may lose `sending` (S18)."""
        if time.monotonic() < self._durability_due:
            return
        fault = container().store.durability_fault()  # on StoreUnavailable the next sweep checks again
        self._durability_due = time.monotonic() + DURABILITY_EVERY
        if fault:
            log.warning(fault)


class NotifierStep(bootsteps.StartStopStep):
    """Deliver notices to back ends if channels are configured; one worker at a time acts for each channel."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **_: Any) -> None:
        super().__init__(parent)
        self._over = threading.Event()

    def start(self, _parent: Any) -> None:
        """Start a thread for each channel."""
        for channel in container().settings.notice_channels:
            outbox = container().store.outbox(channel)
            notifier = Notifier(outbox, delivery(channel), container().clock, token=new_token())
            threading.Thread(target=notifier.run, args=(self._over,), name=f"notices-{channel}", daemon=True).start()

    def stop(self, _parent: Any) -> None:
        """End the threads; undelivered notices stay in the outbox."""
        self._over.set()

    terminate = stop


def delivery(channel: NoticeChannel) -> Deliver:
    """Return the function that delivers the notices of a channel to its back end."""
    settings = container().settings
    if channel == "task":
        return TaskCall(app, settings.notice_task, settings.notice_queue)
    secret = settings.notice_secret.get_secret_value() if settings.notice_secret else ""
    return Webhook(str(settings.notice_url), secret=secret)


class TickStep(bootsteps.StartStopStep):
    """Send the event loop's heartbeat to the health check; Celery starts this step again with each connection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **_: Any) -> None:
        super().__init__(parent)
        self._timer: Any = None

    def start(self, parent: Any) -> None:
        """Start the timer."""
        health = getattr(parent.controller, "callwatch_health", None)
        if health is not None:
            self._timer = parent.timer.call_repeatedly(TICK, health.tick)

    def stop(self, _parent: Any) -> None:
        """Stop the timer: a worker without a connection takes no messages."""
        if self._timer is not None:
            self._timer.cancel()

    terminate = shutdown = stop


class WorkerHealth:
    """Check this worker's health, and keep its health file current."""

    def __init__(self, settings: Settings, *, threads: int) -> None:
        now = time.monotonic()
        threads_of = {"sweep": settings.sweep_interval, "dispatcher": DISPATCH_WITHIN}
        self._heartbeat = Heartbeat(longest=settings.dial_limit, now=now, succeed_within=threads_of)
        # The file is renewed once in a sweep interval, so a healthy worker's file can be one interval old.
        self._file = HealthFile(
            Path(settings.health_file), valid_for=settings.health_limit + settings.sweep_interval, now=now
        )
        self._file.remove()
        self._restart_timer = RestartTimer(now)
        self._sigterm_sent = False
        self._threads = threads
        self._queues = {queue: TASKS[queue] for queue in app.amqp.queues.consume_from}
        self._store = connect(settings.redis_url, limit=ANSWER_WITHIN)
        self._broker = connect(settings.broker_url, limit=ANSWER_WITHIN)
        self._key = Keys(settings.key_prefix).writable

    def tick(self) -> None:
        """Record that the event loop runs."""
        self._heartbeat.tick(time.monotonic())
        self._end_if_stuck()

    def succeeded(self, thread: str) -> None:
        """Record a success of the sweep or the dispatcher; `thread` names it."""
        self._heartbeat.succeeded(thread, time.monotonic())

    def renew_file(self) -> None:
        """Renew the health file if the worker is healthy."""
        if self._file.renew(self._fault, now=time.monotonic()):
            self._restart_timer.reset(time.monotonic())
        self._end_if_stuck()

    def close(self) -> None:
        """Remove the health file."""
        self._file.remove()
        self._store.close()
        self._broker.close()

    def _fault(self) -> str | None:
        try:
            container().store.now()
            loads = {
                queue: QueueLoad(int(str(self._broker.llen(queue))), state.total_count[task])
                for queue, task in self._queues.items()
            }
        except (StoreUnavailable, redis.RedisError) as error:
            self._restart_timer.reset(time.monotonic())
            return f"Redis does not answer: {type(error).__name__}"
        full = len(state.active_requests) >= self._threads
        fault = self._heartbeat.fault(loads, time.monotonic(), full=full)
        if fault is not None and (refusal := self._refusal()) is not None:
            self._restart_timer.reset(time.monotonic())
            return refusal
        return fault

    def _refusal(self) -> str | None:
        """Return why store or broker take no writes, or None: a new worker would fare no better than this one."""
        for server in (self._store, self._broker):
            try:
                server.set(self._key, "", px=WRITE_KEPT)
            except redis.RedisError as error:
                if is_away(error):
                    return f"Redis takes no writes: {type(error).__name__}"
        return None

    def _end_if_stuck(self) -> None:
        """End a worker that has been unhealthy for long: first by SIGTERM, then, if its event loop is stuck, at once.

        Both the thread of the sweep and the event loop call it, so that either may be the one that hangs. A dial may
        hold an answer that no other process has, so it is waited for (S18).
        """
        if not self._restart_timer.has_expired(time.monotonic()):
            return
        active = [reference() for reference in tuple(state.active_requests.data)]  # other threads change the set
        if any(request is not None and request.name == TASKS[TRIGGER_QUEUE] for request in active):
            return
        log.error("unhealthy for %.0f s: the worker ends, so that its supervisor starts a new one", RESTART_AFTER)
        if self._sigterm_sent:
            os._exit(1)
        self._sigterm_sent = True
        os.kill(os.getpid(), signal.SIGTERM)


app.steps["worker"].add(SweepStep)
app.steps["worker"].add(DispatcherStep)
app.steps["worker"].add(NotifierStep)
app.steps["consumer"].add(TickStep)

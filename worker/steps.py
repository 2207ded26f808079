"""What lives in a worker beside its tasks: the sweep, the notifier, and the sign that it works.

The sweep is a thread of the worker: no process of its own could be the one that died. The same thread signs, so a
sign says that the sweep goes round; and it is withheld unless the consumer's event loop turns, Redis answers, and
the worker takes what waits in its queues. An idle worker is healthy; one that is up and deaf is not.
"""

import threading
import time
from pathlib import Path
from typing import Any

import redis
from celery import bootsteps
from celery.worker import state

from config.redis_url import parse_redis_url
from config.settings import Settings
from worker.app import CONTROL_QUEUE, POLL_QUEUE, TRIGGER_QUEUE, app
from worker.channels import TaskCall, Webhook
from worker.health import TICK, Beat, Load, Sign
from worker.notice import Channel
from worker.notifier import Notifier
from worker.ports import Deliver, StoreUnavailable
from worker.sweep import sweep_forever
from worker.tasks import Publisher
from worker.wiring import new_token, parts

TASKS = {TRIGGER_QUEUE: "outbound.trigger", POLL_QUEUE: "outbound.poll", CONTROL_QUEUE: "outbound.lookup"}
ANSWER_WITHIN = 2  # seconds for the broker to say what waits: the sweep must not hang on it


class SweepStep(bootsteps.StartStopStep):
    """Sweeps from the worker's start to its end; of all workers one at a time does the work (S28)."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **_: Any) -> None:
        super().__init__(parent)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._health: Health | None = None

    def start(self, parent: Any) -> None:
        """Start the thread."""
        settings = parts().settings
        if settings.health_file:
            parent.callwatch_health = self._health = Health(settings, threads=parent.concurrency)
        sweep = parts().sweep(Publisher())
        arguments = (sweep, self._wait, parts().clock)
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
        if self._health is not None and not over:
            self._health.sign()
        return over


class NotifierStep(bootsteps.StartStopStep):
    """Tells back ends what became of calls, where that is configured; of all workers one at a time does so."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **_: Any) -> None:
        super().__init__(parent)
        self._over = threading.Event()

    def start(self, _parent: Any) -> None:
        """Start a thread for each channel."""
        for channel in parts().settings.notice_channels:
            notifier = Notifier(parts().store.outbox(channel), way(channel), parts().clock, token=new_token())
            threading.Thread(target=notifier.run, args=(self._over,), name=f"notices-{channel}", daemon=True).start()

    def stop(self, _parent: Any) -> None:
        """Let the threads end; what they have not delivered stays in the outbox."""
        self._over.set()

    terminate = stop


def way(channel: Channel) -> Deliver:
    """Return the way to the back end that is configured for a channel."""
    settings = parts().settings
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


class Health:
    """The judge, the sign, and what they have to know of this worker, of its broker and of the store."""

    def __init__(self, settings: Settings, *, threads: int) -> None:
        now = time.monotonic()
        self._beat = Beat(longest=settings.dial_limit, now=now)
        # A sweep signs once an interval, so that much on top of the limit is nobody's fault.
        self._sign = Sign(Path(settings.health_file), holds=settings.health_limit + settings.sweep_interval, now=now)
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

    def sign(self) -> None:
        """Give a sign of work, if there is none of trouble."""
        self._sign.give(self._trouble, now=time.monotonic())

    def close(self) -> None:
        """Take the sign away."""
        self._sign.withdraw()
        self._broker.close()

    def _trouble(self) -> str | None:
        try:
            parts().store.now()
            loads = {
                queue: Load(int(str(self._broker.llen(queue))), state.total_count[task])
                for queue, task in self._queues.items()
            }
        except (StoreUnavailable, redis.RedisError) as error:
            return f"Redis does not answer: {type(error).__name__}"
        full = len(state.active_requests) >= self._threads
        return self._beat.trouble(loads, time.monotonic(), full=full)


app.steps["worker"].add(SweepStep)
app.steps["worker"].add(NotifierStep)
app.steps["consumer"].add(TickStep)

"""The Celery tasks: read a message, call its flow, obey its answer."""

import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from celery import Task, signals
from celery.concurrency import prefork
from celery.exceptions import Ignore, Reject
from kombu.exceptions import KombuError, OperationalError
from redis.exceptions import RedisError

from config.settings import Settings
from worker.app import app, every_poll_is_shown
from worker.container import container
from worker.core.interfaces import ScheduleFailed, StoreRefused, StoreUnavailable
from worker.core.messages import PollMessage, TriggerResult, masked_kwargs, polls_kwargs, read_polls, shown_polls
from worker.core.model import Pair
from worker.core.poll_model import StatusUpdate
from worker.core.trigger_model import AbandonedClaim
from worker.runtime.celery_config import POLL_QUEUE, TRIGGER_QUEUE
from worker.runtime.poll_executor import MAX_POLLS, PollExecutor
from worker.store import ThreadClient, connect

LATEST = datetime(9999, 1, 1, tzinfo=UTC).timestamp()  # a later expiry cannot be formatted as a date again
ANSWER_WITHIN = 2  # seconds: time-out of the broker when the dispatcher reads the queue's length
LEAVE_WITHIN = 2  # seconds beyond the longest query in which a stopping process writes the answers it received
BUSY_COUNTDOWN = 1  # seconds after which a trigger that found no free dial slot is delivered again


class DialSlots:
    """Limit the dials that one process carries out at a time; a dial may block its thread for 90 seconds.

    In a process that polls too, dials get half the threads, so that they never delay polls.
    """

    def __init__(self) -> None:
        self._slots: threading.BoundedSemaphore | None = None

    def limit(self, number: int | None) -> None:
        """Allow `number` dials at a time; None sets no limit."""
        self._slots = None if number is None else threading.BoundedSemaphore(max(1, number))

    def take(self) -> bool:
        """Take a slot; return False if all are taken."""
        return self._slots is None or self._slots.acquire(blocking=False)

    def give_back(self) -> None:
        """Return a slot."""
        if self._slots is not None:
            self._slots.release()


dial_slots = DialSlots()


here = SimpleNamespace(name=None)  # the worker's name, which the events from its threads carry for Flower


@signals.celeryd_after_setup.connect
def limit_dials(instance: Any, **_: object) -> None:
    """Reserve threads for polls in a worker that serves both queues; refuse to start it with a prefork pool."""
    here.name = instance.hostname
    polls = POLL_QUEUE in app.amqp.queues.consume_from
    if polls and TRIGGER_QUEUE in app.amqp.queues.consume_from and issubclass(instance.pool_cls, prefork.TaskPool):
        sys.exit(
            "with the pool prefork dials would delay polls: start one worker with -Q outbound.trigger and another "
            "with -Q outbound.poll,outbound.control, or set CALLWATCH_WORKER_POOL=threads"
        )
    dial_slots.limit(instance.concurrency // 2 if polls else None)


@app.task(name="outbound.trigger", bind=True, Request="worker.runtime.request:MaskedRequest")
def trigger(
    self: Task,
    case_id: Any = None,
    mediation_id: Any = None,
    call_auto: Any = 0,
    call_person_id: Any = "",
    *_: Any,
    **others: Any,
) -> TriggerResult:
    """Call the parties of a case once (S1-S18).

    `TriggerFlow` carries the trigger out; without a free dial slot the trigger is published again for a later time.
    """
    kwargs = {
        "case_id": case_id,
        "mediation_id": mediation_id,
        "call_auto": call_auto,
        "call_person_id": call_person_id,
    } | others
    if not dial_slots.take():
        try:
            put_back(self, kwargs)
        except ScheduleFailed as error:
            raise Reject(str(error), requeue=True) from error
        raise Ignore
    try:
        result = container().trigger_flow()(
            kwargs,
            task_id=self.request.id,
            expires=epoch(self.request.expires),
        )
    except StoreRefused:  # a kind of StoreUnavailable, but the task fails: each redelivery would fail the same way
        raise
    except StoreUnavailable as error:
        raise Reject(str(error), requeue=True) from error
    finally:
        dial_slots.give_back()
    if result is None:  # a duplicate delivery or a lost claim must not overwrite another delivery's result
        raise Ignore
    return result


@app.task(
    name="outbound.poll",
    ignore_result=True,
    acks_late=False,  # the lease replaces a lost message long before the visibility time-out would
    send_events=every_poll_is_shown,
    Request="worker.runtime.request:PollRequest",
)
def poll(*_: Any, **kwargs: Any) -> str:
    """Check the polls of a message against the fence, and submit them to this process's executor (S20-S28).

    The dispatchers of the workers publish these messages (`worker.bootsteps`); the executor queries upstream and writes
    the ends of the polls after this task has returned.
    """
    try:
        return container().poll_flow(show_in_flower).begin(read_polls(kwargs), this_process.poll_executor())
    except StoreUnavailable as error:
        return f"not started, due again when the lease ends: {error}"


class ThisProcess:
    """The poll executor of this process, built for its first poll: in a prefork pool after the fork."""

    def __init__(self) -> None:
        self._executor: PollExecutor | None = None
        self._lock = threading.Lock()

    def poll_executor(self) -> PollExecutor:
        """Return the executor; safe to call from several threads."""
        with self._lock:
            self._executor = self._executor or container().poll_executor(show_in_flower)
            return self._executor

    def free(self) -> int:
        """Return for how many more polls this process has room."""
        return MAX_POLLS if self._executor is None else self._executor.free()

    def finish(self, limit: float) -> None:
        """Wait up to `limit` seconds for the polls in progress, then stop the executor."""
        with self._lock:
            if self._executor is not None:
                self._executor.close(limit)
            self._executor = None


this_process = ThisProcess()


@signals.worker_shutdown.connect  # sent after the pool's threads have ended
@signals.worker_process_shutdown.connect  # sent in each process of a prefork pool
def finish_polls(**_: object) -> None:
    """Wait until the polls in progress are written, so that a stopping process loses no answer."""
    this_process.finish(container().settings.status_timeout + LEAVE_WITHIN)


@app.task(name="outbound.lookup", ignore_result=True)
def look_up(case_id: str = "", mediation_id: str = "", **_others: Any) -> str:
    """Query upstream once for the calls of a request whose answer was lost (S14)."""
    try:
        return container().look_up_flow()(Pair(str(case_id), str(mediation_id)))
    except StoreUnavailable as error:
        return f"given up, the sweep publishes the next look-up: {error}"


def show_in_flower(update: StatusUpdate) -> None:
    """Send Flower a change of a call, under its job id: one line for each call instead of one for each poll.

    Poll tasks themselves send events only with CALLWATCH_POLL_EVENTS=all.
    """
    began = update.deadline - container().settings.max_poll_duration
    fields: dict[str, Any] = {
        "uuid": update.message.job_id,
        "name": poll.name,
        "args": "()",
        "kwargs": update.message.who(),
        "result": update.line,
        "received": began,
        "root_id": update.root or None,
        "parent_id": update.root or None,
    }
    if update.verdict:
        fields["runtime"] = max(0.0, time.time() - began)
    send_event(f"task-{update.verdict or 'watched'}", fields)


def send_event(kind: str, fields: dict[str, Any]) -> None:
    """Send a worker's event; drop it if the broker is unavailable, because a poll must not fail for it."""
    with (
        suppress(OperationalError, RedisError, OSError),
        app.events.default_dispatcher(here.name) as events,
    ):
        events.send(kind, **fields)


class PollQueue:
    """The queue of polls: its length, and publishing to it; the dispatcher's `PublishPolls`."""

    def __init__(self, settings: Settings) -> None:
        self._broker = ThreadClient(connect(settings.broker_url, limit=ANSWER_WITHIN))

    def waiting(self) -> int:
        """Return how many messages wait in the queue."""
        with translated():
            return int(str(self._broker.client.llen(POLL_QUEUE)))

    def __call__(self, polls: Sequence[PollMessage]) -> None:
        """Publish one message of these polls, without retries: a poll whose message is lost is due again (S28)."""
        with translated():
            poll.apply_async(
                kwargs=polls_kwargs(polls),
                argsrepr="()",
                kwargsrepr=shown_polls(polls),
                declare=(),
                retry=False,
                root_id=(polls[0].root_id or None) if len(polls) == 1 else None,
            )


class Publisher:
    """Publish the messages of the sweep to the queues; its `Publish`."""

    def trigger(self, abandoned: AbandonedClaim) -> None:
        """Publish a trigger again, unchanged and under its own task id."""
        kwargs = json.loads(abandoned.arguments)
        with translated():
            trigger.apply_async(
                kwargs=kwargs,
                task_id=abandoned.task_id,
                expires=abandoned.expires and datetime.fromtimestamp(abandoned.expires, UTC),
                argsrepr="()",
                kwargsrepr=masked_kwargs(kwargs),
                retry=False,
            )

    def look_up(self, pair: Pair, *, expires: float) -> None:
        """Publish a look-up of a pair; the message expires after `expires` seconds."""
        kwargs = {"case_id": pair.case_id, "mediation_id": pair.mediation_id}
        with translated():
            look_up.apply_async(kwargs=kwargs, expires=expires, argsrepr="()", kwargsrepr=repr(kwargs), retry=False)


@contextmanager
def translated() -> Iterator[None]:
    """Raise ScheduleFailed for every error of the broker's libraries."""
    try:
        yield
    except (KombuError, RedisError, OSError) as error:
        raise ScheduleFailed(type(error).__name__) from error


def epoch(expires: str | datetime | None) -> float | None:
    """Return a message's expiry in epoch seconds, at most `LATEST`; a message whose expiry has no zone is malformed."""
    moment = datetime.fromisoformat(expires) if isinstance(expires, str) else expires
    if moment is None:
        return None
    return min(moment.timestamp(), LATEST)


def put_back(task: Task, kwargs: dict[str, Any]) -> None:
    """Publish an unclaimed trigger again, unchanged, with a countdown of `BUSY_COUNTDOWN` seconds."""
    with translated():
        task.apply_async(
            kwargs=kwargs,
            task_id=task.request.id,
            countdown=BUSY_COUNTDOWN,
            expires=task.request.expires,
            argsrepr="()",
            kwargsrepr=masked_kwargs(kwargs),
            retry=False,
        )

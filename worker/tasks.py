"""The Celery tasks: thin. Each reads what arrived, calls its flow, and obeys its answer."""

import functools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from celery import Task, signals
from celery.exceptions import Ignore, Reject
from kombu import Producer
from kombu.exceptions import KombuError, OperationalError
from pydantic import ValidationError
from redis.exceptions import RedisError

from worker.app import POLL_QUEUE, app, every_poll_is_shown
from worker.messages import PollMessage, TriggerResult, masked_kwargs
from worker.ports import ScheduleFailed, StoreUnavailable
from worker.values import Abandoned, News, Pair
from worker.wiring import parts

LATEST = datetime(9999, 1, 1, tzinfo=UTC).timestamp()  # an expiry beyond it cannot be written down again everywhere
BUSY_COUNTDOWN = 1  # seconds after which a trigger that found every dial slot taken comes again


class DialSlots:
    """How many dials one process carries out at a time; a dial may hang for a minute and a half.

    Where the process polls as well, dials get half its threads, so that they never hold up the polls.
    """

    def __init__(self) -> None:
        self._slots: threading.BoundedSemaphore | None = None

    def limit(self, number: int | None) -> None:
        """Allow `number` dials at a time; None for as many as there are threads."""
        self._slots = None if number is None else threading.BoundedSemaphore(max(1, number))

    def take(self) -> bool:
        """Take a slot; False where all are taken."""
        return self._slots is None or self._slots.acquire(blocking=False)

    def give_back(self) -> None:
        """Give a slot back."""
        if self._slots is not None:
            self._slots.release()


dial_slots = DialSlots()


@signals.celeryd_after_setup.connect
def limit_dials(instance: Any, **_: object) -> None:
    """Reserve threads for polls in a worker that serves both queues."""
    dial_slots.limit(instance.concurrency // 2 if _is_to_poll() else None)


@signals.celeryd_after_setup.connect
def fetch_without_limit(instance: Any, **_: object) -> None:
    """Let a worker that polls fetch all that there is.

    A poll is fetched an interval ahead of its time and held until then. With a limit, a worker that is late does not
    fetch: what a dead one left, published anew, would wait in the queue behind polls that nobody needs yet.
    """
    if _is_to_poll():
        instance.consumer.prefetch_multiplier = instance.consumer.initial_prefetch_count = 0


def _is_to_poll() -> bool:
    return POLL_QUEUE in app.amqp.queues.consume_from


@app.task(name="outbound.trigger", bind=True, Request="worker.masking:MaskedRequest")
def trigger(
    self: Task,
    case_id: Any = None,
    mediation_id: Any = None,
    call_auto: Any = 0,
    call_person_id: Any = "",
    *_: Any,
    **_others: Any,
) -> TriggerResult:
    """Call the parties of a case, once (S1-S18)."""
    kwargs = {
        "case_id": case_id,
        "mediation_id": mediation_id,
        "call_auto": call_auto,
        "call_person_id": call_person_id,
    }
    if not dial_slots.take():
        try:
            put_back(self, kwargs)
        except ScheduleFailed as error:
            raise Reject(str(error), requeue=True) from error
        raise Ignore
    try:
        flow = parts().trigger(publish_poll)
        result = flow(kwargs, task_id=self.request.id, expires=epoch(self.request.expires))
    except StoreUnavailable as error:
        raise Reject(str(error), requeue=True) from error
    finally:
        dial_slots.give_back()
    if result is None:  # a copy must not put a result over the one that the first delivery will leave
        raise Ignore
    return result


class PollTask(Task):
    """A task of which nobody awaits a result."""

    abstract = True

    def AsyncResult(self, task_id: str, **_: Any) -> Any:  # noqa: N802 - Celery's own name
        """Return what stands for a published poll: to make Celery's own is a tenth of the publishing."""
        return SimpleNamespace(id=task_id, task_id=task_id)


@app.task(
    name="outbound.poll",
    base=PollTask,
    bind=True,
    ignore_result=True,
    send_events=every_poll_is_shown,
    Request="worker.masking:PollRequest",
)
def poll(self: Task, *_: Any, **kwargs: Any) -> str:
    """Ask once how a call stands, and set off the next poll (S20-S28)."""
    try:
        message = PollMessage.model_validate(kwargs)
    except ValidationError:
        return "dropped: not a poll's kwargs"
    try:
        return parts().watch(publish_poll, lambda news: show(self, news))(message)
    except StoreUnavailable as error:
        return f"given up, the store has it: {error}"


@app.task(name="outbound.lookup", ignore_result=True)
def look_up(case_id: str = "", mediation_id: str = "", **_others: Any) -> str:
    """Look once for the calls of a request whose answer was lost (S14)."""
    try:
        return parts().look_up(publish_poll)(Pair(str(case_id), str(mediation_id)))
    except StoreUnavailable as error:
        return f"given up, the sweep asks again: {error}"


class OwnProducer(threading.local):
    """A producer for each thread that polls: to take one from Celery's pool and give it back is 4 % of a poll."""

    @functools.cached_property
    def producer(self) -> Producer:
        """Return this thread's."""
        return app.amqp.Producer(app.connection_for_write(), auto_declare=False)


own = OwnProducer()


def publish_poll(message: PollMessage) -> None:
    """Publish a poll; ScheduleFailed where the broker does not take it at once: the sweep is the second try.

    The options spare two thirds of what Celery does for a message: nothing declared anew, no retries of its own, no
    trail of results, no search for a readable form of the arguments.
    """
    with translated():
        poll.apply_async(
            kwargs=message.kwargs(),
            countdown=message.countdown,
            argsrepr="()",
            kwargsrepr=repr(message),
            producer=own.producer,
            declare=(),
            retry=False,
            add_to_parent=False,
            root_id=message.root_id or None,  # None: that of the task at work, so a trigger is the root of its polls
        )


def show(task: Task, news: News) -> None:
    """Show Flower a change of a call: one line a call, under its job id, instead of one for each of its polls.

    The polls themselves are quiet, unless CALLWATCH_POLL_EVENTS says `all`: then they are what is shown.
    """
    if every_poll_is_shown:
        return
    began = news.deadline - parts().settings.max_poll_duration
    fields: dict[str, Any] = {
        "uuid": news.message.job_id,
        "name": task.name,
        "args": "()",
        "kwargs": news.message.who(),
        "result": news.line,
        "received": began,
        "root_id": news.root or None,
        "parent_id": news.root or None,
    }
    if news.verdict:
        fields["runtime"] = max(0.0, time.time() - began)
    send_event(task, f"task-{news.verdict or 'watched'}", fields)


def send_event(task: Task, kind: str, fields: dict[str, Any]) -> None:
    """Send a worker's event; that nobody can hear it is no fault of the poll."""
    with (
        suppress(OperationalError, RedisError, OSError),
        app.events.default_dispatcher(task.request.hostname) as events,
    ):
        events.send(kind, **fields)


class Publisher:
    """What the sweep sends to the queues."""

    def polls(self, messages: list[PollMessage]) -> None:
        """Publish polls, all in one request: between any two of several a busy process would keep the sweep waiting.

        They go to the head of the queue (worker/broker.py), so the first of them is put there last.
        """
        with translated(), own.producer.batch():
            for message in reversed(messages):
                publish_poll(message)

    def trigger(self, abandoned: Abandoned) -> None:
        """Publish a trigger again as it was, under its own task id."""
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
        """Publish a look-up of a pair that is worth nothing after `expires` seconds."""
        kwargs = {"case_id": pair.case_id, "mediation_id": pair.mediation_id}
        with translated():
            look_up.apply_async(kwargs=kwargs, expires=expires, argsrepr="()", kwargsrepr=repr(kwargs), retry=False)


@contextmanager
def translated() -> Iterator[None]:
    """Let nothing of the broker's libraries past the tasks."""
    try:
        yield
    except (KombuError, RedisError, OSError) as error:
        raise ScheduleFailed(type(error).__name__) from error


def epoch(expires: str | datetime | None) -> float | None:
    """Return a message's expiry in epoch seconds, at most `LATEST`; one without a zone is UTC, as Celery has it."""
    moment = datetime.fromisoformat(expires) if isinstance(expires, str) else expires
    if moment is None:
        return None
    return min(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp(), LATEST)


def put_back(task: Task, kwargs: dict[str, Any]) -> None:
    """Publish a trigger again as it was, unclaimed, for a moment later."""
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

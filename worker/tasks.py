"""The Celery tasks: thin. Each reads what arrived, calls its flow, and obeys its answer."""

import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import redis
from celery import Task, signals
from celery.concurrency import prefork
from celery.exceptions import Ignore, Reject
from kombu.exceptions import KombuError, OperationalError
from redis.exceptions import RedisError

from config.redis_url import parse_redis_url
from config.settings import Settings
from worker.app import app, every_poll_is_shown
from worker.container import container
from worker.core.interfaces import ScheduleFailed, StoreRefused, StoreUnavailable
from worker.core.messages import PollMessage, TriggerResult, masked_kwargs, polls_kwargs, read_polls, shown_polls
from worker.core.model import AbandonedClaim, Pair, StatusUpdate
from worker.runtime.celery_config import POLL_QUEUE, TRIGGER_QUEUE
from worker.runtime.poll_executor import MOST, PollExecutor

LATEST = datetime(9999, 1, 1, tzinfo=UTC).timestamp()  # an expiry beyond it cannot be written down again everywhere
ANSWER_WITHIN = 2  # seconds for the broker to say how many polls wait
LEAVE_WITHIN = 2  # seconds beyond the longest query in which a leaving process writes what it heard
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


here = SimpleNamespace(name=None)  # the worker's name, under which Flower shows what its threads send


@signals.celeryd_after_setup.connect
def limit_dials(instance: Any, **_: object) -> None:
    """Reserve threads for polls in a worker that serves both queues; one of processes cannot, and does not start."""
    here.name = instance.hostname
    polls = POLL_QUEUE in app.amqp.queues.consume_from
    if polls and TRIGGER_QUEUE in app.amqp.queues.consume_from and issubclass(instance.pool_cls, prefork.TaskPool):
        sys.exit(
            "the pool prefork cannot keep dials from holding up polls: start a worker with -Q outbound.trigger and "
            "another with -Q outbound.poll,outbound.control, or set CALLWATCH_WORKER_POOL=threads"
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
        result = container().trigger()(
            kwargs,
            task_id=self.request.id,
            expires=epoch(self.request.expires),
            redelivered=bool((self.request.delivery_info or {}).get("redelivered")),
        )
    except StoreRefused:  # a failure: handed out again, it would fail again, and for ever
        raise
    except StoreUnavailable as error:
        raise Reject(str(error), requeue=True) from error
    finally:
        dial_slots.give_back()
    if result is None:  # a copy must not put a result over the one that the first delivery will leave
        raise Ignore
    return result


@app.task(
    name="outbound.poll",
    ignore_result=True,
    acks_late=False,  # a lease finds a lost message long before the visibility time-out does
    send_events=every_poll_is_shown,
    Request="worker.runtime.request:PollRequest",
)
def poll(*_: Any, **kwargs: Any) -> str:
    """Let the polls of a message pass the fence, and hand them to the askers of this process (S20-S28)."""
    try:
        return container().watch(show).begin(read_polls(kwargs), this_process.askers())
    except StoreUnavailable as error:
        return f"given up, the store has it: {error}"


class ThisProcess:
    """The askers of this process, made when its first poll comes: after a fork, where there is one."""

    def __init__(self) -> None:
        self._askers: PollExecutor | None = None
        self._lock = threading.Lock()

    def askers(self) -> PollExecutor:
        """Return them; tasks ask in several threads at once."""
        with self._lock:
            self._askers = self._askers or container().askers(show)
            return self._askers

    def free(self) -> int:
        """Return for how many more polls there is room."""
        return MOST if self._askers is None else self._askers.free()

    def finish(self, limit: float) -> None:
        """Wait for the polls at work, so many seconds at the most."""
        with self._lock:
            if self._askers is not None:
                self._askers.close(limit)
            self._askers = None


this_process = ThisProcess()


@signals.worker_shutdown.connect  # when its threads have ended
@signals.worker_process_shutdown.connect  # of a process of a pool
def finish_polls(**_: object) -> None:
    """Wait until the polls at work are written: a process that leaves has none to leave behind."""
    this_process.finish(container().settings.status_timeout + LEAVE_WITHIN)


@app.task(name="outbound.lookup", ignore_result=True)
def look_up(case_id: str = "", mediation_id: str = "", **_others: Any) -> str:
    """Look once for the calls of a request whose answer was lost (S14)."""
    try:
        return container().look_up()(Pair(str(case_id), str(mediation_id)))
    except StoreUnavailable as error:
        return f"given up, the sweep asks again: {error}"


def show(news: StatusUpdate) -> None:
    """Show Flower a change of a call: one line a call, under its job id, instead of one for each of its polls.

    The messages of polls are quiet, unless CALLWATCH_POLL_EVENTS says `all`: then they are shown besides.
    """
    began = news.deadline - container().settings.max_poll_duration
    fields: dict[str, Any] = {
        "uuid": news.message.job_id,
        "name": poll.name,
        "args": "()",
        "kwargs": news.message.who(),
        "result": news.line,
        "received": began,
        "root_id": news.root or None,
        "parent_id": news.root or None,
    }
    if news.verdict:
        fields["runtime"] = max(0.0, time.time() - began)
    send_event(f"task-{news.verdict or 'watched'}", fields)


def send_event(kind: str, fields: dict[str, Any]) -> None:
    """Send a worker's event; that it cannot be heard is no fault of the poll."""
    with (
        suppress(OperationalError, RedisError, OSError),
        app.events.default_dispatcher(here.name) as events,
    ):
        events.send(kind, **fields)


class PollQueue:
    """The queue of polls, as the dispatcher sees it."""

    def __init__(self, settings: Settings) -> None:
        self._broker = redis.Redis.from_url(
            parse_redis_url(settings.broker_url).for_redis_py(),
            socket_timeout=ANSWER_WITHIN,
            socket_connect_timeout=ANSWER_WITHIN,
        )

    def waiting(self) -> int:
        """Return how many messages wait in the queue."""
        with translated():
            return int(str(self._broker.llen(POLL_QUEUE)))

    def __call__(self, polls: Sequence[PollMessage]) -> None:
        """Publish one message of these polls, ready to be taken; its leases are the second try."""
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
    """What the sweep sends to the queues."""

    def trigger(self, abandoned: AbandonedClaim) -> None:
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

"""The Celery tasks: thin. Each reads what arrived, calls its flow, and obeys its answer."""

import threading
from typing import Any

from celery import Task, signals
from celery.exceptions import Ignore, Reject
from kombu.exceptions import OperationalError
from pydantic import ValidationError
from redis.exceptions import RedisError

from worker.app import POLL_QUEUE, app
from worker.messages import PollMessage, TriggerResult, masked_kwargs
from worker.ports import ScheduleFailed, StoreUnavailable
from worker.wiring import parts

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
    polls_too = POLL_QUEUE in app.amqp.queues.consume_from
    dial_slots.limit(instance.concurrency // 2 if polls_too else None)


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
        put_back(self, kwargs)
        raise Ignore
    try:
        result = parts().trigger(publish_poll)(kwargs, task_id=self.request.id)
    except StoreUnavailable as error:
        raise Reject(str(error), requeue=True) from error
    finally:
        dial_slots.give_back()
    if result is None:  # a copy must not put a result over the one that the first delivery will leave
        raise Ignore
    return result


@app.task(name="outbound.poll", bind=True, ignore_result=True, Request="worker.masking:MaskedRequest")
def poll(self: Task, *_: Any, **kwargs: Any) -> str:  # noqa: ARG001 - a task has itself as its first argument
    """Ask once how a call stands, and set off the next poll (S20-S28)."""
    try:
        message = PollMessage.model_validate(kwargs)
    except ValidationError:
        return "dropped: not a poll's kwargs"
    try:
        return parts().watch(publish_poll)(message)
    except StoreUnavailable as error:
        return f"given up, the store has it: {error}"


def publish_poll(message: PollMessage) -> None:
    """Publish a poll; ScheduleFailed where the broker does not take it at once: the sweep is the second try.

    The options spare two thirds of what Celery does for a message: nothing declared anew, no retries of its own, no
    trail of results, no search for a readable form of the arguments.
    """
    try:
        poll.apply_async(
            kwargs=message.kwargs(),
            countdown=message.countdown,
            argsrepr="()",
            kwargsrepr=repr(message),
            declare=(),
            retry=False,
            add_to_parent=False,
        )
    except (OperationalError, RedisError, OSError) as error:
        raise ScheduleFailed(type(error).__name__) from error


def put_back(task: Task, kwargs: dict[str, Any]) -> None:
    """Publish a trigger again as it was, unclaimed, for a moment later."""
    request = task.request
    task.apply_async(
        kwargs=kwargs,
        task_id=request.id,
        countdown=BUSY_COUNTDOWN,
        expires=request.expires,
        argsrepr="()",
        kwargsrepr=masked_kwargs(kwargs),
    )

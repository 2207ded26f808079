"""Enqueue a trigger as a back end does, and wait for its outcome: `callwatch trigger`."""

import contextlib
import logging
import time
from dataclasses import dataclass
from typing import Any

from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as NoResult
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from api_client import MEANINGS, Reason
from cli.checks import ask_workers
from cli.connect import connect, read_settings, reason, require_broker
from cli.ui.output import FAILED, WRONG_USAGE, Failure, complain, printable, say, say_json
from config.redaction import mask_person, redact
from config.settings import Settings
from worker.core import texts
from worker.core.messages import MAX_ID_LENGTH, BadTrigger, TriggerRequest, read_trigger
from worker.runtime.celery_config import TRIGGER_QUEUE
from worker.runtime.producer import NotPublished, Producer

GOOD = frozenset({"started", "skipped", "deferred"})  # outcomes that need no action: exit code 0
NO_OUTCOME: dict[str, Any] = {"outcome": None}
RESULT_MARGIN = 30.0  # seconds to wait for the result beyond the time-out of the dial
FIRST_WAIT = 3.0  # seconds without a result after which the command checks that a worker consumes the queue
ARGUMENTS = {"case_id": "CASE_ID", "mediation_id": "MEDIATION_ID", "call_person_id": "--person"}


@dataclass(frozen=True, slots=True)
class Order:
    """A trigger from the command line; `expires` and `timeout` in seconds, None takes it from the settings."""

    request: TriggerRequest
    task_id: str | None = None
    expires: float = 3600
    timeout: float | None = None


def read_order(case_id: str, mediation_id: str, *, person: str | None, manual: bool) -> TriggerRequest:
    """Return the checked request; Failure (wrong usage) names the argument, its fault and the right form."""
    kwargs = {"case_id": case_id, "mediation_id": mediation_id, "call_auto": int(manual), "call_person_id": person}
    try:
        return read_trigger(kwargs)
    except BadTrigger as bad:
        text = str(bad)
        for field, argument in ARGUMENTS.items():
            text = text.replace(f"{field}:", f"{argument}:")
        head = f"{texts.MISSING_PARAMETERS}: " if bad.missing else ""
        raise Failure(head + text, exit_code=WRONG_USAGE) from None


def check_task_id(task_id: str | None) -> None:
    """Raise Failure (wrong usage) for a task id with which a worker would put the message aside (S38)."""
    if task_id is not None and not (task_id.isprintable() and 1 <= len(task_id) <= MAX_ID_LENGTH):
        kind = f"a text of {len(task_id)} characters" if task_id.isprintable() else "a text with a control character"
        raise Failure(
            f"--task-id: {kind}, should be a text of 1 to {MAX_ID_LENGTH} characters, all printable",
            exit_code=WRONG_USAGE,
        )


def enqueue(order: Order) -> Any:
    """Enqueue the trigger and return its Celery result; Failure if the broker does not take it."""
    from worker.app import app  # noqa: PLC0415 - its import reads the settings

    try:
        return Producer(app).publish(order.request, task_id=order.task_id, expires=order.expires)
    except NotPublished as error:
        raise Failure(f"the broker did not take the trigger: {reason(error)}") from None


def trigger(order: Order, *, wait: bool, as_json: bool) -> int:
    """Enqueue the trigger, print its task id or wait for its result; return the exit code."""
    check_task_id(order.task_id)
    settings = read_settings()
    require_broker(settings)
    for noisy in ("celery", "worker.store.primary"):  # a lost Redis is reported once, in one line
        logging.getLogger(noisy).setLevel(logging.CRITICAL + 1)
    result = enqueue(order)
    if not wait:
        say_json({"task_id": result.id}) if as_json else say(result.id)
        return 0
    answer, fault = _await(result, order, settings)
    if as_json:
        say_json({"task_id": result.id, **answer})
    elif answer["outcome"]:
        _show(answer)
    if fault:
        complain(fault)
    return 0 if answer["outcome"] in GOOD else FAILED


def _await(result: Any, order: Order, settings: Settings) -> tuple[dict[str, Any], str]:
    """Return the result of the trigger; or one without an outcome, and why there is none."""
    limit = settings.call_timeout + RESULT_MARGIN if order.timeout is None else order.timeout
    end = time.monotonic() + limit
    try:
        try:
            answer = result.get(timeout=min(limit, FIRST_WAIT), propagate=False)
        except NoResult:
            _warn_without_worker(settings)
            answer = result.get(timeout=max(0.001, end - time.monotonic()), propagate=False)
    except NoResult:
        return NO_OUTCOME, f"no result within {limit:g} s: the trigger stays enqueued, task id {result.id}"
    except KeyboardInterrupt:
        return NO_OUTCOME, f"interrupted: the trigger stays enqueued, task id {result.id}"
    except (RedisError, OperationalError, OSError, RuntimeError) as error:
        fault = f"the results cannot be read: {reason(error)}; the trigger stays enqueued, task id {result.id}"
        return NO_OUTCOME, fault
    finally:
        with contextlib.suppress(RedisError):  # else Celery prints a trace at exit if there is no result
            result.backend.remove_pending_result(result)
    if isinstance(answer, dict):
        return _result_of_pair(answer, order.request, result.id)
    why: Reason = "expired" if isinstance(answer, TaskRevokedError) else "internal"  # no task is revoked otherwise
    return NO_OUTCOME | {"reason": why}, f"{why}: {MEANINGS[why]} ({type(answer).__name__}, task id {result.id})"


def _result_of_pair(answer: dict[str, Any], request: TriggerRequest, task_id: str) -> tuple[dict[str, Any], str]:
    """Return a stored result and no fault; without outcome if it is of another pair, which Celery does not replace."""
    own = request.case_id, request.mediation_id
    if (answer["case_id"], answer["mediation_id"]) in (own, ("", "")):  # the result of an erased case names none
        return answer, ""
    why: Reason = "task_id_reused"
    return NO_OUTCOME | {"reason": why}, f"{why}: {MEANINGS[why]} Use a new task id. (task id {task_id})"


def _warn_without_worker(settings: Settings) -> None:
    """Warn on stderr if no worker consumes the queue of triggers; RedisError if the broker does not answer."""
    with connect(settings.broker_url) as client:
        client.ping()  # Celery would retry without end
    if not any(TRIGGER_QUEUE in queues for queues in ask_workers(settings).values()):
        complain(f"warning: no worker consumes {TRIGGER_QUEUE}: the trigger waits until one starts")


def _show(answer: dict[str, Any]) -> None:
    """Print a result as text, with masked person ids (S37)."""
    say(printable(f"{answer['outcome']}  {answer['case_id']}/{answer['mediation_id']}"))
    if answer.get("reason") in MEANINGS:
        say(f"{answer['reason']}: {MEANINGS[answer['reason']]}")
    message = str(answer.get("message") or "")
    for refused in answer.get("refused", ()):
        if refused["person_id"]:
            message = message.replace(refused["person_id"], mask_person(refused["person_id"]))
    if message:
        say(printable(redact(message, keep=(str(answer["case_id"]),))))
    for job in answer.get("jobs", ()):
        person = mask_person(job["person_id"]) if job["person_id"] else texts.UNKNOWN_CONTACT
        say(printable(f"  {job['job_id']}  {person}  {texts.label(job['call_status'])}"))

"""Parse an answer: bytes to models, with one exception for every fault."""

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from api_client.models import CallRecord, CallStatus, ConversationLog, is_crowded, text, whole
from api_client.reasons import RequestReason

MAX_RETRY_AFTER = 300.0
MAX_LOGS = 10_000
"""Calls in one conversation log; a longer log is refused, not cut, because the missing calls may be ringing (S5)."""
MAX_OTHERS = 1_000
"""Records of one answer without a job that are read completely; of the others only refused or not is kept."""
LARGE = 64 * 1024
"""Size in bytes above which one thread of the process parses the answers: it takes many times the size of an answer."""
_SUCCESS = frozenset({200, 201})
_DELTA = re.compile(r"[0-9]+")


T = TypeVar("T")

_REFUSED, _NEITHER = CallRecord(error_code=-1), CallRecord()


class UnexpectedAnswerError(Exception):
    """An answer that violates the API; `str()` names the fault and quotes nothing of the answer."""

    def __init__(self, fault: str, reason: RequestReason = "unreadable") -> None:
        super().__init__(fault)
        self.reason = reason


def call_records(body: bytes) -> list[CallRecord]:
    """Return the records of the answer to a dial, one per person; fields without a usable value are None.

    Every record with a job is read completely (S18), and the first `MAX_OTHERS` without one. Later ones share one
    record for a refusal and one for neither: otherwise 1 MiB of the smallest records would take 300 MiB (S39).
    """
    return _parsed(body, lambda: list(_bounded(_list(_data(body)))))


def _bounded(raw_records: Iterable[Any]) -> Iterator[CallRecord]:
    others = 0
    for raw in raw_records:
        if others >= MAX_OTHERS and not (raw and isinstance(raw, dict)):
            yield _NEITHER  # an empty or odd record: skip the cost of a model
            continue
        record = CallRecord.model_validate(raw)
        others += record.job_id is None
        if record.job_id is None and others > MAX_OTHERS:
            record = _REFUSED if record.error_code else _NEITHER
        yield record


def conversation_logs(body: bytes) -> list[ConversationLog]:
    """Return the conversation logs of an answer in the order of upstream: newest first."""
    return _parsed(body, lambda: _logs(body))


def _logs(body: bytes) -> list[ConversationLog]:
    if is_crowded(body):
        raise UnexpectedAnswerError("more values than a conversation log has")
    logs = _list(_data(body))
    if len(logs) > MAX_LOGS:
        raise UnexpectedAnswerError("more calls than a case has")
    return [ConversationLog.model_validate(log) for log in logs]


@functools.cache
def one_thread(name: str) -> ThreadPoolExecutor:
    """Return the thread of this process that handles large answers of one kind, one at a time.

    malloc has a heap per thread, which keeps the size of the largest answer.
    """
    return ThreadPoolExecutor(1, name)


os.register_at_fork(after_in_child=one_thread.cache_clear)  # the threads of the parent do not exist in a child


def _parsed(body: bytes, read: Callable[[], T]) -> T:
    return read() if len(body) <= LARGE else one_thread("answers").submit(read).result()


def call_status(body: bytes, *, asked: str | None) -> CallStatus:
    """Return the status of an answer; an answer for a job other than `asked` is refused (S23)."""
    data = _data(body)
    try:
        status = CallStatus.model_validate(data)
    except ValidationError:
        raise UnexpectedAnswerError("no callStatus", "no_status") from None
    # Compares the raw value: an invalid id is not the requested one either.
    answered = data.get("jobId")
    if asked is not None and answered not in (None, "") and text(answered) != asked:
        raise UnexpectedAnswerError("another job's answer", "other_job")
    return status


def retry_after(header: str | None, *, now: float) -> float | None:
    """Return the seconds from `now` (epoch seconds) in a Retry-After header, at most 300; None if it is unreadable."""
    if header is None:
        return None
    if _DELTA.fullmatch(header.strip()):
        return min(float(header), MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    return min(max(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now, 0.0), MAX_RETRY_AFTER)


def _data(body: bytes) -> Any:
    try:
        envelope = from_json(body, allow_inf_nan=False)
    except ValueError:
        # `from None`: the text of the parser's exception quotes the answer, with personal data (S37).
        raise UnexpectedAnswerError("unreadable") from None
    if not isinstance(envelope, dict):
        raise UnexpectedAnswerError("no envelope")
    code = whole(envelope.get("code"))
    if code not in _SUCCESS:
        raise UnexpectedAnswerError(f"inner code {code}", "inner_code")
    return envelope.get("data")


def _list(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise UnexpectedAnswerError("data is no list", "no_records")
    return data

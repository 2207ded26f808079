"""Take the envelope off an answer: bytes in, models out, and one exception for everything that is wrong with it."""

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

MAX_RETRY_AFTER = 300.0
MAX_LOGS = 10_000
"""Calls in one conversation log; one with more is refused rather than cut, for the missing ones may be ringing (S5)."""
MAX_OTHERS = 1_000
"""Records of one answer that name no job and are read whole; of the others what they say is kept: refused, or not."""
LARGE = 64 * 1024
"""Bytes of an answer above which one thread of the process takes it apart, one answer at a time.

Meanwhile an answer takes many times its size; and malloc has a heap for each thread, which keeps what the largest took.
"""
_SUCCESS = frozenset({200, 201})
_DELTA = re.compile(r"[0-9]+")


T = TypeVar("T")

_REFUSED, _NEITHER = CallRecord(error_code=-1), CallRecord()


class UnexpectedAnswerError(Exception):
    """The answer is not what the API promises; `str()` says in our own words what is wrong, and quotes none of it."""


def call_records(body: bytes) -> list[CallRecord]:
    """Return the records of an answer to a dial, one per person, odd ones included.

    Every record that names a job is read whole (S18). Of the others the first `MAX_OTHERS` are; those behind them share
    one record for a refusal and one for neither, or 1 MiB of the smallest would take 300 (S39).
    """
    return _taken_apart(body, lambda: list(_bounded(_list(_data(body)))))


def _bounded(raw_records: Iterable[Any]) -> Iterator[CallRecord]:
    others = 0
    for raw in raw_records:
        if others >= MAX_OTHERS and not (raw and isinstance(raw, dict)):
            yield _NEITHER  # not worth the time that a model takes
            continue
        record = CallRecord.model_validate(raw)
        others += record.job_id is None
        if record.job_id is None and others > MAX_OTHERS:
            record = _REFUSED if record.error_code else _NEITHER
        yield record


def conversation_logs(body: bytes) -> list[ConversationLog]:
    """Return the conversation logs of an answer, newest first as they came."""
    return _taken_apart(body, lambda: _logs(body))


def _logs(body: bytes) -> list[ConversationLog]:
    if is_crowded(body):
        raise UnexpectedAnswerError("more values than a conversation log has")
    logs = _list(_data(body))
    if len(logs) > MAX_LOGS:
        raise UnexpectedAnswerError("more calls than a case has")
    return [ConversationLog.model_validate(log) for log in logs]


@functools.cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "answers")


os.register_at_fork(after_in_child=_thread.cache_clear)  # a child has none of its parent's threads


def _taken_apart(body: bytes, read: Callable[[], T]) -> T:
    return read() if len(body) <= LARGE else _thread().submit(read).result()


def call_status(body: bytes, *, asked: str | None) -> CallStatus:
    """Return the status of an answer, which must not be another job's than the one `asked` for, if one was (S23)."""
    data = _data(body)
    try:
        status = CallStatus.model_validate(data)
    except ValidationError:
        raise UnexpectedAnswerError("no callStatus") from None
    # The raw value is compared: an id that is no usable id is not the asked one either.
    answered = data.get("jobId")
    if asked is not None and answered not in (None, "") and text(answered) != asked:
        raise UnexpectedAnswerError("another job's answer")
    return status


def retry_after(header: str | None, *, now: float) -> float | None:
    """Return the seconds from `now` (epoch) that a Retry-After asks for, at most 300; None if it cannot be read."""
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
        # `from None`: the parser's words quote what it read, and that may be anybody's (S37).
        raise UnexpectedAnswerError("unreadable") from None
    if not isinstance(envelope, dict):
        raise UnexpectedAnswerError("no envelope")
    code = whole(envelope.get("code"))
    if code not in _SUCCESS:
        raise UnexpectedAnswerError(f"inner code {code}")
    return envelope.get("data")


def _list(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise UnexpectedAnswerError("data is no list")
    return data

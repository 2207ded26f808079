"""Faults on demand: their kinds, the requests that they match, and their effect on an answer."""

from dataclasses import replace
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from simulator.answers import Answer
from simulator.book import make_job_id
from simulator.script import Input, Seconds

Kind = Literal[
    "status",
    "hang",
    "reset",
    "drip_header",
    "drip_body",
    "delay",
    "garbage",
    "wrong_envelope",
    "null_data",
    "wrong_data",
    "other_job",
    "huge",
]
KINDS: tuple[str, ...] = get_args(Kind)
Endpoint = Literal["call-v2", "status", "conversation-log", "*"]

_ELSEWHEN = 1_700_000_000.0  # creation time of the other job in a mixed-up answer (epoch seconds)
HUGE = 5 * 1024 * 1024
_UNPROCESSED = {"status", "hang", "reset"}  # by default these occur before the request takes effect
_TIMED = {"drip_header", "drip_body", "delay"}


class Fault(Input):
    """One fault: its kind, the requests that it matches, and its count."""

    kind: Kind
    endpoint: Endpoint = "*"
    count: int | None = Field(default=None, ge=1)
    case_id: str | None = None
    job_id: str | None = None
    processed: bool | None = None
    status: int | None = Field(default=None, ge=200, le=599)
    headers: dict[str, str] = Field(default_factory=dict)
    seconds: Seconds | None = None
    code: int = 500
    message: str = "系统繁忙"
    chunked: bool = False

    @field_validator("headers")
    @classmethod
    def _one_line(cls, headers: dict[str, str]) -> dict[str, str]:
        if not all(text.isprintable() and text.isascii() for pair in headers.items() for text in pair):
            raise ValueError("must be printable ASCII")
        return headers

    @model_validator(mode="after")
    def _complete(self) -> "Fault":
        if self.kind == "status" and self.status is None:
            raise ValueError("status: is required for kind 'status'")
        if self.kind in _TIMED and self.seconds is None:
            raise ValueError(f"seconds: is required for kind {self.kind!r}")
        return self

    @property
    def takes_effect(self) -> bool:
        """Whether the request is processed before the fault."""
        return self.kind not in _UNPROCESSED if self.processed is None else self.processed

    def matches(self, endpoint: str, case_id: str | None, job_id: str | None) -> bool:
        """Return whether this fault matches such a request."""
        return self.endpoint in ("*", endpoint) and self.case_id in (None, case_id) and self.job_id in (None, job_id)


class FaultTable:
    """The active faults in the order in which they were set."""

    def __init__(self) -> None:
        self._active: dict[int, Fault] = {}
        self._left: dict[int, int] = {}
        self._last = 0

    def add(self, fault: Fault) -> int:
        """Add a fault and return its id."""
        self._last += 1
        self._active[self._last] = fault
        if fault.count is not None:
            self._left[self._last] = fault.count
        return self._last

    def take(self, endpoint: str, case_id: str | None, job_id: str | None) -> Fault | None:
        """Return the first fault that matches such a request, and decrement its count."""
        for number, fault in self._active.items():
            if fault.matches(endpoint, case_id, job_id):
                self._count(number)
                return fault
        return None

    def _count(self, number: int) -> None:
        if number in self._left:
            self._left[number] -= 1
            if self._left[number] == 0:
                self.remove(number)

    def remove(self, number: int) -> bool:
        """Clear one fault; return False if there is none with this id."""
        self._left.pop(number, None)
        return self._active.pop(number, None) is not None

    def clear(self) -> None:
        """Clear all faults."""
        self._active.clear()
        self._left.clear()

    def listed(self) -> list[dict[str, Any]]:
        """Return the active faults with their ids and remaining counts."""
        return [
            {"id": number, "left": self._left.get(number), **fault.model_dump(exclude_defaults=True)}
            for number, fault in self._active.items()
        ]


def spoil(fault: Fault, answer: Answer) -> Answer:
    """Return the answer with the change of this fault to its envelope or data; other kinds change nothing."""
    match fault.kind:
        case "status":
            status = fault.status or 500
            return Answer(status, status, fault.message, None)
        case "wrong_envelope":
            return Answer(200, fault.code, fault.message, None)
        case "null_data":
            return replace(answer, data=None)
        case "wrong_data":
            return replace(answer, data={} if isinstance(answer.data, list) else [])
        case "other_job":
            return replace(answer, data=_other_job(answer.data))
        case _:
            return answer


def _other_job(data: Any) -> Any:
    if isinstance(data, list):
        return [{**item, "jobId": make_job_id(_ELSEWHEN)} for item in data]
    # The worst error it can cause: a client takes the end of the other job for its own.
    return {**(data or {}), "jobId": make_job_id(_ELSEWHEN), "callStatus": "Succeeded"}


def body_of(fault: Fault, answer: Answer) -> bytes:
    """Return the bytes to send: the answer, or its garbled or oversized replacement."""
    if fault.kind == "garbage":
        return b"<html><body>\xff\xfe 502 Bad Gateway"
    if fault.kind == "huge":
        return answer.encode()[:-1] + b', "padding": "' + b"x" * HUGE + b'"}'
    return answer.encode()

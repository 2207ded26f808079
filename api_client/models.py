"""Requests and answers of the API, parsed leniently: an odd field never loses the id of a job.

Texts are cut at the entrance, because texts of any length would fill results, history, events and notices. Limits in
characters: messages 500, statuses, names and the next round 64, lines of a transcript 10,000. Values that change their
meaning when cut count as absent: job ids of more than 128, person ids of more than 200, links of more than 4,096.
"""

import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import from_json

_JOB_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_WHOLE_LIMIT = 10**18
_EXPIRES = re.compile(r"[?&]Expires=([0-9]{1,12})(?:[&#]|$)")
MAX_TOKENS = 400_000
"""Most JSON tokens in a conversation log or in one transcript (S39); an entry or a line has about 20."""
_SEPARATORS = (b"{", b"[", b",", b":")
_NO_TOKENS = bytes(set(range(256)) - set(b'{[,:"'))
_TOKEN = re.compile(rb'"[^"]*"|[{[,:]')


def whole(value: object) -> int | None:
    """Return a whole number of at most 18 digits, or the one in a text, else None; a boolean is not a number."""
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and -_WHOLE_LIMIT < value < _WHOLE_LIMIT:
        return value
    return None


def text(value: object) -> str | None:
    """Return a string unchanged and a whole number as its digits, else None."""
    if isinstance(value, str):
        return value
    number = whole(value)
    return None if number is None else str(number)


def is_crowded(document: bytes) -> bool:
    """Return whether JSON has more than `MAX_TOKENS` strings, opening brackets and commas, without those in strings.

    An object of three bytes takes up to 232 bytes when parsed, so a document of the largest size would fill memory.
    """
    if sum(map(document.count, _SEPARATORS)) <= MAX_TOKENS // 2:  # the strings are at most twice as many
        return False
    bare = document.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, delete=_NO_TOKENS)
    return next(itertools.islice(_TOKEN.finditer(bare), MAX_TOKENS, None), None) is not None


def _unchanged(value: object) -> int | str | None:
    return value if isinstance(value, str) else whole(value)


def _cut(length: int) -> AfterValidator:
    """Cut a text to this number of characters."""

    def cut(value: int | str | None) -> int | str | None:
        return value[:length] if isinstance(value, str) else value

    return AfterValidator(cut)


def _drop(length: int) -> AfterValidator:
    """Replace a text of more characters by None."""

    def drop(value: str | None) -> str | None:
        return None if value is not None and len(value) > length else value

    return AfterValidator(drop)


def _job_id(value: object) -> str | None:
    job_id = text(value)
    return job_id if job_id and _JOB_ID.fullmatch(job_id) else None


Message = Annotated[str | None, BeforeValidator(text), _cut(500)]
Name = Annotated[str | None, BeforeValidator(text), _cut(64)]
Line = Annotated[str | None, BeforeValidator(text), _cut(10_000)]
PersonId = Annotated[str | None, BeforeValidator(text), _drop(200)]
Link = Annotated[str | None, BeforeValidator(text), _drop(4096)]
Whole = Annotated[int | None, BeforeValidator(whole)]
IntOrText = Annotated[int | str | None, BeforeValidator(_unchanged), _cut(64)]
JobId = Annotated[str | None, BeforeValidator(_job_id)]


@dataclass(frozen=True)
class CallRequest:
    """The request of one dial (S3): `call_auto` 0 automatic, 1 manual; an empty person id calls all parties."""

    case_id: str
    mediation_id: str
    call_auto: int = 0
    call_person_id: str = ""

    def body(self) -> dict[str, str | int]:
        """Return the JSON body of the request."""
        return {
            "caseId": self.case_id,
            "mediationId": self.mediation_id,
            "callAuto": self.call_auto,
            "callPersonId": self.call_person_id,
        }

    def __repr__(self) -> str:
        """Show all fields except the person (S37)."""
        return f"CallRequest({self.case_id!r}, {self.mediation_id!r}, call_auto={self.call_auto!r})"


class _Lenient(BaseModel):
    """A JSON object by its camelCase names; any other value counts as an empty object, unknown fields are ignored."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        hide_input_in_errors=True,  # S37
    )

    @model_validator(mode="before")
    @classmethod
    def _object_or_nothing(cls, raw: Any) -> Any:
        return raw if isinstance(raw, dict) else {}


class CallRecord(_Lenient):
    """The part of one person in the answer to a dial (S7–S11). A field without a usable value is None, never an error.

    Fields that callwatch does not need, names of people among them, are not read (S37).
    """

    error_code: Whole = None
    message: Message = None
    person_id: PersonId = None
    job_id: JobId = None
    call_status: Name = None
    start_time: IntOrText = None
    """The start of the next round, unchanged (S9); never the start of this call (S31)."""
    call_interval: IntOrText = None
    """The interval to the next round, unchanged (S9)."""

    def __repr_args__(self) -> Iterator[tuple[str, object]]:
        """Show the fields that are safe in a log: no message, no free text, no person (S37)."""
        yield "error_code", self.error_code
        yield "job_id", self.job_id
        yield "call_status", self.call_status


class CallStatus(_Lenient):
    """The status of one call. `call_status` is an open set (S19); the phone number is not read (S37)."""

    call_status: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), _cut(64)]
    job_id: JobId = None


class Utterance(_Lenient):
    """One line of a transcript; `timestamp` in epoch milliseconds, `speaker` Contact or Robot."""

    timestamp: Whole = None
    speaker: Name = None
    script: Line = Field(default=None, repr=False)
    action: Name = None


class ConversationLog(_Lenient):
    """The transcript of one call (S36), and the link to its recording, valid for about a day."""

    call_type: Name = None
    job_id: JobId = None
    call_status: Name = None
    record_url: Link = Field(default=None, repr=False)
    transcript: Any = Field(default=None, alias="conversations", repr=False)
    """The raw transcript. A look-up never parses it; parsed it takes many times the memory."""

    @property
    def conversations(self) -> list[Utterance]:
        """The lines of the transcript."""
        return self._unpacked[0]

    @property
    def conversations_unreadable(self) -> bool:
        """Whether there was a transcript that could not be parsed; `conversations` is empty then."""
        return self._unpacked[1]

    @functools.cached_property
    def _unpacked(self) -> tuple[list[Utterance], bool]:
        spoken, unreadable = _transcript(self.transcript)
        return [Utterance.model_validate(line) for line in spoken], unreadable

    @property
    def record_expires(self) -> float | None:
        """The expiry of `record_url` in epoch seconds; None if the link contains none."""
        found = _EXPIRES.search(self.record_url or "")
        return float(found[1]) if found else None


def _transcript(raw: object) -> tuple[list[Any], bool]:
    """Return the lines of a transcript (a list, or a list in a JSON string), and whether it was unreadable."""
    if raw is None or raw == "":
        return [], False
    if isinstance(raw, str):
        if is_crowded(raw.encode(errors="replace")):
            return [], True
        try:
            raw = from_json(raw)
        except ValueError:
            return [], True
    return (raw, False) if isinstance(raw, list) else ([], True)

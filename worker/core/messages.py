"""The kwargs of the tasks and the result of a trigger: validated on arrival, masked in every repr (S37, S38)."""

from collections import UserDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, ValidationError

from config.redaction import mask_person, redact
from worker.core.decision import Outcome
from worker.core.texts import shown_code

MAX_ID_LENGTH = 200  # characters: far above any real id, far below what would swell every key and log line


SHOWN_LENGTH = 1_000  # characters of a task's arguments that Flower and logs get to see
SHOWN_PERSONS = 20  # calls and refusals of a result that they get to see
MISSING, EMPTY = "missing", "an empty text"


class BadTrigger(ValueError):  # noqa: N818 - named for what it is
    """A trigger that cannot be carried out; `missing` tells the case of S2 from other bad kwargs.

    `faults` are the fields, each with the kind of its value and what would be right.
    """

    def __init__(self, reason: str, *, missing: bool, faults: Sequence[tuple[str, str, str]] = ()) -> None:
        super().__init__(reason)
        self.missing = missing
        self.faults = faults


def _text_id(value: object) -> object:
    """Take ids as text or as whole numbers (S2), and refuse what cannot be part of a key or of a JSON text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        value = value.strip()
        if not value.isprintable():  # control and format characters, lone surrogates
            raise ValueError("not printable")
    return value


Id = Annotated[str, BeforeValidator(_text_id), Field(min_length=1, max_length=MAX_ID_LENGTH)]


class TriggerRequest(BaseModel):
    """The kwargs of `outbound.trigger`; unknown ones of another version are passed over (S38)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    case_id: Id
    mediation_id: Id
    call_auto: Annotated[StrictInt, Field(ge=0, le=1)] = 0
    call_person_id: Annotated[str, BeforeValidator(_text_id), Field(max_length=MAX_ID_LENGTH)] = ""

    def __repr__(self) -> str:
        return masked_kwargs(self.model_dump())


def read_trigger(kwargs: dict[str, Any]) -> TriggerRequest:
    """Return the validated kwargs of a trigger.

    Raises BadTrigger, whose text names each field, the kind of its value and what would be right, and never the value.
    """
    present = {name: value for name, value in kwargs.items() if value is not None}
    try:
        return TriggerRequest.model_validate(present)
    except ValidationError as error:
        faults = dict.fromkeys(str(fault["loc"][0]) for fault in error.errors(include_url=False))
    kinds = {name: _kind(present.get(name)) for name in faults}
    missing = any(kinds.get(name) in (MISSING, EMPTY) for name in ("case_id", "mediation_id"))
    wanted = {
        "case_id": f"a text of 1 to {MAX_ID_LENGTH} characters, all printable",
        "mediation_id": f"a text of 1 to {MAX_ID_LENGTH} characters, all printable, or a whole number",
        "call_auto": "0 (automatic) or 1 (manual)",
        "call_person_id": f"a text of at most {MAX_ID_LENGTH} characters, all printable,"
        " empty for everyone in the case",
    }
    reason = "; ".join(f"{name}: {kind}, should be {wanted[name]}" for name, kind in kinds.items())
    raise BadTrigger(reason, missing=missing, faults=[(name, kind, wanted[name]) for name, kind in kinds.items()])


def _kind(value: object) -> str:
    if value is None:
        return MISSING
    if isinstance(value, str):
        return f"a text of {len(value)} characters" if value.strip() else EMPTY
    return f"of type {type(value).__name__}" if not isinstance(value, int) else "a number out of range"


class PollMessage(BaseModel):
    """The kwargs of `outbound.poll`. The record rules where it differs from them (S20)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    job_id: str
    case_id: str = ""
    mediation_id: str = ""
    person_id: str = ""
    countdown: float = 0  # seconds, at publishing
    due: float = 0  # epoch seconds
    deadline: float = 0  # epoch seconds
    retry_count: int = 0
    root_id: str = Field("", exclude=True)  # the trigger's task id, for the header of a message of one call
    poll_no: int = 0  # the fence; no record ever has number 0, so a message without one is dropped
    not_before: float = 0  # epoch seconds: when its query may leave where queries are limited

    def kwargs(self) -> dict[str, Any]:
        """Return the task's kwargs."""
        return self.model_dump(exclude=None if self.not_before else {"not_before"})

    def who(self) -> str:
        """Return whose call it is, as Flower shows it."""
        return (
            f"{{'case_id': '{self.case_id}', 'mediation_id': '{self.mediation_id}', 'job_id': '{self.job_id}', "
            f"'person_id': '{mask_person(self.person_id)}'}}"
        )

    def __repr__(self) -> str:
        return (
            f"{{'job_id': '{self.job_id}', 'case_id': '{self.case_id}', 'mediation_id': '{self.mediation_id}', "
            f"'person_id': '{mask_person(self.person_id)}', 'countdown': {self.countdown}, 'due': {self.due}, "
            f"'deadline': {self.deadline}, 'retry_count': {self.retry_count}, 'poll_no': {self.poll_no}}}"
        )


def read_polls(kwargs: dict[str, Any]) -> list[PollMessage]:
    """Return the polls that a message carries: those of its list `polls`, else the one of its own kwargs (S20).

    What cannot be read as a poll is left out: each call's fault is its own (S38).
    """
    listed = kwargs.get("polls")
    found = []
    for one in listed if isinstance(listed, list) else [kwargs]:
        with suppress(ValidationError):
            found.append(PollMessage.model_validate(one))
    return found


def polls_kwargs(polls: Sequence[PollMessage]) -> dict[str, Any]:
    """Return the kwargs of a message of several polls; one alone travels without the list."""
    return polls[0].kwargs() if len(polls) == 1 else {"polls": [one.kwargs() for one in polls]}


def shown_polls(polls: Sequence[PollMessage]) -> str:
    """Return how the kwargs of such a message appear in Flower: every call named, person ids masked (S37)."""
    return repr(polls[0]) if len(polls) == 1 else f"{{'polls': [{', '.join(one.who() for one in polls)}]}}"


def masked_kwargs(kwargs: dict[str, Any]) -> str:
    """Return how kwargs of ours appear in Flower and in logs: person ids masked, anything else redacted (S37)."""
    keep = {plain_id(kwargs.get(name)) for name in ("case_id", "mediation_id", "job_id")}
    shown = {
        name: mask_person(str(value)) if name.endswith("person_id") and value else value
        for name, value in kwargs.items()
    }
    return redact(repr(shown), keep=keep)[:SHOWN_LENGTH]


def plain_id(value: object) -> str:
    """Return an id as text where it is one; anything else, of which nobody knows what it holds, as an empty text."""
    if not isinstance(value, str | int) or isinstance(value, bool):
        return ""
    text = str(value)
    return text if len(text) <= MAX_ID_LENGTH and text.isprintable() else ""


class TriggerResult(UserDict[str, Any]):
    """The result of `outbound.trigger`: JSON as the back end gets it, masked wherever Celery prints it.

    Celery prints results into events (Flower) and logs by `repr`, and stores them as what `__json__` returns.
    """

    @classmethod
    def of(
        cls,
        outcome: Outcome,
        case_id: str,
        mediation_id: str,
        *,
        jobs: list[dict[str, str]] | None = None,
        refused: list[dict[str, Any]] | None = None,
        message: str = "",
    ) -> "TriggerResult":
        """Return a result; `jobs` and `refused` hold whole person ids, `message` is what a person may read."""
        return cls(
            outcome=outcome,
            case_id=case_id,
            mediation_id=mediation_id,
            jobs=jobs or [],
            refused=refused or [],
            message=message,
        )

    def __json__(self) -> dict[str, Any]:
        return self.data

    def __repr__(self) -> str:
        jobs = _listed([f"{job['job_id']}({mask_person(job['person_id'])})" for job in self["jobs"]])
        refused = _listed(
            [f"{mask_person(one['person_id'])}({shown_code(one['error_code'])})" for one in self["refused"]]
        )
        parts = (
            f"{self['outcome']} {self['case_id']}/{self['mediation_id']}",
            jobs and f"jobs {jobs}",
            refused and f"refused {refused}",
        )
        return ", ".join(part for part in parts if part)


def _listed(parts: list[str]) -> str:
    more = f" and {len(parts) - SHOWN_PERSONS} more" if len(parts) > SHOWN_PERSONS else ""
    return " ".join(parts[:SHOWN_PERSONS]) + more

"""Kwargs of the tasks and the result of a trigger: validated on arrival, masked in every repr (S37, S38)."""

from collections import UserDict
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, ValidationError

from api_client import Reason
from config.redaction import mask_person, redact
from worker.core.decision import Outcome
from worker.core.texts import shown_code

MAX_ID_LENGTH = 200  # characters: longer than any real id, short enough for keys and log lines


VERSION = 1  # of the kwargs of a trigger; a producer that sends more names than these sends a greater `v`
SHOWN_NAMES, SHOWN_NAME = 10, 40  # unknown names in a message, and characters of each
SHOWN_LENGTH = 1_000  # characters of a task's arguments in Flower and logs
SHOWN_PERSONS = 20  # calls, and refusals, of a result in Flower and logs
MISSING, EMPTY = "missing", "an empty text"
ID_WANTED = f"a text of 1 to {MAX_ID_LENGTH} characters, all printable, or a whole number"


class BadTrigger(ValueError):  # noqa: N818 - the name states the condition
    """A trigger that cannot be carried out; `missing` distinguishes the case of S2 from other bad kwargs.

    `faults` lists each bad field with the kind of its value and the expected value.
    """

    def __init__(
        self,
        text: str,
        *,
        missing: bool,
        faults: Sequence[tuple[str, str, str]] = (),
        reason: Reason | None = None,
    ) -> None:
        super().__init__(text)
        self.missing = missing
        self.faults = faults
        self.reason: Reason = reason or ("missing_argument" if missing else "bad_argument")


def _text_id(value: object) -> object:
    """Accept ids as text or as whole numbers (S2); reject characters that cannot be part of a key or a JSON text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        value = value.strip()
        if not value.isprintable():  # control and format characters, lone surrogates
            raise ValueError("not printable")
    return value


Id = Annotated[str, BeforeValidator(_text_id), Field(min_length=1, max_length=MAX_ID_LENGTH)]


class TriggerRequest(BaseModel):
    """The kwargs of `outbound.trigger`, without the version `v`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    case_id: Id
    mediation_id: Id
    call_auto: Annotated[StrictInt, Field(ge=0, le=1)] = 0
    call_person_id: Annotated[str, BeforeValidator(_text_id), Field(max_length=MAX_ID_LENGTH)] = ""

    def __repr__(self) -> str:
        return masked_kwargs(self.model_dump())


def read_trigger(kwargs: dict[str, Any]) -> TriggerRequest:
    """Return the validated kwargs of a trigger.

    Raises BadTrigger. Its text names each bad field, the kind of its value and the expected value, never the value.
    Unknown names are bad as well, because a misspelt `call_person_id` would call everyone in the case; they are ignored
    only if the kwarg `v` says that a newer producer knows more names than this version (S38).
    """
    present = {name: value for name, value in kwargs.items() if value is not None}
    unknown = _unknown_names(present)
    try:
        request = TriggerRequest.model_validate(present)
        faults: dict[str, None] = {}
    except ValidationError as error:
        faults = dict.fromkeys(str(fault["loc"][0]) for fault in error.errors(include_url=False))
    if not faults and not unknown:
        return request
    kinds = {name: _kind(present.get(name)) for name in faults} | {
        name: _kind(present["v"]) if name == "v" else "unknown" for name in unknown
    }
    missing = any(kinds.get(name) in (MISSING, EMPTY) for name in ("case_id", "mediation_id"))
    wanted = {
        "case_id": ID_WANTED,
        "mediation_id": ID_WANTED,
        "call_auto": "0 (automatic) or 1 (manual)",
        "call_person_id": f"a text of at most {MAX_ID_LENGTH} characters, all printable,"
        " empty for everyone in the case",
    } | unknown
    text = "; ".join(f"{name}: {kind}, should be {wanted[name]}" for name, kind in kinds.items())
    raise BadTrigger(text, missing=missing, faults=[(name, kind, wanted[name]) for name, kind in kinds.items()])


def _unknown_names(present: dict[str, Any]) -> dict[str, str]:
    """Return each name that this version does not know, printable and cut, with the expected one."""
    version = present.get("v", VERSION)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        return {"v": f"a whole number, {VERSION} for this version"}
    if version > VERSION:
        return {}
    known = {name.replace("_", ""): name for name in TriggerRequest.model_fields}
    wanted = {}
    for name in sorted(present.keys() - TriggerRequest.model_fields.keys() - {"v"})[:SHOWN_NAMES]:
        near = get_close_matches(name.replace("_", "").lower(), known, n=1)
        shown = "".join(one for one in redact(name[:SHOWN_NAME]) if one.isprintable())
        wanted[shown] = known[near[0]] if near else f"one of {', '.join(known.values())}"
    return wanted


def _kind(value: object) -> str:
    if value is None:
        return MISSING
    if isinstance(value, str):
        return f"a text of {len(value)} character{'s' * (len(value) != 1)}" if value.strip() else EMPTY
    number = isinstance(value, int) and not isinstance(value, bool)
    return "a number out of range" if number else f"of type {type(value).__name__}"


class PollMessage(BaseModel):
    """The kwargs of one poll in `outbound.poll`. The record in the store takes precedence over them (S20)."""

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
    poll_no: int = 0  # the fencing token; no record has number 0, so a message without one is dropped
    not_before: float = 0  # epoch seconds: earliest time of the query under the status rate limit; 0 without a limit

    def kwargs(self) -> dict[str, Any]:
        """Return the task's kwargs."""
        return self.model_dump(exclude=None if self.not_before else {"not_before"})

    def who(self) -> str:
        """Return the call's ids for Flower, with the person masked."""
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
    """Return the polls of a message: the list `polls`, or the single poll in its own kwargs (S20).

    An invalid poll is left out, and the others are carried out (S38).
    """
    listed = kwargs.get("polls")
    found = []
    for one in listed if isinstance(listed, list) else [kwargs]:
        with suppress(ValidationError):
            found.append(PollMessage.model_validate(one))
    return found


def polls_kwargs(polls: Sequence[PollMessage]) -> dict[str, Any]:
    """Return the kwargs of a message: the list `polls`, or for a single poll its own kwargs."""
    return polls[0].kwargs() if len(polls) == 1 else {"polls": [one.kwargs() for one in polls]}


def shown_polls(polls: Sequence[PollMessage]) -> str:
    """Return the kwargs of a message for Flower: the ids of every call, with persons masked (S37)."""
    return repr(polls[0]) if len(polls) == 1 else f"{{'polls': [{', '.join(one.who() for one in polls)}]}}"


def masked_kwargs(kwargs: dict[str, Any]) -> str:
    """Return a task's kwargs for Flower and logs: person ids masked, everything else redacted (S37)."""
    keep = {plain_id(kwargs.get(name)) for name in ("case_id", "mediation_id", "job_id")}
    shown = {name: mask_person(str(value)) if _is_person(name) and value else value for name, value in kwargs.items()}
    return redact(repr(shown), keep=keep)[:SHOWN_LENGTH]


def _is_person(name: str) -> bool:
    """Tell whether a kwarg holds a person id, also under upstream's spelling or a misspelling of ours."""
    return "person" in name.lower()


def plain_id(value: object) -> str:
    """Return an id as text; an empty text for any other value, which may contain personal data."""
    if not isinstance(value, str | int) or isinstance(value, bool):
        return ""
    text = str(value)
    return text if len(text) <= MAX_ID_LENGTH and text.isprintable() else ""


class TriggerResult(UserDict[str, Any]):
    """The result of `outbound.trigger`: complete in its JSON for the back end, masked in its repr.

    Celery writes `repr` into events (Flower) and logs, and stores the return value of `__json__`.
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
        reason: Reason | None = None,
    ) -> "TriggerResult":
        """Return a result; `jobs` and `refused` hold whole person ids, `message` is a text for people.

        Every outcome but `started` has a `reason`; the result of a started trigger has none (S38).
        """
        return cls(
            outcome=outcome,
            **({"reason": reason} if reason else {}),
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
        why = f" ({self['reason']})" if "reason" in self else ""
        parts = (
            f"{self['outcome']}{why} {self['case_id']}/{self['mediation_id']}",
            jobs and f"jobs {jobs}",
            refused and f"refused {refused}",
        )
        return ", ".join(part for part in parts if part)


def _listed(parts: list[str]) -> str:
    more = f" and {len(parts) - SHOWN_PERSONS} more" if len(parts) > SHOWN_PERSONS else ""
    return " ".join(parts[:SHOWN_PERSONS]) + more

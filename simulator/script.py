"""The script of a case and its parties, set by a developer or a test, and its validation."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from simulator.life import LIVES, Life, parse_life

RECORD_FIELDS = (
    "errorCode", "message", "id", "mediationId", "nodeId", "taskName", "result", "personType", "mediationType",
    "personId", "jobId", "instanceId", "jobGroupId", "scriptId", "callStatus", "remark", "deleteStatus", "creator",
    "createTime", "modifier", "modifyTime", "startTime", "callInterval",
)  # fmt: skip

_MESSAGES = {0: "success", 1001: "未到下一轮外呼时间,请等待", 1002: "外呼次数已达上限"}

LifeInput = Annotated[Life, BeforeValidator(parse_life)]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


class Input(BaseModel):
    """Input from outside: nothing is converted, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)


class Party(Input):
    """One person of a case, and the result of calling that person."""

    person_id: str
    person_type: int = 1
    life: LifeInput | None = None
    error_code: int = 0
    message: str | None = None
    start_time: int | str | None = None
    call_interval: int | str | None = None
    rings: bool | None = None
    record: dict[str, Any] = Field(default_factory=dict)
    drop: list[str] = Field(default_factory=list)

    @field_validator("record", "drop")
    @classmethod
    def _known(cls, names: Any) -> Any:
        for name in names:
            if name not in RECORD_FIELDS:
                raise ValueError(f"a record has no field {name!r}")
        return names

    @property
    def is_called(self) -> bool:
        """Whether a call is made, independent of the record."""
        return self.error_code == 0 if self.rings is None else self.rings

    @property
    def message_sent(self) -> str | None:
        """The message of the record; an explicit null stays null."""
        if "message" in self.model_fields_set:
            return self.message
        return _MESSAGES.get(self.error_code, "外呼失败")


class Script(Input):
    """The script of the next calls of a case."""

    case_id: str
    life: LifeInput = LIVES["normal"]
    dial_delay: Seconds | None = None
    parties: list[Party] | None = None

    def people(self, case_id: str, person_id: str) -> list[Party]:
        """Return the parties to call: all parties of the case, or only the one with this id if it is not empty."""
        parties = self.parties
        if parties is None:
            parties = [Party(person_id=f"P-{case_id}-{kind}", person_type=kind) for kind in (1, 2)]
        return [party for party in parties if person_id in ("", party.person_id)]


def problem(error: ValidationError) -> str:
    """Return the first fault of an invalid input as one line that names the field."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    text = first["msg"].removeprefix("Value error, ")
    field = ".".join(str(part) for part in first["loc"])
    return f"{field}: {text}" if field else text

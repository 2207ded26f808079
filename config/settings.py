"""The settings: every one with its unit, its default and its rule, checked when a process starts."""

import difflib
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from config.calling_hours import CallingHours, parse_days, parse_hours, public_holidays
from config.log import configure_logging
from config.redaction import redact
from config.redis_url import parse_redis_url
from config.secret_files import FILE, read_files

_log = logging.getLogger(__name__)

PREFIX = "CALLWATCH_"
_ENV_FILE, _ENV_ENCODING = ".env", "utf-8-sig"  # an editor may have put a byte order mark first
_REDIS_URL = "redis://127.0.0.1:6379/0"
SECRETS = (
    "redis_url",
    "broker_url",
    "result_url",
    "api_token",
    "notice_secret",
    "flower_auth",
    "metrics_token",
    "gateway_token_secret",
)
_SLOWEST_DIAL = 90.0  # seconds: a call time-out below it is warned about (S14)
_DIAL_GRACE = 15  # seconds beyond a dial's time-outs in which its end is stored
_NET = 600  # seconds on top of a lock's life: one that goes too soon rings twice, one that goes too late only waits
_SECRET_LENGTH = 32  # characters: HS256 wants a secret that is as long as its hash
_LONGEST_QUOTE = 60  # characters of a wrong value that a complaint quotes

Pool = Literal["threads", "prefork", "gevent", "eventlet", "solo", "processes", "custom"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
LogFormat = Literal["auto", "json", "text"]


def _time_zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError):  # ValueError: what is no name, as an empty text or ../etc
        raise ValueError("is no time zone, should be one like Asia/Shanghai") from None


_CALLING_TIMES: dict[str, Callable[[str], object]] = {
    "calling_hours": parse_hours,
    "calling_days": parse_days,
    "holidays": public_holidays,
    "calling_zone": _time_zone,
}


class _ShouldBe(str):
    """What would be right, in the words of a refusal."""

    __slots__ = ()


def _one_of(literal: Any) -> _ShouldBe:
    return _ShouldBe("one of " + ", ".join(get_args(literal)))


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False), _ShouldBe("a positive number of seconds")]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False), _ShouldBe("0 or a positive number a second")]
Count = Annotated[int, Field(ge=1), _ShouldBe("a whole number, 1 or more")]
PollEvents = Literal["changes", "all"]
Switch = Annotated[bool, _ShouldBe("true or false")]


class SettingsError(Exception):
    """Settings that no process may start with: one line per fault, each naming its variable, none quoting a secret."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class Settings(BaseSettings):
    """Everything that a deployment may choose, from `CALLWATCH_…` variables, `.env`, or keyword arguments in code."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=_ENV_FILE,
        env_file_encoding=_ENV_ENCODING,
        dotenv_filtering="only_existing",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    redis_url: str = Field(_REDIS_URL, description="lock, records, and broker and results unless those live elsewhere")
    broker_url: str = Field("", description="the broker's Redis; the Redis URL if empty")
    result_url: str = Field("", description="the results' Redis; the Redis URL if empty")
    visibility_timeout: Seconds = Field(
        180.0, description="seconds until the broker hands an unacknowledged message out again (S28)"
    )
    api_base_url: str | None = Field(None, description="upstream's address, required to dial (S39)")
    api_token: SecretStr | None = Field(None, description="sent as `Authorization: Bearer …` (S37)")
    api_trust_env: Switch = Field(False, description="take proxy and CA bundle from the environment (S39)")
    connect_timeout: Seconds = Field(
        3.0, description="seconds to connect to upstream: name resolution, TCP, proxy and TLS together (S12)"
    )
    status_timeout: Seconds = Field(10.0, description="seconds to wait for a status answer (S23)")
    call_timeout: Seconds = Field(_SLOWEST_DIAL, description="seconds to wait for a call's answer (S14)")
    poll_interval: Seconds = Field(10.0, description="seconds between two polls of a call, from due to due (S20)")
    max_poll_duration: Seconds = Field(7200.0, description="seconds a call is watched (S20)")
    max_retry_count: Count = Field(10, description="failed queries in a row that end a watch (S24)")
    sweep_interval: Seconds = Field(1.0, description="seconds between two sweeps for claims and look-ups (S18)")
    overdue_grace: Seconds = Field(
        2.0, description="seconds after which a poll counts as missing whose worker does not renew its lease (S28)"
    )
    poll_batch: Count = Field(20, description="calls in one poll message at the most; 1 gives each its own")
    unknown_lookup: Seconds = Field(120.0, description="seconds an unknown outcome is looked up (S14)")
    unknown_hold: Seconds = Field(600.0, description="seconds a pair is held after the look-up (S14)")
    history_ttl: Seconds = Field(86400.0, description="seconds finished calls are kept (S36)")
    status_rate: Rate = Field(0.0, description="status queries a second over all workers; 0 is no limit")
    dial_rate: Rate = Field(0.0, description="call requests a second over all workers; 0 is no limit")
    calling_hours: str = Field("", description="calls are made within it only, like 09:00-21:00; at any time if empty")
    calling_days: str = Field("mon-sun", description="days of the week with calling hours, like mon-sat")
    holidays: str = Field("", description="country on whose public holidays nobody is called, like CN; none if empty")
    calling_zone: str = Field("Asia/Shanghai", description="time zone of hours, days and holidays")
    notice_url: str | None = Field(None, description="webhook that is told what became of calls; nobody is if empty")
    notice_secret: SecretStr | None = Field(
        None, description="what the webhook's notices are signed with; required for it"
    )
    notice_task: str = Field("", description="Celery task that is told the same, by its name; none if empty")
    notice_queue: str = Field("", description="queue of that task, in the broker; required with it")
    notice_age: Seconds = Field(86400.0, description="seconds for which a notice is tried before it is a dead letter")
    enabled: Switch = Field(True, description="false stops new calls whatever the flag in Redis says (S16)")
    demo: Switch = Field(False, description="a demonstration: doctor does not demand that writes are on disk")
    key_prefix: str = Field("callwatch", description="prefix of every key outside the broker's own")
    worker_pool: Annotated[Pool, _one_of(Pool)] = Field("threads", description="Celery's pool")
    worker_concurrency: Annotated[int, Field(ge=2), _ShouldBe("a whole number, 2 or more")] = Field(
        32, description="tasks at once per worker: a dial may take long, polls go on beside it"
    )
    poll_events: Annotated[PollEvents, _one_of(PollEvents)] = Field(
        "changes", description="what Flower is told of polls: changes of a call, or all of them"
    )
    flower_auth: SecretStr | None = Field(None, description="`user:password` that Flower asks for (S40)")
    flower_url_prefix: str = Field("", description="path that Flower's pages stand under, behind a proxy")
    flower_db: str = Field("", description="file in which Flower keeps what it has seen; in memory only if empty")
    metrics_token: SecretStr | None = Field(None, description="bearer token that the metrics ask for (S40)")
    gateway_keys_file: str = Field("", description="file with the gateway's API keys, made by `callwatch keys new`")
    gateway_token_secret: SecretStr | None = Field(
        None, description="what the tokens of pages are signed with, 32 characters or more; no tokens if empty"
    )
    gateway_origins: str = Field(
        "", description="origins whose pages may follow cases, with commas between; none if empty"
    )
    gateway_hosts: str = Field("", description="host names that the gateway answers to besides loopback's, with commas")
    gateway_url_prefix: str = Field("", description="path that the gateway stands under, behind a proxy")
    gateway_rate: Rate = Field(
        50.0, description="requests a second of one API key, on the average of a minute; 0 is no limit"
    )
    health_file: str = Field(
        "", description="file that tells `callwatch healthcheck` of one worker's work; none is written if empty"
    )
    health_limit: Seconds = Field(30.0, description="seconds without work after which that worker counts as unhealthy")
    log_level: Annotated[LogLevel, _one_of(LogLevel)] = Field("INFO", description="the least level that is logged")
    log_format: Annotated[LogFormat, _one_of(LogFormat)] = Field(
        "auto", description="auto: text on a terminal, JSON lines otherwise"
    )

    @property
    def redis_client_url(self) -> str:
        """The Redis of lock and records, as `redis.Redis.from_url` reads it."""
        return parse_redis_url(self.redis_url).for_redis_py()

    @property
    def celery_broker_url(self) -> str:
        """The broker's Redis, as kombu reads it."""
        return parse_redis_url(self.broker_url).for_celery()

    @property
    def celery_result_url(self) -> str:
        """The results' Redis, as Celery's result backend reads it."""
        return parse_redis_url(self.result_url).for_celery()

    @property
    def dial_limit(self) -> float:
        """Seconds after which a dial is given up by all: its worker waits no longer, its outcome is unknown (S18)."""
        return self.call_timeout + self.connect_timeout + _DIAL_GRACE

    @property
    def lock_ttl(self) -> int:
        """Seconds that a pair's lock lives: a net that outlasts dial, watch, look-up and hold (S5)."""
        longest = self.max_poll_duration + self.connect_timeout + self.call_timeout
        return math.ceil(longest + self.unknown_lookup + self.unknown_hold + _NET)

    @property
    def hours(self) -> CallingHours | None:
        """When calls may be made; None for at any time."""
        if not self.calling_hours:
            return None
        return CallingHours(
            *parse_hours(self.calling_hours),
            parse_days(self.calling_days),
            ZoneInfo(self.calling_zone),
            public_holidays(self.holidays) if self.holidays else None,
        )

    @property
    def notice_channels(self) -> tuple[Literal["webhook", "task"], ...]:
        """Over which ways back ends are told."""
        return (*(("webhook",) if self.notice_url else ()), *(("task",) if self.notice_task else ()))

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) and value.upper() in get_args(LogLevel) else value

    @field_validator(
        "api_base_url",
        "api_token",
        "notice_url",
        "notice_secret",
        "flower_auth",
        "metrics_token",
        "gateway_token_secret",
        mode="before",
    )
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return (value.strip() or None) if isinstance(value, str) else value

    @field_validator("broker_url", "result_url", mode="before")
    @classmethod
    def _the_redis_url_if_empty(cls, value: object, info: ValidationInfo) -> object:
        return value or info.data.get("redis_url", _REDIS_URL)

    @field_validator("redis_url", "broker_url", "result_url")
    @classmethod
    def _check_redis_url(cls, value: str) -> str:
        parse_redis_url(value)
        return value

    @field_validator("calling_hours", "calling_days", "holidays", "calling_zone")
    @classmethod
    def _check_calling_times(cls, value: str, info: ValidationInfo) -> str:
        if value or info.field_name in ("calling_days", "calling_zone"):
            _CALLING_TIMES[str(info.field_name)](value)
        return value

    @field_validator("notice_url")
    @classmethod
    def _check_notice_url(cls, value: str | None) -> str | None:
        if value and not _is_http_url(value):
            raise ValueError("is no URL, should be http://host:port/path or https://host/path")
        return value

    @field_validator("notice_secret")
    @classmethod
    def _check_notice_secret(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if info.data.get("notice_url") and not value:
            raise ValueError(f"missing, should be the secret that {PREFIX}NOTICE_URL's receiver checks notices with")
        return value

    @field_validator("notice_queue")
    @classmethod
    def _check_notice_queue(cls, value: str, info: ValidationInfo) -> str:
        if bool(info.data.get("notice_task")) != bool(value):
            raise ValueError(f"{PREFIX}NOTICE_TASK and {PREFIX}NOTICE_QUEUE should be set both, or neither")
        return value

    @field_validator("api_base_url")
    @classmethod
    def _check_api_base_url(cls, value: str | None) -> str | None:
        if value and not _is_http_url(value):
            raise ValueError("is no URL, should be http://host:port or https://host")
        return value and value.rstrip("/")

    @field_validator("flower_auth")
    @classmethod
    def _check_flower_auth(cls, value: SecretStr | None) -> SecretStr | None:
        user, _, password = value.get_secret_value().partition(":") if value else ("user", ":", "password")
        if not user or not password or "," in password:
            raise ValueError("is no pair, should be user:password without a comma")
        return value

    @field_validator("gateway_origins")
    @classmethod
    def _check_origins(cls, value: str) -> str:
        for origin in words(value):
            parts = urlsplit(origin)
            if not _is_http_url(origin) or origin != f"{parts.scheme}://{parts.netloc}" or "@" in origin:
                raise ValueError("is no list of origins, should be like https://host or http://host:port")
        return value

    @field_validator("gateway_hosts")
    @classmethod
    def _check_hosts(cls, value: str) -> str:
        if not all(re.fullmatch(r"[\w.-]+|\[[0-9a-fA-F:.]+\]", name, re.ASCII) for name in words(value)):
            raise ValueError("is no list of host names, should be like calls.example.org, without ports")
        return value

    @field_validator("flower_url_prefix", "gateway_url_prefix")
    @classmethod
    def _check_url_prefix(cls, value: str) -> str:
        prefix = value.strip("/")
        if not re.fullmatch(r"[\w/.-]*", prefix, re.ASCII):
            raise ValueError("is no path, should be a word such as flower")
        return prefix

    @field_validator("key_prefix")
    @classmethod
    def _check_key_prefix(cls, value: str) -> str:
        if not value or any(character.isspace() or character in "{}" for character in value):
            raise ValueError("is empty or holds a blank or a brace, should be a word such as callwatch")
        return value

    @field_validator(
        "connect_timeout", "status_timeout", "call_timeout", "poll_interval", "sweep_interval", "overdue_grace"
    )
    @classmethod
    def _check_below_visibility(cls, value: float, info: ValidationInfo) -> float:
        limit = info.data.get("visibility_timeout", math.inf)  # absent if refused itself
        if value >= limit:
            raise ValueError(
                f"{value:g} s is as long as the broker waits for a message or longer,"
                f" should be less than {PREFIX}VISIBILITY_TIMEOUT ({limit:g} s)"
            )
        return value

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, redact(value) if isinstance(value, str) else value

    def warn(self) -> Self:
        """Log what is allowed and yet unwise; return the settings."""
        if self.call_timeout < _SLOWEST_DIAL:
            _log.warning(
                "%sCALL_TIMEOUT: %g s is less than the %g s that a dial may take: unknown outcomes become likely (S14)",
                PREFIX,
                self.call_timeout,
                _SLOWEST_DIAL,
            )
        if self.gateway_token_secret and len(self.gateway_token_secret.get_secret_value()) < _SECRET_LENGTH:
            _log.warning(
                "%sGATEWAY_TOKEN_SECRET: shorter than %d characters, can be found out from one token",
                PREFIX,
                _SECRET_LENGTH,
            )
        return self


def words(text: str) -> tuple[str, ...]:
    """Return what stands between the commas of a list, in small letters."""
    return tuple(word.strip().lower() for word in text.split(",") if word.strip())


def load_settings() -> Settings:
    """Return the settings of the environment and of `.env` in the current folder, logging what is unwise.

    Raises SettingsError, one line per fault.
    """
    given = _given()
    faults = [_unknown_variable(name) for name in sorted(given.keys() - _known_names())]
    secrets, unread = read_files(given, SECRETS, prefix=PREFIX)
    faults += unread
    try:
        settings = Settings(**secrets)
    except ValidationError as error:
        faults += [_fault(details) for details in error.errors(include_url=False)]
    if faults:
        raise SettingsError(faults)
    if not logging.getLogger().handlers:  # else a warning would stand as a bare line between JSON lines
        configure_logging(settings)
    return settings.warn()


def _given() -> dict[str, str]:
    """Return what the environment and `.env` say of callwatch, the environment first, as pydantic reads them."""
    try:
        told = {**dotenv_values(_ENV_FILE, encoding=_ENV_ENCODING), **os.environ}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{_ENV_FILE}: cannot be read ({type(error).__name__}), should be UTF-8 text"]) from None
    return {name.upper(): value or "" for name, value in told.items() if name.upper().startswith(PREFIX)}


def _known_names() -> set[str]:
    names = {PREFIX + name.upper() for name in Settings.model_fields}
    return names | {PREFIX + name.upper() + FILE for name in SECRETS}


def _unknown_variable(name: str) -> str:
    nearest = difflib.get_close_matches(name, sorted(_known_names()), n=1, cutoff=0.75)
    return f"{name}: is no setting, " + (f"did you mean {nearest[0]}?" if nearest else "should be taken away")


def _fault(details: ErrorDetails) -> str:
    field = str(details["loc"][0])
    if details["type"] == "value_error":  # one of the validators above, which quote no secret
        return f"{PREFIX}{field.upper()}: {details['ctx']['error']}"
    should_be = next(item for item in Settings.model_fields[field].metadata if isinstance(item, _ShouldBe))
    text = str(details["input"]).strip()
    quoted = redact(repr(text))
    if len(quoted) > _LONGEST_QUOTE:
        quoted = quoted[:_LONGEST_QUOTE] + "…'"
    return f"{PREFIX}{field.upper()}: {quoted} is {_kind(text)}, should be {should_be}"


def _kind(text: str) -> str:
    if not text:
        return "empty"
    try:
        number = float(text)
    except ValueError:
        return "a text"
    if math.isnan(number) or math.isinf(number):
        return "no finite number"
    if number <= 0:
        return "not positive"
    return "a whole number" if number.is_integer() else "a fraction"


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and text.isprintable()
    except ValueError:
        return False

"""Value types of the settings: the form that each one needs, and the functions that check it. Pure but for files."""

import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo

from config.calling_hours import parse_days, parse_hours, public_holidays
from config.log import LogFormat, LogLevel
from config.redis_tls import check_tls_files
from config.redis_url import parse_redis_url

PREFIX = "CALLWATCH_"
LOCAL_REDIS = "redis://127.0.0.1:6379/0"

Pool = Literal["threads", "prefork", "gevent", "eventlet", "solo", "processes", "custom"]
PollEvents = Literal["changes", "all"]


class ShouldBe(str):
    """The right form of a value, in the words of an error message."""

    __slots__ = ()


def _one_of(literal: Any) -> ShouldBe:
    return ShouldBe("one of " + ", ".join(get_args(literal)))


def words(text: str) -> tuple[str, ...]:
    """Return the items of a comma-separated list, in lower case."""
    return tuple(word.strip().lower() for word in text.split(",") if word.strip())


# -- checks: each returns the value, or raises ValueError, which quotes no secret --------------------------------------


def _upper_case(value: object) -> object:
    return value.upper() if isinstance(value, str) and value.upper() in get_args(LogLevel) else value


def _empty_is_none(value: object) -> object:
    return (value.strip() or None) if isinstance(value, str) else value


def _empty_is_redis_url(value: object, info: ValidationInfo) -> object:
    return value or info.data.get("redis_url", LOCAL_REDIS)


def _check_redis_url(value: str) -> str:
    check_tls_files(parse_redis_url(value))
    return value


def _check_time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError):  # ValueError: not a name, like an empty text or ../etc
        raise ValueError("is no time zone, should be one like Asia/Shanghai") from None
    return name


def _parsed_by(parse: Callable[[str], object], *, empty: bool) -> AfterValidator:
    """Return a check by a parser; `empty` permits the empty text."""

    def check(value: str) -> str:
        if value or not empty:
            parse(value)
        return value

    return AfterValidator(check)


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and text.isprintable()
    except ValueError:
        return False


def _check_base_url(value: str | None) -> str | None:
    if value and not _is_http_url(value):
        raise ValueError("is no URL, should be http://host:port or https://host")
    if value and ("?" in value or "#" in value):
        raise ValueError("has a query or a fragment, should be http://host:port or https://host, with a path if needed")
    return value and value.rstrip("/")


def _check_url(value: str | None) -> str | None:
    if value and not _is_http_url(value):
        raise ValueError("is no URL, should be http://host:port/path or https://host/path")
    return value


def _check_notice_secret(value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    if info.data.get("notice_url") and not value:
        raise ValueError(f"missing, should be the secret that {PREFIX}NOTICE_URL's receiver checks notices with")
    return value


def _check_notice_queue(value: str, info: ValidationInfo) -> str:
    if bool(info.data.get("notice_task")) != bool(value):
        raise ValueError(f"{PREFIX}NOTICE_TASK and {PREFIX}NOTICE_QUEUE should be set both, or neither")
    return value


def _check_bearer(value: SecretStr | None) -> SecretStr | None:
    if value and not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError("holds a blank, a line break or a character outside ASCII, should be one visible ASCII word")
    return value


def _check_credential(value: SecretStr | None) -> SecretStr | None:
    user, _, password = value.get_secret_value().partition(":") if value else ("user", ":", "password")
    if not user or not password or "," in password:
        raise ValueError("is no pair, should be user:password without a comma")
    return value


def _check_origins(value: str) -> str:
    for origin in words(value):
        parts = urlsplit(origin)
        if not _is_http_url(origin) or origin != f"{parts.scheme}://{parts.netloc}" or "@" in origin:
            raise ValueError("is no list of origins, should be like https://host or http://host:port")
    return value


def _check_hosts(value: str) -> str:
    if not all(re.fullmatch(r"[\w.-]+|\[[0-9a-fA-F:.]+\]", name, re.ASCII) for name in words(value)):
        raise ValueError("is no list of host names, should be like calls.example.org, without ports")
    return value


def _check_url_prefix(value: str) -> str:
    prefix = value.strip("/")
    if not re.fullmatch(r"[\w/.-]*", prefix, re.ASCII):
        raise ValueError("is no path, should be a word such as flower")
    return prefix


def _check_key_prefix(value: str) -> str:
    if not value or any(character.isspace() or character in "{}" for character in value):
        raise ValueError("is empty or holds a blank or a brace, should be a word such as callwatch")
    return value


def _check_below_visibility(value: float, info: ValidationInfo) -> float:
    limit = info.data.get("visibility_timeout", math.inf)  # absent if that setting is wrong itself
    if value >= limit:
        raise ValueError(
            f"{value:g} s is as long as the broker waits for a message or longer,"
            f" should be less than {PREFIX}VISIBILITY_TIMEOUT ({limit:g} s)"
        )
    return value


# -- types -------------------------------------------------------------------------------------------------------------

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False), ShouldBe("a positive number of seconds")]
ShortSeconds = Annotated[Seconds, AfterValidator(_check_below_visibility)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False), ShouldBe("0 or a positive number a second")]
Count = Annotated[int, Field(ge=1), ShouldBe("a whole number, 1 or more")]
Number = Annotated[int, Field(ge=0), ShouldBe("a whole number, 0 or more")]
Concurrency = Annotated[int, Field(ge=2), ShouldBe("a whole number, 2 or more")]
Switch = Annotated[bool, ShouldBe("true or false")]
PoolName = Annotated[Pool, _one_of(Pool)]
PollEventsName = Annotated[PollEvents, _one_of(PollEvents)]
LogLevelName = Annotated[LogLevel, _one_of(LogLevel), BeforeValidator(_upper_case)]
LogFormatName = Annotated[LogFormat, _one_of(LogFormat)]

RedisAddress = Annotated[str, AfterValidator(_check_redis_url)]
OtherRedisAddress = Annotated[str, AfterValidator(_check_redis_url), BeforeValidator(_empty_is_redis_url)]
BaseUrl = Annotated[str | None, AfterValidator(_check_base_url), BeforeValidator(_empty_is_none)]
WebUrl = Annotated[str | None, AfterValidator(_check_url), BeforeValidator(_empty_is_none)]
UrlPrefix = Annotated[str, AfterValidator(_check_url_prefix)]
Origins = Annotated[str, AfterValidator(_check_origins)]
Hosts = Annotated[str, AfterValidator(_check_hosts)]
KeyPrefix = Annotated[str, AfterValidator(_check_key_prefix)]
NoticeQueue = Annotated[str, AfterValidator(_check_notice_queue)]

Secret = Annotated[SecretStr | None, BeforeValidator(_empty_is_none)]
BearerToken = Annotated[SecretStr | None, AfterValidator(_check_bearer), BeforeValidator(_empty_is_none)]
NoticeSecret = Annotated[SecretStr | None, AfterValidator(_check_notice_secret), BeforeValidator(_empty_is_none)]
Credential = Annotated[SecretStr | None, AfterValidator(_check_credential), BeforeValidator(_empty_is_none)]

Hours = Annotated[str, _parsed_by(parse_hours, empty=True)]
Days = Annotated[str, _parsed_by(parse_days, empty=False)]
Holidays = Annotated[str, _parsed_by(public_holidays, empty=True)]
Zone = Annotated[str, AfterValidator(_check_time_zone)]

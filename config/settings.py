"""The settings of a deployment: each with its unit, default and description, and the values derived from them."""

import logging
import math
import os
from collections.abc import Iterator
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from config import setting_types as types
from config.calling_hours import CallingHours, parse_days, parse_hours, public_holidays
from config.env_file import ENCODING, NAME, read_env_file
from config.log import configure_logging
from config.redaction import redact
from config.redis_url import parse_redis_url
from config.secret_files import FILE, read_files
from config.setting_faults import unknown_variable, wrong_value
from config.setting_types import PREFIX, Pool, words
from config.settings_error import SettingsError

__all__ = ["PREFIX", "SECRETS", "Pool", "Settings", "SettingsError", "load_settings", "words"]

_log = logging.getLogger(__name__)

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
_SLOWEST_DIAL = 90.0  # seconds; a shorter call time-out is logged as a warning (S14)
_DIAL_GRACE = 15  # seconds beyond a dial's time-outs to store its outcome
_LOCK_MARGIN = 600  # seconds added to a lock's life: a lock that expires early rings twice, a late one only delays
_SECRET_LENGTH = 32  # characters; HS256 requires a secret as long as its hash


class Settings(BaseSettings):
    """The choices of a deployment, from `CALLWATCH_…` variables, `.env`, or keyword arguments in code."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=NAME,
        env_file_encoding=ENCODING,
        dotenv_filtering="only_existing",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    redis_url: types.RedisAddress = Field(
        types.LOCAL_REDIS, description="Redis for locks and records, by default also for broker and results"
    )
    broker_url: types.OtherRedisAddress = Field("", description="Redis of the broker; empty: CALLWATCH_REDIS_URL")
    result_url: types.OtherRedisAddress = Field("", description="Redis of the results; empty: CALLWATCH_REDIS_URL")
    replicas: types.Number = Field(
        0, description="replicas of Redis that must have a call request on disk before it is sent; else it is not (S41)"
    )
    visibility_timeout: types.Seconds = Field(
        180.0, description="seconds until the broker redelivers an unacknowledged message (S28)"
    )
    api_base_url: types.BaseUrl = Field(None, description="base URL of upstream, required to dial (S39)")
    api_token: types.BearerToken = Field(
        None, description="bearer token for upstream, sent as `Authorization: Bearer …` (S37)"
    )
    api_trust_env: types.Switch = Field(False, description="take proxy and CA bundle from the environment (S39)")
    connect_timeout: types.ShortSeconds = Field(
        3.0, description="seconds to connect to upstream: name resolution, TCP, proxy and TLS together (S12)"
    )
    status_timeout: types.ShortSeconds = Field(
        10.0, description="seconds to wait for the answer to a status query (S23)"
    )
    call_timeout: types.ShortSeconds = Field(
        _SLOWEST_DIAL, description="seconds to wait for the answer to a call request (S14)"
    )
    poll_interval: types.ShortSeconds = Field(
        10.0, description="seconds between two polls of a call, from due time to due time (S20)"
    )
    max_poll_duration: types.Seconds = Field(
        7200.0, description="seconds for which a call is watched, from request to deadline (S20)"
    )
    max_retry_count: types.Count = Field(10, description="failed queries in a row that end a watch (S24)")
    sweep_interval: types.ShortSeconds = Field(
        1.0, description="seconds between two sweeps for abandoned claims and look-ups (S18)"
    )
    overdue_grace: types.ShortSeconds = Field(
        2.0, description="seconds without a renewed lease after which a poll counts as missing (S28)"
    )
    poll_batch: types.Count = Field(20, description="most calls in one poll message; 1 sends a message for each call")
    unknown_lookup: types.Seconds = Field(120.0, description="seconds for which an unknown outcome is looked up (S14)")
    unknown_hold: types.Seconds = Field(600.0, description="seconds for which a pair is held after the look-up (S14)")
    history_ttl: types.Seconds = Field(86400.0, description="seconds for which finished calls are kept (S36)")
    status_rate: types.Rate = Field(0.0, description="most status queries per second of all workers; 0: no limit")
    dial_rate: types.Rate = Field(0.0, description="most call requests per second of all workers; 0: no limit")
    calling_hours: types.Hours = Field(
        "", description="hours of the day in which calls are placed, like 09:00-21:00; empty: at any time"
    )
    calling_days: types.Days = Field("mon-sun", description="days of the week with calling hours, like mon-sat")
    holidays: types.Holidays = Field(
        "", description="ISO code of a country on whose public holidays no call is placed, like CN; empty: none"
    )
    calling_zone: types.Zone = Field("Asia/Shanghai", description="time zone of hours, days and holidays")
    notice_url: types.WebUrl = Field(
        None, description="webhook that receives notices about calls; empty: no notice by webhook"
    )
    notice_secret: types.NoticeSecret = Field(
        None, description="secret that signs the notices of the webhook; required with it"
    )
    notice_task: str = Field("", description="name of the Celery task that receives the notices; empty: no such task")
    notice_queue: types.NoticeQueue = Field("", description="queue of that task, in the broker; required with it")
    notice_age: types.Seconds = Field(86400.0, description="seconds after which an undelivered notice is a dead letter")
    enabled: types.Switch = Field(
        True, description="false stops new calls, also while the flag in Redis allows them (S16)"
    )
    demo: types.Switch = Field(False, description="a demonstration: doctor does not require that writes are on disk")
    key_prefix: types.KeyPrefix = Field("callwatch", description="prefix of every Redis key except the broker's own")
    worker_pool: types.PoolName = Field("threads", description="Celery's pool")
    worker_concurrency: types.Concurrency = Field(
        32, description="most tasks at once in one worker; a long dial occupies one of them"
    )
    poll_events: types.PollEventsName = Field(
        "changes", description="poll events for Flower: only those that change a call, or all"
    )
    flower_auth: types.Credential = Field(None, description="credential that Flower requires, `user:password` (S40)")
    flower_url_prefix: types.UrlPrefix = Field("", description="URL path of Flower behind a proxy")
    flower_db: str = Field("", description="file in which Flower saves its tasks; empty: in memory only")
    metrics_token: types.BearerToken = Field(None, description="bearer token that the metrics require (S40)")
    runbook_url: types.WebUrl = Field(
        None, description="URL at which docs/alerts.md can be read; alerts link to it; empty: its path in the project"
    )
    gateway_keys_file: str = Field(
        "", description="file with the API keys of the gateway; `callwatch keys new` adds one"
    )
    gateway_token_secret: types.Secret = Field(
        None, description="secret that signs the tokens of pages, 32 characters or more; empty: no tokens"
    )
    gateway_origins: types.Origins = Field(
        "", description="origins whose pages may follow cases, separated by commas; empty: none"
    )
    gateway_hosts: types.Hosts = Field(
        "", description="host names that the gateway accepts besides those of loopback, separated by commas"
    )
    gateway_url_prefix: types.UrlPrefix = Field("", description="URL path of the gateway behind a proxy")
    gateway_rate: types.Rate = Field(
        50.0, description="most requests per second of one API key, averaged over a minute; 0: no limit"
    )
    health_file: str = Field(
        "", description="file with the heartbeat of one worker, for `callwatch healthcheck`; empty: no file"
    )
    health_limit: types.Seconds = Field(
        30.0, description="seconds without work after which the worker counts as unhealthy"
    )
    log_level: types.LogLevelName = Field("INFO", description="lowest level that is logged")
    log_format: types.LogFormatName = Field("auto", description="auto: text on a terminal, JSON lines otherwise")

    @property
    def celery_broker_url(self) -> str:
        """The Redis of the broker, in the form of kombu."""
        return parse_redis_url(self.broker_url).for_celery()

    @property
    def celery_result_url(self) -> str:
        """The Redis of the results, in the form of Celery's result backend."""
        return parse_redis_url(self.result_url).for_celery()

    @property
    def dial_limit(self) -> float:
        """Seconds after which a dial has ended for every process: its outcome is unknown (S18)."""
        return self.call_timeout + self.connect_timeout + _DIAL_GRACE

    @property
    def lock_ttl(self) -> int:
        """Seconds that a pair's lock lives: longer than dial, watch, look-up and hold together (S5)."""
        longest = self.max_poll_duration + self.connect_timeout + self.call_timeout
        return math.ceil(longest + self.unknown_lookup + self.unknown_hold + _LOCK_MARGIN)

    @property
    def hours(self) -> CallingHours | None:
        """The calling hours; None if calls are placed at any time."""
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
        """The channels by which notices are delivered."""
        return (*(("webhook",) if self.notice_url else ()), *(("task",) if self.notice_task else ()))

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, redact(value) if isinstance(value, str) else value

    def warn(self) -> Self:
        """Log the values that are valid and unwise; return the settings."""
        if self.call_timeout < _SLOWEST_DIAL:
            _log.warning(
                "%sCALL_TIMEOUT: %g s is less than the %g s that a dial can take: unknown outcomes become likely (S14)",
                PREFIX,
                self.call_timeout,
                _SLOWEST_DIAL,
            )
        if self.gateway_token_secret and len(self.gateway_token_secret.get_secret_value()) < _SECRET_LENGTH:
            _log.warning(
                "%sGATEWAY_TOKEN_SECRET: shorter than %d characters, can be guessed from one token",
                PREFIX,
                _SECRET_LENGTH,
            )
        return self


def load_settings() -> Settings:
    """Return the settings of the environment and of `.env` in the current folder; log a warning for unwise values.

    Raises SettingsError, one line per fault.
    """
    given = _given()
    known = _known_names()
    faults = [unknown_variable(name, known) for name in sorted(given.keys() - known)]
    secrets, unread = read_files(given, SECRETS, prefix=PREFIX)
    faults += unread
    try:
        settings = Settings(**secrets)
    except ValidationError as error:
        faults += [wrong_value(one, _right_form(str(one["loc"][0]))) for one in error.errors(include_url=False)]
    if faults:
        raise SettingsError(faults)
    if not logging.getLogger().handlers:  # else a warning would be a plain line between JSON lines
        configure_logging(settings.log_level, settings.log_format)
    return settings.warn()


def _given() -> dict[str, str]:
    """Return the `CALLWATCH_…` variables of the environment and of `.env`, the environment first, as pydantic does."""
    given = {**read_env_file(), **os.environ}
    return {name.upper(): value or "" for name, value in given.items() if name.upper().startswith(PREFIX)}


def _known_names() -> set[str]:
    names = {PREFIX + name.upper() for name in Settings.model_fields}
    return names | {PREFIX + name.upper() + FILE for name in SECRETS}


def _right_form(field: str) -> str | None:
    """Return the form that a setting's value should have; None if only a check of its type can refuse it."""
    return next((str(item) for item in Settings.model_fields[field].metadata if isinstance(item, types.ShouldBe)), None)

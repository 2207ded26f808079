"""Settings are read and checked; a fault is one line with the variable."""

import logging
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import pytest
from celery.concurrency import get_available_pool_names
from pydantic import ValidationError

from config.settings import Pool, Settings, SettingsError, load_settings, words
from tests.oneline import fault_of

pytestmark = pytest.mark.usefixtures("empty_environment")

DEFAULTS = {
    "replicas": 0, "redis_url": "redis://127.0.0.1:6379/0", "broker_url": "redis://127.0.0.1:6379/0",
    "result_url": "redis://127.0.0.1:6379/0", "api_base_url": None, "api_token": None, "api_trust_env": False,
    "connect_timeout": 3, "status_timeout": 10, "call_timeout": 90, "poll_interval": 10, "max_poll_duration": 7200,
    "max_retry_count": 10, "sweep_interval": 1, "overdue_grace": 2, "poll_batch": 20,
    "unknown_lookup": 120, "unknown_hold": 600,
    "history_ttl": 86400, "status_rate": 0, "dial_rate": 0, "calling_hours": "", "calling_days": "mon-sun",
    "holidays": "", "calling_zone": "Asia/Shanghai",
    "notice_url": None, "notice_secret": None, "notice_task": "", "notice_queue": "",
    "notice_age": 86400, "enabled": True, "demo": False, "key_prefix": "callwatch", "visibility_timeout": 180,
    "worker_concurrency": 32, "worker_pool": "threads", "health_file": "", "health_limit": 30, "log_level": "INFO",
    "log_format": "auto", "poll_events": "changes", "flower_auth": None, "flower_url_prefix": "", "flower_db": "",
    "metrics_token": None, "runbook_url": None, "gateway_keys_file": "", "gateway_token_secret": None,
    "gateway_origins": "", "gateway_hosts": "", "gateway_url_prefix": "", "gateway_rate": 50,
}  # fmt: skip


def test_the_defaults_are_those_of_the_contract() -> None:
    assert load_settings().model_dump() == DEFAULTS
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("POLL_INTERVAL", "0.5", "poll_interval", 0.5),
        ("MAX_RETRY_COUNT", "3", "max_retry_count", 3),
        ("ENABLED", "false", "enabled", False),
        ("LOG_LEVEL", "debug", "log_level", "DEBUG"),
        ("API_BASE_URL", "http://127.0.0.1:9015/", "api_base_url", "http://127.0.0.1:9015"),
        ("API_BASE_URL", "", "api_base_url", None),
        ("API_TOKEN", "", "api_token", None),
        ("BROKER_URL", "", "broker_url", DEFAULTS["redis_url"]),
        ("BROKER_URL", "redis://b:1/2", "broker_url", "redis://b:1/2"),
    ],
)
@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_variable_is_read(
    monkeypatch: pytest.MonkeyPatch, place: str, variable: str, value: str, field: str, expected: object
) -> None:
    if place == "environment":
        monkeypatch.setenv(f"CALLWATCH_{variable}", value)
    else:
        Path(".env").write_text(f"OTHER=1\nCALLWATCH_{variable}={value}\n", encoding="utf-8-sig")
    assert getattr(load_settings(), field) == expected


NO_BEARER = "holds a blank, a line break or a character outside ASCII, should be one visible ASCII word"
NEITHER = "CALLWATCH_NOTICE_TASK and CALLWATCH_NOTICE_QUEUE should be set both, or neither"


def test_broker_and_results_default_to_the_redis_url() -> None:
    settings = Settings(redis_url="redis://a:1/2", result_url="redis://b:1/3")
    assert (settings.broker_url, settings.result_url) == ("redis://a:1/2", "redis://b:1/3")


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("POLL_INTERVAL", "abc", "'abc' is a text, should be a positive number of seconds"),
        ("POLL_INTERVAL", "", "'' is empty, should be a positive number of seconds"),
        ("POLL_INTERVAL", "0", "'0' is not positive, should be a positive number of seconds"),
        ("HISTORY_TTL", "-1", "'-1' is not positive, should be a positive number of seconds"),
        ("HISTORY_TTL", "nan", "'nan' is no finite number, should be a positive number of seconds"),
        ("HISTORY_TTL", "inf", "'inf' is no finite number, should be a positive number of seconds"),
        ("MAX_RETRY_COUNT", "1.5", "'1.5' is a fraction, should be a whole number, 1 or more"),
        ("WORKER_CONCURRENCY", "1", "'1' is a whole number, should be a whole number, 2 or more"),
        ("ENABLED", "maybe", "'maybe' is a text, should be true or false"),
        ("LOG_LEVEL", "loud", "'loud' is a text, should be one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("KEY_PREFIX", "", "is empty or holds a blank or a brace, should be a word such as callwatch"),
        ("KEY_PREFIX", "{a}", "is empty or holds a blank or a brace, should be a word such as callwatch"),
        ("KEY_PREFIX", "a b", "is empty or holds a blank or a brace, should be a word such as callwatch"),
        ("API_BASE_URL", "127.0.0.1:9015", "is no URL, should be http://host:port or https://host"),
        ("API_BASE_URL", "http://h:x", "is no URL, should be http://host:port or https://host"),
        ("API_BASE_URL", "http://h:1/a\x01", "is no URL, should be http://host:port or https://host"),
        (
            "API_BASE_URL",
            "http://h:1/a?b=1",
            "has a query or a fragment, should be http://host:port or https://host, with a path if needed",
        ),
        ("API_TOKEN", "s3\nkr1t", NO_BEARER),
        ("METRICS_TOKEN", "密码", NO_BEARER),
        ("UPSTREAM_URL", "http://h:1", "is no setting, should be taken away"),
        ("CALLING_ZONE", "Mars/Olympus", "is no time zone, should be one like Asia/Shanghai"),
        ("CALLING_ZONE", "Asia", "is no time zone, should be one like Asia/Shanghai"),
        ("CALLING_ZONE", "", "is no time zone, should be one like Asia/Shanghai"),
        ("CALLING_HOURS", "9-21", "is no span of a day, should be like 09:00-21:00"),
        ("NOTICE_URL", "hook", "is no URL, should be http://host:port/path or https://host/path"),
        ("NOTICE_TASK", "calls.notice", NEITHER),
        ("NOTICE_QUEUE", "back-end", NEITHER),
        ("GATEWAY_ORIGINS", "host.example", "is no list of origins, should be like https://host or http://host:port"),
        (
            "GATEWAY_ORIGINS",
            "http://h:1/path",
            "is no list of origins, should be like https://host or http://host:port",
        ),
        ("GATEWAY_ORIGINS", "http://u@h", "is no list of origins, should be like https://host or http://host:port"),
        ("GATEWAY_HOSTS", "h:80", "is no list of host names, should be like calls.example.org, without ports"),
        ("GATEWAY_URL_PREFIX", "a b", "is no path, should be a word such as flower"),
        ("POLL_INTERVL", "1", "is no setting, did you mean CALLWATCH_POLL_INTERVAL?"),
        ("COLOUR_OF_THE_SKY", "1", "is no setting, should be taken away"),
        ("POLL_INTERVAL", "z" * 99, f"'{'z' * 59}…' is a text, should be a positive number of seconds"),
    ],
)
def test_a_fault_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, line: str
) -> None:
    named = "NOTICE_QUEUE" if line is NEITHER else variable
    assert fault_of(monkeypatch, f"CALLWATCH_{variable}", value) == f"CALLWATCH_{named}: {line}"


@pytest.mark.parametrize(
    "variable",
    ["CONNECT_TIMEOUT", "STATUS_TIMEOUT", "CALL_TIMEOUT", "POLL_INTERVAL", "SWEEP_INTERVAL", "OVERDUE_GRACE"],
)
def test_a_time_out_or_interval_at_the_visibility_time_out_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    assert fault_of(monkeypatch, f"CALLWATCH_{variable}", "180") == (
        f"CALLWATCH_{variable}: 180 s is as long as the broker waits for a message or longer,"
        " should be less than CALLWATCH_VISIBILITY_TIMEOUT (180 s)"
    )
    monkeypatch.setenv(f"CALLWATCH_{variable}", "179.9")
    load_settings()


def test_every_fault_has_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("CALLWATCH_OOPS=1\ncallwatch_log_format=xml\n", encoding="utf-8")
    monkeypatch.setenv("CALLWATCH_VISIBILITY_TIMEOUT", "x")  # then no other value is compared with it
    monkeypatch.setenv("CALLWATCH_REDIS_URL", "x")
    monkeypatch.setenv("CALLWATCH_CALL_TIMEOUT", "-3")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    text = str(caught.value)
    assert [line.partition(":")[0].removeprefix("CALLWATCH_") for line in text.splitlines()] == [
        "OOPS", "REDIS_URL", "VISIBILITY_TIMEOUT", "CALL_TIMEOUT", "LOG_FORMAT"
    ]  # fmt: skip
    assert "pydantic" not in text


def test_an_env_file_that_is_no_text_is_one_line() -> None:
    Path(".env").write_bytes(b"CALLWATCH_KEY_PREFIX=\xff\n")
    with pytest.raises(SettingsError, match=r"^\.env: cannot be read \(UnicodeDecodeError\), should be UTF-8 text$"):
        load_settings()


@pytest.mark.parametrize(("value", "prefix"), [("flower", "flower"), ("/ops/flower/", "ops/flower"), ("", "")])
def test_url_prefix_is_a_path(monkeypatch: pytest.MonkeyPatch, value: str, prefix: str) -> None:
    monkeypatch.setenv("CALLWATCH_FLOWER_URL_PREFIX", value)
    assert load_settings().flower_url_prefix == prefix
    assert "is no path" in fault_of(monkeypatch, "CALLWATCH_FLOWER_URL_PREFIX", "a b?")


def test_unknown_keyword_and_assignment_are_refused() -> None:
    anything: dict[str, Any] = {"poll_intervl": 1}
    with pytest.raises(ValidationError):
        Settings(**anything)
    with pytest.raises(ValidationError):
        Settings().enabled = False  # type: ignore[misc]


def test_s5_the_lock_outlasts_dial_watch_look_up_and_hold() -> None:
    settings = Settings(max_poll_duration=100, call_timeout=90, connect_timeout=0.5, unknown_lookup=20, unknown_hold=30)
    assert settings.lock_ttl == 841
    assert isinstance(settings.lock_ttl, int)


@pytest.mark.parametrize(("call_timeout", "warned"), [("89.9", True), ("90", False)])
def test_s14_a_short_read_time_out_is_only_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call_timeout: str, warned: bool
) -> None:
    monkeypatch.setenv("CALLWATCH_CALL_TIMEOUT", call_timeout)
    load_settings()
    assert any("CALLWATCH_CALL_TIMEOUT: 89.9 s" in text for text in caplog.messages) is warned


def test_warning_configures_logging_if_it_is_not_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with patch("config.settings.configure_logging") as configure:
        configure.assert_not_called()
        settings = load_settings()
    configure.assert_called_once_with(settings.log_level, settings.log_format)


def test_pools_are_those_of_celery() -> None:
    assert set(get_args(Pool)) == {*get_available_pool_names()} | {"custom"}


def test_origins_and_hosts_are_parsed_as_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLWATCH_GATEWAY_ORIGINS", "https://Host.example, http://h:8080,")
    monkeypatch.setenv("CALLWATCH_GATEWAY_HOSTS", "calls.example, [::1]")
    settings = load_settings()
    assert words(settings.gateway_origins) == ("https://host.example", "http://h:8080")
    assert words(settings.gateway_hosts) == ("calls.example", "[::1]")

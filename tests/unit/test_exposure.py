"""`callwatch doctor` warns about unencrypted connections and about a Redis that producers can fill (S39)."""

import pytest

from cli.exposure import exposure
from config.settings import Settings


def seen(**settings: object) -> dict[str, tuple[str, str]]:
    return {one.check: (one.status, one.detail) for one in exposure(Settings(_env_file=None, **settings))}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"api_base_url": "http://upstream.example:9015"}, "CALLWATCH_API_BASE_URL (http://upstream.example)"),
        ({"notice_url": "http://192.0.2.1/hook", "notice_secret": "x" * 32}, "CALLWATCH_NOTICE_URL (http://192.0.2.1)"),
        ({"redis_url": "redis://u:secret@redis:6379/0"}, "CALLWATCH_REDIS_URL (redis://redis)"),
        ({"broker_url": "redis://u:secret@queues.example/0"}, "CALLWATCH_BROKER_URL (redis://queues.example)"),
        ({"result_url": "redis://[2001:db8::1]/0"}, "CALLWATCH_RESULT_URL (redis://2001:db8::1)"),
        ({"redis_url": "sentinel://:secret@s1,s2/0?service=m"}, "CALLWATCH_REDIS_URL (sentinel://s1,s2)"),
    ],
)
def test_unencrypted_address_is_named_without_its_credential(settings: dict[str, str], named: str) -> None:
    status, detail = seen(**settings)["encryption"]
    assert status == "warn"
    assert detail.startswith(f"not encrypted to another host: {named}: ")
    assert "secret" not in detail


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"api_base_url": "http://127.0.0.1:9015", "redis_url": "redis://[::1]:6379/0"},
        {"api_base_url": "http://localhost:9015", "redis_url": "unix:///run/redis.sock?db=0"},
        {"api_base_url": "https://upstream.example", "redis_url": "rediss://redis.example:6379/0"},
        {"redis_url": "sentinel://s1.example,s2.example/0?service=m&ssl=true"},
    ],
)
def test_loopback_and_encrypted_addresses_are_ok(settings: dict[str, str]) -> None:
    assert seen(**settings)["encryption"][0] == "ok"


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"redis_url": "rediss://redis.example:6379/0"}, "warn"),
        ({"redis_url": "rediss://redis.example/0", "broker_url": "rediss://redis.example/1"}, "warn"),
        ({"redis_url": "rediss://redis.example/0", "broker_url": "rediss://queues.example/0"}, "ok"),
        ({"redis_url": "rediss://redis.example:6379/0", "demo": "true"}, "ok"),
        ({"redis_url": "sentinel://s1,s2/0?service=m&ssl=true"}, "warn"),
        ({"redis_url": "sentinel://s1/0?service=m", "broker_url": "sentinel://s1/0?service=q"}, "ok"),
        ({"redis_url": "unix:///run/redis.sock?db=0"}, "ok"),
        ({}, "ok"),
    ],
)
def test_redis_shared_with_producers_is_a_warning(settings: dict[str, str], status: str) -> None:
    assert seen(**settings)["broker memory"][0] == status

"""Test the container: real adapters built from the settings, once per process."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from api_client import AsyncStatus
from config.settings import Settings
from worker import container as container_module
from worker.container import Container, SystemClock, build_store, build_upstream, container

ADDRESS = "http://127.0.0.1:9015"


@pytest.fixture(autouse=True)
def _fresh_container() -> Iterator[None]:
    container.cache_clear()
    yield
    container.cache_clear()


def test_s20_poll_executor_uses_the_configured_upstream_and_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """The executor queries on an event loop; the lease equals `overdue_grace`."""
    made: list[tuple[object, float]] = []
    monkeypatch.setattr(container_module, "PollExecutor", lambda _watch, status, *, lease: made.append((status, lease)))
    settings = Settings(_env_file=None, api_base_url=ADDRESS, overdue_grace=1.5)
    Container(settings, build_store(settings), build_upstream(settings), SystemClock()).poll_executor(lambda _: None)
    ((status, lease),) = made
    assert isinstance(status, AsyncStatus)
    assert lease == 1.5


def test_s39_upstream_requires_a_configured_address() -> None:
    with pytest.raises(ValueError, match=r"^CALLWATCH_API_BASE_URL: missing, should be the upstream's address"):
        build_upstream(Settings(_env_file=None))


@pytest.mark.parametrize("token", [None, "s3cret"])
def test_upstream_client_receives_timeouts_token_and_proxy_policy(
    monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    """S12 S14 S37 S39: time-outs, token, and no proxy from the environment by default."""
    built: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(container_module, "UpstreamClient", lambda address, **options: built.append((address, options)))
    build_upstream(
        Settings(
            _env_file=None,
            api_base_url=ADDRESS,
            api_token=token and SecretStr(token),
            connect_timeout=1,
            status_timeout=2,
            call_timeout=3,
            worker_concurrency=4,
        )
    )
    timeouts = {"connect_timeout": 1, "status_timeout": 2, "call_timeout": 3}
    assert built == [(ADDRESS, {"token": token, **timeouts, "pool_size": 4, "trust_env": False})]


def test_container_is_built_once_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, redis_url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALLWATCH_REDIS_URL", redis_url)
    monkeypatch.setenv("CALLWATCH_API_BASE_URL", ADDRESS)
    monkeypatch.setenv("CALLWATCH_KEY_PREFIX", "other")
    one = container()
    assert one.settings.redis_url == redis_url
    one.store.pause("tests")
    assert "other:paused" in one.store.client.keys("*")
    assert all(str(name).startswith("other:") for name in one.store.client.keys("*"))
    assert container() is one


def test_s28_monotonic_clock_includes_time_in_suspension(monkeypatch: pytest.MonkeyPatch) -> None:
    """S28: a query in flight during a suspension has outlived its lease."""
    goes_on = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # macOS has only the one
    seconds = {time.CLOCK_MONOTONIC: 10.0} | {goes_on: 17.0}
    monkeypatch.setattr(time, "clock_gettime", seconds.__getitem__)
    assert SystemClock().monotonic() == 17.0


def test_system_clock_sleeps_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    clock = SystemClock()
    clock.sleep(2.5)
    assert waited == [2.5]

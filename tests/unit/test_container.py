"""The real adapters are built of the settings, once for each process."""

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
def _built_anew() -> Iterator[None]:
    container.cache_clear()
    yield
    container.cache_clear()


def test_s20_a_process_asks_the_configured_upstream_and_renews_its_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an event loop, within the grace."""
    made: list[tuple[object, float]] = []
    monkeypatch.setattr(container_module, "PollExecutor", lambda _watch, status, *, lease: made.append((status, lease)))
    settings = Settings(_env_file=None, api_base_url=ADDRESS, overdue_grace=1.5)
    Container(settings, build_store(settings), build_upstream(settings), SystemClock()).poll_executor(
        lambda _news: None
    )
    ((status, lease),) = made
    assert isinstance(status, AsyncStatus)
    assert lease == 1.5


def test_s39_there_is_no_upstream_but_the_configured_one() -> None:
    with pytest.raises(ValueError, match=r"^CALLWATCH_API_BASE_URL: missing, should be the upstream's address"):
        build_upstream(Settings(_env_file=None))


@pytest.mark.parametrize("token", [None, "s3cret"])
def test_the_upstream_is_asked_as_the_settings_say(monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    """S12 S14 S37 S39: its time-outs, its token, and no proxy unless asked."""
    told: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(container_module, "UpstreamClient", lambda address, **options: told.append((address, options)))
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
    assert told == [(ADDRESS, {"token": token, **timeouts, "pool_size": 4, "trust_env": False})]


def test_a_process_builds_its_parts_once_and_of_its_own_settings(
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


def test_the_systems_clock_goes_on_while_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    """S28: a query that was under way when it fell asleep has taken longer than its lease."""
    goes_on = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # macOS has one clock of the kind
    seconds = {time.CLOCK_MONOTONIC: 10.0} | {goes_on: 17.0}
    monkeypatch.setattr(time, "clock_gettime", seconds.__getitem__)
    assert SystemClock().monotonic() == 17.0


def test_the_systems_clock_waits_for_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    clock = SystemClock()
    clock.sleep(2.5)
    assert waited == [2.5]

"""What the tests of commands share: a store in a folder without any settings file, and what a command printed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from config.settings import Settings
from tests.on_a_loop import asked_on_a_loop
from worker.container import build_store
from worker.store import RedisStore


@pytest.fixture
def store(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RedisStore]:
    """The store that the commands of a test find."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALLWATCH_REDIS_URL", redis_url)
    store = build_store(Settings(redis_url=redis_url))
    yield store
    store.client.close()


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[[], tuple[str, str]]:
    """Give what was printed since the last time: standard output and standard error."""

    def read() -> tuple[str, str]:
        both = capsys.readouterr()
        return both.out, both.err

    return read


@pytest.fixture(params=["in a thread", "on an event loop"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """How a poll is asked: both clients keep the same promises."""
    if request.param == "in a thread":
        yield
        return
    with asked_on_a_loop(monkeypatch):
        yield

"""Share fixtures: an environment without settings, a server that tests may kill, no messages of other tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.up.embedded_redis import EmbeddedServer
from config.settings import Settings
from worker.runtime.transport import QoS


@pytest.fixture
def no_unrestored_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QoS, "left", set())
    monkeypatch.setattr(QoS, "popped", {})


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """A server that these tests may kill."""
    with EmbeddedServer(appendfsync="always") as one:
        yield one


@pytest.fixture
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting comes from this environment or from an `.env`."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"CALLWATCH_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)

"""Share fixtures of the transport's tests: a server that they may kill, and no messages of other tests."""

from collections.abc import Iterator

import pytest

from cli.up.embedded_redis import EmbeddedServer
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

"""Share fixtures of the fault tests: servers that a test may kill."""

from collections.abc import Iterator

import pytest

from cli.up.embedded_redis import EmbeddedServer
from tests.replication import ReplicaSet


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """A server that flushes its file once a second."""
    with EmbeddedServer(appendfsync="everysec") as one:
        yield one


@pytest.fixture
def servers() -> Iterator[ReplicaSet]:
    """A primary and one replica."""
    with ReplicaSet(1) as both:
        yield both

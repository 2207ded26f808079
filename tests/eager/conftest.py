"""Run the tasks as Celery runs them, on fakeredis under a virtual clock."""

from collections.abc import Iterator

import pytest

from config.settings import Settings
from tests.fakes import virtual_time
from tests.leaks import without_ttl
from tests.world import World


@pytest.fixture
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A new world for each test; settings by indirect parametrisation."""
    with virtual_time() as traveller:
        world = World(traveller, Settings(key_prefix="t", **getattr(request, "param", {})))
        world.install(monkeypatch)
        yield world
        assert without_ttl(world.redis, world.keys) == []

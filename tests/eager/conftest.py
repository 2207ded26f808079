"""The tasks, run as Celery runs them, on fakeredis under a virtual clock."""

from collections.abc import Iterator

import pytest

from config.settings import Settings
from tests.fakes import World, virtual_time


@pytest.fixture
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world of its own for each test; settings by indirect parametrisation."""
    with virtual_time() as traveller:
        world = World(traveller, Settings(key_prefix="t", **getattr(request, "param", {})))
        world.install(monkeypatch)
        yield world
        keys = world.keys
        bounded = {keys.due, keys.finished, keys.pairs, keys.done, keys.events, keys.paused, keys.outage, keys.counters}
        assert [name for name in set(world.redis.scan_iter("*")) - bounded if world.redis.pttl(name) < 0] == []

"""The tasks, run as Celery runs them, on fakeredis under a virtual clock."""

from collections.abc import Iterator

import pytest

from config.settings import Settings
from tests.fakes import World, virtual_time


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    from worker import tasks  # noqa: PLC0415 - after the environment is cleared

    with virtual_time() as traveller:
        world = World(traveller, Settings(key_prefix="t"))
        monkeypatch.setattr(tasks, "parts", lambda: world.parts)
        monkeypatch.setattr(tasks.poll, "apply_async", world.queue.publish)
        yield world
        keys = world.keys
        bounded = {keys.due, keys.finished, keys.pairs, keys.done, keys.events, keys.paused}
        assert [name for name in set(world.redis.scan_iter("*")) - bounded if world.redis.pttl(name) < 0] == []

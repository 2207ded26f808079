"""Run the store's scripts on fakeredis, each only once per content of the store."""

from typing import Any

import fakeredis

from tests.fakeredisserver import fake_server
from tests.faults.exhaustive.flows import SETTINGS
from tests.faults.exhaustive.rules import Violation
from tests.faults.exhaustive.snapshots import Published, Shelf, Snapshot
from tests.faults.exhaustive.state import KEYS
from worker.container import terms
from worker.core.interfaces import StoreUnavailable
from worker.store import RedisStore


class KnownSteps:
    """The real store with a memory of all outcomes; `plain` as in Shelf."""

    def __init__(self, *, plain: bool) -> None:
        server = fake_server()
        client = fakeredis.FakeRedis(server=server, decode_responses=True)
        self.shelf = Shelf(server, KEYS, plain=plain)
        self._store = RedisStore(client, KEYS, terms(SETTINGS))
        self._outcomes: dict[tuple[Snapshot, Any], tuple[Any, Snapshot, list[Published]]] = {}

    def __len__(self) -> int:
        return len(self._outcomes)

    def take(
        self, before: Snapshot, key: Any, name: str, args: Any, kwargs: Any
    ) -> tuple[Any, Snapshot, list[Published]]:
        """Return a script's reply, the new content and the published events.

        `key` stands for its name and arguments.
        """
        known = self._outcomes.get((before, key))
        if known is None:
            self.shelf.put(before)
            try:
                reply = getattr(self._store, name)(*args, **dict(kwargs))
            except StoreUnavailable as error:
                raise Violation(f"{name} cannot be carried out: {error}") from error
            known = self._outcomes[before, key] = (reply, *self.shelf.take())
        return known

"""Run scripts durably: wait until their writes are on disk, also on that of the configured replicas (S18, S41)."""

from collections.abc import Sequence
from typing import Any

import redis
from redis.commands.core import Script

from worker.core.interfaces import StoreUnconfirmed
from worker.store.base import Scripts
from worker.store.connection import Durability, durability_of
from worker.store.keys import Keys
from worker.store.primary import connections_made
from worker.store.terms import Terms

# Milliseconds: less than the 2 s within which a request must follow `sending`. A replica reports once a second what it
# has on disk, and also when it is asked; each WAITAOF asks once. With WAIT before WAITAOF, a replica with `appendfsync
# always` has flushed the write before it is asked. One with `everysec` flushes later and is asked again: a single
# WAITAOF would learn of the flush up to a second late, and hold requests back that are on disk.
LIMIT = 1_500
RECEIVED_LIMIT, ASKED_EVERY = 500, 50
TIMES_ASKED = 24


class DurableScripts(Scripts):
    """Run scripts and confirm their writes; see worker.core.interfaces.Store."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        self._durability: tuple[int, Durability] | None = None

    @property
    def durability(self) -> Durability:
        """How the server confirms that a write is on disk; determined again after each new connection."""
        known, made = self._durability, connections_made(self.client)
        if known is None or known[0] != made:
            with self.translated():
                self._durability = known = made, durability_of(self.client)
        return known[1]

    def run_durably(self, script: Script, keys: Sequence[str], args: Sequence[str | float]) -> tuple[Any, str]:
        """Run a script; return its reply, and why its writes may be lost: an empty text once they are confirmed.

        A server that cannot confirm them at all is no reason: `doctor` and the worker's start report it.
        """
        waits = self._waits()
        if not waits:
            return self.run(script, keys, args), ""
        with self.translated(), self.client.pipeline(transaction=False) as pipeline:
            script(keys, args, client=pipeline)
            for wait in waits:
                pipeline.execute_command(*wait)  # type: ignore[no-untyped-call]
            reply, *_, confirmed = pipeline.execute()
        on_disk, copies = confirmed if isinstance(confirmed, list) else (1, confirmed)
        if not on_disk:
            return reply, "not on disk in time"
        wanted = self.terms.replicas
        return reply, "" if copies >= wanted else f"confirmed by {copies} of {wanted} replicas in time"

    def run_confirmed(self, script: Script, keys: Sequence[str], args: Sequence[str | float]) -> Any:
        """Run a script durably and return its reply; StoreUnconfirmed if its writes may be lost."""
        reply, why = self.run_durably(script, keys, args)
        if why:
            raise StoreUnconfirmed(f"Redis: {why}")
        return reply

    def _waits(self) -> list[tuple[str | int, ...]]:
        """Return the commands that wait for the writes before them on the same connection."""
        replicas = self.terms.replicas
        if self.durability == "waitaof":
            if not replicas:
                return [("WAITAOF", 1, 0, LIMIT)]
            asks: list[tuple[str | int, ...]] = [("WAITAOF", 1, replicas, ASKED_EVERY)] * TIMES_ASKED
            return [("WAIT", replicas, RECEIVED_LIMIT), *asks]  # once confirmed, the later ones return at once
        return [("WAIT", replicas, LIMIT)] if replicas else []

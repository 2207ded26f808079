"""Remember the HTTP requests of back ends under their task ids, and read the state of each."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis
from redis.exceptions import NoScriptError

from worker.core.decision import Phase
from worker.core.model import Pair
from worker.store.base import Scripts
from worker.store.keys import Keys
from worker.store.terms import Terms, milliseconds

# Invariant: a task id stands for one request; the first request under it stays (S42). The task's key comes as ARGV,
# because the gateway may only read it and Redis requires the right to write for KEYS.
REMEMBER = """
local request = unpack(KEYS)
local text, ttl, task = unpack(ARGV)
redis.call('SET', request, text, 'NX', 'PX', ttl)
return {redis.call('GET', request), redis.call('EXISTS', task)}
"""


@dataclass(frozen=True, slots=True)
class Request:
    """A back end's request: sent under the name `client`, `at` (epoch seconds), dropped at `expires`.

    After the erasure of its case both ids are empty.
    """

    client: str
    fingerprint: str
    case_id: str
    mediation_id: str
    at: float
    expires: float


@dataclass(frozen=True, slots=True)
class TriggerState:
    """Phase of a request's pair if the pair's last trigger is this request, and the request's stored result."""

    now: float
    phase: Phase | None
    until: float | None
    result: dict[str, Any] | None


class RequestScripts(Scripts):
    """Store and read requests. All methods raise StoreUnavailable."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        self._remember = self.script(REMEMBER)

    def remember(self, asked: Sequence[tuple[str, Request]]) -> list[tuple[Request, bool]]:
        """Store requests under their task ids, in one round trip.

        Returns for each the request that was stored first, and whether a worker has handled it.
        """
        with self.translated():
            try:
                replies = self._remember_all(asked)
            except NoScriptError:  # the server was started anew; to store a request twice changes nothing
                self.client.script_load(self._remember.script)
                replies = self._remember_all(asked)
        return [(_request(text), bool(handled)) for text, handled in replies]

    def _remember_all(self, asked: Sequence[tuple[str, Request]]) -> list[Any]:
        pipeline = self.client.pipeline(transaction=False)
        for task_id, request in asked:
            lives = milliseconds(self.terms.task_ttl + max(0.0, request.expires - request.at))
            key, task = self.keys.request(task_id), self.keys.task(task_id)
            pipeline.execute_command("EVALSHA", self._remember.sha, 1, key, _text(request), lives, task)  # type: ignore[no-untyped-call]
        return pipeline.execute()

    def request(self, task_id: str) -> Request | None:
        """Return the request under a task id, None where none is kept."""
        with self.translated():
            text = cast("str | None", self.client.get(self.keys.request(task_id)))
        return _request(text) if text is not None else None

    def trigger_state(self, task_id: str, pair: Pair) -> TriggerState:
        """Return the state of a task id's trigger, in one step."""
        with self.translated(), self.client.pipeline() as pipeline:
            pipeline.time()
            pipeline.hmget(self.keys.ledger(pair), ["task_id", "phase", "until"])
            pipeline.get(self.keys.task(task_id))
            (seconds, micros), (owner, phase, until), result = cast("Any", pipeline.execute())
        ours = owner == task_id
        return TriggerState(
            seconds + micros / 1_000_000,
            cast("Phase", phase) if ours and phase else None,
            float(until) if ours and until else None,
            json.loads(result) if result else None,
        )


def _text(request: Request) -> str:
    return json.dumps({name: getattr(request, name) for name in Request.__slots__}, ensure_ascii=False)


def _request(text: str) -> Request:
    return Request(**json.loads(text))

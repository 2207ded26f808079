"""What every step of the store shares: the client, the key names, the times to live, and the Lua prelude."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import redis
from redis.commands.core import Script

from worker.ports import Event, StoreUnavailable
from worker.store.keys import EVENTS_KEPT, HISTORY_KEPT, Keys

PRELUDE = (
    f"local EVENTS_KEPT, HISTORY_KEPT = {EVENTS_KEPT}, {HISTORY_KEPT}"
    """
-- The one clock of all processes: the server's (S18).
local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

local function stamp(t) return string.format('%.3f', t) end

-- A change is told in the step that makes it: once to lookers-on, once to the case's history.
local function emit(events, history, ttl, t, json)
  local entry = '{"at":' .. stamp(t) .. ',' .. string.sub(json, 2)
  redis.call('XADD', events, 'MAXLEN', '~', EVENTS_KEPT, '*', 'event', entry)
  redis.call('RPUSH', history, entry)
  redis.call('LTRIM', history, -HISTORY_KEPT, -1)
  redis.call('PEXPIRE', history, ttl)
end

-- The pair is let go (S5): the lock by its owner's token only, the ledger done, and kept as long as the history.
local function let_go(lock, ledger, pairs_key, done, member, token, ttl, t)
  if redis.call('GET', lock) == token then redis.call('DEL', lock) end
  redis.call('HSET', ledger, 'phase', 'done', 'done_at', stamp(t))
  redis.call('PEXPIRE', ledger, ttl)
  redis.call('ZREM', pairs_key, member)
  redis.call('ZADD', done, t, member)
  redis.call('ZREMRANGEBYSCORE', done, '-inf', t - ttl / 1000)
end
"""
)


@dataclass(frozen=True, slots=True)
class Terms:
    """For how long things are kept and watched, in seconds.

    `lock_ttl` is the net under the lock (S5), `history_ttl` the age to which finished things are kept (S36),
    `max_poll_duration` the length of a watch (S20), `lease` how long after its start a poll counts as missing unless
    it has ended.
    """

    lock_ttl: float
    history_ttl: float
    max_poll_duration: float
    lease: float

    @property
    def task_ttl(self) -> float:
        """Handled triggers are remembered as long as the history, and never shorter than the lock lives (S17)."""
        return max(self.history_ttl, self.lock_ttl)

    @property
    def job_ttl(self) -> float:
        """A record outlives its watch by the history's age."""
        return self.lock_ttl + self.history_ttl


class Steps:
    """Base of the groups of steps."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        self.client = client
        self.keys = keys
        self.terms = terms

    def script(self, source: str) -> Script:
        """Return a step that can be run."""
        return self.client.register_script(PRELUDE + source)

    def run(self, script: Script, keys: Sequence[str], args: Sequence[str | float]) -> Any:
        """Run a step; StoreUnavailable where Redis did not answer well."""
        try:
            return script(keys=keys, args=args)
        except redis.RedisError as error:
            raise StoreUnavailable(f"Redis: {type(error).__name__}: {error}") from error


def milliseconds(seconds: float) -> int:
    """Return a time to live as Redis wants it."""
    return max(1, round(seconds * 1000))


def event_json(event: Event | None) -> str:
    """Return an event as the text that a script completes with its time; an empty one where nothing is to be told."""
    if event is None:
        return ""
    fields = {name: value for name, value in asdict(event).items() if name != "detail" and value != ""}
    return json.dumps(fields | event.detail, ensure_ascii=False)

"""The step that takes away what is kept of a case, and what has to be looked for key by key around it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import redis

from worker.core import texts
from worker.core.messages import TriggerResult
from worker.core.model import Event, Pair
from worker.store.base import event_json
from worker.store.keys import Keys, pair_of
from worker.store.outbox import BATCH, OutboxScripts
from worker.store.terms import Terms, constants

ERASED_RESULT = json.dumps(TriggerResult.of("skipped", "", "", message=texts.ERASED).data, ensure_ascii=False)

# Invariant: nothing is taken away under a call that may be ringing or is being watched, nor, unless a person says so,
# the memory that a pair's next trigger has to look upstream first (S5). What only waits goes: it has rung nobody.
ERASE = """
local history, case_jobs, mediations = unpack(KEYS)
local anyway, event = unpack(ARGV)
local t, members, jobs = now(), redis.call('SMEMBERS', mediations), redis.call('SMEMBERS', case_jobs)
table.sort(members)
for _, member in ipairs(members) do
  local s = redis.call('HMGET', PREFIX .. ':ledger:' .. member, 'phase', 'last_failure_at')
  if s[1] and s[1] ~= 'done' and s[1] ~= 'waiting' then return {'busy', member, s[1]} end
  if redis.call('SCARD', PREFIX .. ':live:' .. member) > 0 then return {'busy', member, 'watching'} end
  local remembered = s[2] and tonumber(s[2]) + LAST_FAILURE_TTL / 1000 or 0
  if anyway == '0' and remembered > t then return {'last_failure', member, stamp(remembered)} end
end
local removed = {'erased', redis.call('LLEN', history), 0, 0}
for _, job in ipairs(jobs) do
  removed[3] = removed[3] + redis.call('DEL', PREFIX .. ':job:' .. job)
  for _, set in ipairs({':finished', ':failing', ':due'}) do redis.call('ZREM', PREFIX .. set, job) end
end
for _, member in ipairs(members) do
  local s = redis.call('HMGET', PREFIX .. ':ledger:' .. member, 'phase', 'task_id')
  if s[1] == 'waiting' then redis.call('SET', PREFIX .. ':task:' .. s[2], ERASED_RESULT, 'PX', TASK_TTL) end
  removed[4] = removed[4] + redis.call('DEL', PREFIX .. ':ledger:' .. member)
  redis.call('DEL', PREFIX .. ':live:' .. member)
  for _, set in ipairs({':pairs', ':done'}) do redis.call('ZREM', PREFIX .. set, member) end
end
redis.call('DEL', history, case_jobs, mediations)
announce(PREFIX .. ':events', t, event)
return removed
"""


@dataclass(frozen=True, slots=True)
class Erased:
    """How many things of a case were taken away: events of its history, records of calls, ledgers of pairs.

    `told` are entries of the stream for lookers-on, `letters` notices that wait or were given up, `triggers` remembered
    results; their task ids stay, without the case, so that a late copy of a trigger still calls nobody (S17).
    """

    events: int
    calls: int
    pairs: int
    told: int
    triggers: int
    letters: int


@dataclass(frozen=True, slots=True)
class NotErased:
    """Why a case must not be erased: `pair` is in `phase`, or its bad end is remembered `until` (epoch seconds)."""

    pair: Pair
    phase: str
    until: float | None = None


class ErasureScripts(OutboxScripts):
    """What is done with all that is kept of a case."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        self._erase = self.script(constants(ERASED_RESULT=ERASED_RESULT) + ERASE)

    def erase(self, case_id: str, *, anyway: bool) -> Erased | NotErased:
        """Take away what is kept of a case, or say why not; `anyway`: also the memory of a bad end (S5).

        What was cut off in the middle is completed by erasing again.
        """
        k = self.keys
        told = event_json(Event("erased", case_id, ""))
        reply: Any = self.run(
            self._erase,
            [k.history(case_id), k.jobs(case_id), k.mediations(case_id)],
            [int(anyway), told],
        )
        if reply[0] == "busy":
            return NotErased(pair_of(reply[1]), reply[2])
        if reply[0] == "last_failure":
            return NotErased(pair_of(reply[1]), "done", float(reply[2]))
        _, events, calls, pairs = reply
        with self.translated():
            triggers = self._forget_triggers(case_id)
            self._forget_requests(case_id)
        letters = self.delete_dead_letters(case_id)
        with self.translated():  # last: a reader has had the time to see that the case was erased
            seen = max(0, self._forget_told(case_id) - 1)
        return Erased(events, calls, pairs, seen, triggers, letters)

    def _forget_told(self, case_id: str) -> int:
        """Take the case's entries out of the stream of lookers-on."""
        return sum(self.client.xdel(self.keys.events, entry) for entry, _ in self.entries(self.keys.events, case_id))

    def _forget_triggers(self, case_id: str) -> int:
        """Let the case's handled triggers stay handled, and hold nothing of it."""
        found = 0
        for name, _ in self._kept(self.keys.task(""), case_id):
            self.client.set(name, ERASED_RESULT, keepttl=True, xx=True)
            found += 1
        return found

    def _forget_requests(self, case_id: str) -> None:
        """Let the case's requests over HTTP keep their ids, so that a repetition is known as one, and nothing more."""
        for name, request in self._kept(self.keys.request(""), case_id):
            text = json.dumps(request | {"case_id": "", "mediation_id": ""}, ensure_ascii=False)
            self.client.set(name, text, keepttl=True, xx=True)

    def _kept(self, prefix: str, case_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the keys under a prefix whose JSON names the case, and what it says."""
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", prefix) + "*"
        for name in self.client.scan_iter(pattern, count=BATCH):
            text = cast("str | None", self.client.get(name))
            kept = json.loads(text) if text is not None else {}
            if kept.get("case_id") == case_id:
                yield name, kept

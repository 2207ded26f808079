"""Erase the records of a case: one script for the records by name, a key scan for the others."""

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

ERASED_RESULT = json.dumps(
    TriggerResult.of("skipped", "", "", message=texts.ERASED, reason="erased").data, ensure_ascii=False
)

# Invariant: no record is erased under a call that may be ringing or is being watched. The last failure, which makes the
# pair's next trigger query upstream first, is erased only on a person's explicit order (S5). Waiting triggers are
# erased: they have not dialled. A case without records is not announced as erased.
ERASE = """
local history, case_jobs, mediations = unpack(KEYS)
local anyway, event = unpack(ARGV)
local t, members, jobs = now(), redis.call('SMEMBERS', mediations), redis.call('SMEMBERS', case_jobs)
table.sort(members)
for _, member in ipairs(members) do
  local s = redis.call('HMGET', PREFIX .. ':ledger:' .. member, 'phase', 'last_failure_at', 'last_failure')
  if s[1] and s[1] ~= 'done' and s[1] ~= 'waiting' then return {'busy', member, s[1]} end
  if redis.call('SCARD', PREFIX .. ':live:' .. member) > 0 then return {'busy', member, 'watching'} end
  local remembered = s[3] and tonumber(s[2]) + LAST_FAILURE_TTL / 1000 or 0
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
if redis.call('DEL', history, case_jobs, mediations) > 0 then announce(PREFIX .. ':events', t, event) end
return removed
"""


@dataclass(frozen=True, slots=True)
class Erased:
    """Numbers of erased records: events of the history, records of calls, ledgers of pairs.

    `live_events` counts entries of the live stream, `notices` outbox entries and dead letters, `triggers` remembered
    results. Their task ids stay, without the case, so that a late duplicate delivery of a trigger still makes no call
    (S17).
    """

    events: int
    calls: int
    pairs: int
    live_events: int
    triggers: int
    notices: int


@dataclass(frozen=True, slots=True)
class NotErased:
    """Reason to keep a case: its `pair` is in `phase`, or its failure is kept `until` (epoch seconds)."""

    pair: Pair
    phase: str
    until: float | None = None


class ErasureScripts(OutboxScripts):
    """Erase all records of a case."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        self._erase = self.script(constants(ERASED_RESULT=ERASED_RESULT) + ERASE)

    def erase(self, case_id: str, *, anyway: bool) -> Erased | NotErased:
        """Erase the records of a case, or return why they must stay; `anyway` also erases the last failure (S5).

        A second run completes an interrupted erasure.
        """
        k = self.keys
        event = event_json(Event("erased", case_id, ""))
        reply: Any = self.run(
            self._erase,
            [k.history(case_id), k.jobs(case_id), k.mediations(case_id)],
            [int(anyway), event],
        )
        if reply[0] == "busy":
            return NotErased(pair_of(reply[1]), reply[2])
        if reply[0] == "last_failure":
            return NotErased(pair_of(reply[1]), "done", float(reply[2]))
        _, events, calls, pairs = reply
        with self.translated():
            triggers = self._blank_triggers(case_id)
            self._blank_requests(case_id)
        notices = self.delete_dead_letters(case_id)
        with self.translated():  # last: observers have had time to read the event `erased`
            seen = self._delete_live_events(case_id)
        return Erased(events, calls, pairs, seen, triggers, notices)

    def _delete_live_events(self, case_id: str) -> int:
        """Delete the case's entries of the live stream; return their number without the event `erased` itself."""
        deleted = 0
        for entry, fields in self.entries(self.keys.events, case_id):
            self.client.xdel(self.keys.events, entry)
            deleted += json.loads(fields["event"]).get("kind") != "erased"
        return deleted

    def _blank_triggers(self, case_id: str) -> int:
        """Keep the case's handled task ids, and delete the data of the case under them."""
        found = 0
        for name, _ in self._kept(self.keys.task(""), case_id):
            self.client.set(name, ERASED_RESULT, keepttl=True, xx=True)
            found += 1
        return found

    def _blank_requests(self, case_id: str) -> None:
        """Keep the ids of the case's HTTP requests, to recognise repetitions; delete the data of the case."""
        for name, request in self._kept(self.keys.request(""), case_id):
            text = json.dumps(request | {"case_id": "", "mediation_id": ""}, ensure_ascii=False)
            self.client.set(name, text, keepttl=True, xx=True)

    def _kept(self, prefix: str, case_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the keys under a prefix whose JSON names the case, with that JSON."""
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", prefix) + "*"
        for name in self.client.scan_iter(pattern, count=BATCH):
            text = cast("str | None", self.client.get(name))
            kept = json.loads(text) if text is not None else {}
            if kept.get("case_id") == case_id:
                yield name, kept

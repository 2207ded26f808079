"""Read many cases in one round trip: calls, pairs and latest events, each case in one atomic script."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import NoScriptError

from worker.core.decision import Phase
from worker.core.model import Call, Pair, Pause
from worker.store.base import Scripts
from worker.store.keys import Keys, pair_of
from worker.store.queries import call_of, stop_of
from worker.store.terms import Terms, constants

CALLS_SHOWN = 100  # calls of one case: the watched ones, then the newest others by id

# Read only. Returns the events after a position of the live stream, searched from the newest end of the history; an
# entry of an earlier release has no id and ends the search. Key names come as ARGV, because Redis requires the right to
# write for KEYS.
READ_CASE = """
local after_ms, after_seq, history, case_jobs, mediations = unpack(ARGV)
after_ms, after_seq = tonumber(after_ms), tonumber(after_seq)
local events, last, at, newest = {}, redis.call('LLEN', history), 0, ''
while at < last do
  local chunk = redis.call('LRANGE', history, -at - 20, -at - 1)
  for i = #chunk, 1, -1 do
    local ms, seq = string.match(chunk[i], '^{"id":"(%d+)-(%d+)"')
    if not ms then last = 0 break end
    if newest == '' then newest = ms .. '-' .. seq end
    ms, seq = tonumber(ms), tonumber(seq)
    if ms < after_ms or (ms == after_ms and seq <= after_seq) then last = 0 break end
    table.insert(events, 1, chunk[i])
  end
  at = at + 20
end
local pairs_found, seen, jobs = {}, {}, {}
local function add(id)
  if not seen[id] then
    seen[id] = true
    local record = redis.call('HGETALL', PREFIX .. ':job:' .. id)
    if #record > 0 then jobs[#jobs + 1] = record end
  end
end
for _, member in ipairs(redis.call('SMEMBERS', mediations)) do
  local s = redis.call('HMGET', PREFIX .. ':ledger:' .. member, 'phase', 'until', 'held_until')
  if s[1] then pairs_found[#pairs_found + 1] = {member, s[1], s[2] or s[3] or ''} end
  for _, id in ipairs(redis.call('SMEMBERS', PREFIX .. ':live:' .. member)) do add(id) end
end
local ids = redis.call('SMEMBERS', case_jobs)
table.sort(ids, function(a, b) return a > b end)
for i = 1, math.min(#ids, CALLS_SHOWN) do add(ids[i]) end
return {newest, events, pairs_found, jobs}
"""


@dataclass(frozen=True, slots=True)
class CasePair:
    """State of a pair's last trigger; `until` (epoch seconds) is set while it waits or is held."""

    pair: Pair
    phase: Phase
    until: float | None


@dataclass(frozen=True, slots=True)
class CaseState:
    """A case as read by one script; `newest` is the id of its newest event, empty where no event is kept.

    `events` are the events after the requested position, the oldest first.
    """

    case_id: str
    newest: str
    events: Sequence[dict[str, Any]]
    pairs: Sequence[CasePair]
    calls: Sequence[Call]


@dataclass(frozen=True, slots=True)
class SystemState:
    """State common to all cases at `now` (epoch seconds): start of the outage, and the stop of new calls."""

    now: float
    outage_since: float | None
    stop: Pause | None


class CaseQueries(Scripts):
    """Read cases for displays. All methods raise StoreUnavailable."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        self._read_case = self.script(constants(CALLS_SHOWN=CALLS_SHOWN) + READ_CASE)

    def read_cases(self, wanted: Sequence[tuple[str, tuple[int, int]]]) -> tuple[SystemState, list[CaseState]]:
        """Return each case with its events after a position (milliseconds, number), in one round trip."""
        with self.translated():
            try:
                replies = self._ask(wanted)
            except NoScriptError:  # a restarted server has no scripts
                self.client.script_load(self._read_case.script)
                replies = self._ask(wanted)
        (seconds, micros), since, stop, *cases = replies
        system = SystemState(seconds + micros / 1_000_000, float(since) if since else None, stop_of(stop))
        return system, [_state(case_id, reply) for (case_id, _), reply in zip(wanted, cases, strict=True)]

    def _ask(self, wanted: Sequence[tuple[str, tuple[int, int]]]) -> list[Any]:
        k = self.keys
        pipeline = self.client.pipeline(transaction=False)
        pipeline.time()
        pipeline.hget(k.outage, "since")
        pipeline.get(k.paused)
        for case_id, (milliseconds, number) in wanted:
            names = (k.history(case_id), k.jobs(case_id), k.mediations(case_id))
            pipeline.execute_command("EVALSHA", self._read_case.sha, 0, milliseconds, number, *names)  # type: ignore[no-untyped-call]
        return pipeline.execute()


def _state(case_id: str, reply: list[Any]) -> CaseState:
    newest, events, pairs, records = reply
    calls = [call_of(dict(zip(record[::2], record[1::2], strict=True))) for record in records]
    return CaseState(
        case_id,
        newest,
        [json.loads(event) for event in events],
        sorted(
            (CasePair(pair_of(member), phase, float(until) if until else None) for member, phase, until in pairs),
            key=lambda one: one.pair.mediation_id,
        ),
        sorted(calls, key=lambda call: (call.started_at, call.job_id)),
    )

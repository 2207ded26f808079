"""Run look-ups in Redis: read the open one, adopt found calls, release an unknown outcome by a person's order."""

import json
from collections.abc import Sequence

import redis

from worker.core.decision import ADOPTION_SLACK, created_at
from worker.core.model import Event, Pair
from worker.core.trigger_model import LookUp, NewJob, Settled
from worker.store.base import event_json
from worker.store.codec import job_fields
from worker.store.durable import DurableScripts
from worker.store.keys import Keys, member
from worker.store.limits import ADMIT, RESERVE
from worker.store.terms import Terms, constants

# Invariant: a found job is not adopted for a lost answer while another mediation of the case may be creating it. A job
# that could belong to two lost answers is watched once and holds both pairs (S14), whichever look-up finds it first,
# until an answer names it. The time of the first answered look-up is kept: the window starts there if upstream was away
# before.
ADOPT = """
local ledger, mediations, events, history = unpack(KEYS, 1, 4)
local member, token, found, answered = unpack(ARGV)
local t = now()
local s = redis.call('HMGET', ledger, 'token', 'lookup', 'sending_at', 'held_until', 'task_id', 'found')
if s[1] ~= token or not s[2] or s[4] then return {} end

local others = {}
for _, other in ipairs(redis.call('SMEMBERS', mediations)) do
  local o = redis.call('HMGET', PREFIX .. ':ledger:' .. other, 'phase', 'lookup', 'sending_at')
  if other ~= member and o[1] == 'sending' then return false end
  if other ~= member and o[2] then others[#others + 1] = {member = other, after = tonumber(o[3]) - ADOPTION_SLACK} end
end
if answered == '1' then redis.call('HSETNX', ledger, 'answered_at', stamp(t)) end

local watched, started_at = {}, tonumber(s[3])
local deadline = started_at + WATCH_DURATION
for i, job in ipairs(cjson.decode(found)) do
  local key = KEYS[4 + i]
  local known = redis.call('HMGET', key, 'poll_no', 'verdict', 'person_id', 'watched_at', 'member', 'shared_with',
    'answered')
  if known[1] then
    local ours = holds(known[5], known[6], member)
    local unclaimed = known[3] == '' and not known[7]
    local newly_held = not ours and not known[2] and unclaimed
    if newly_held then  -- another pair's look-up found it: it may belong to this pair until an answer names its owner
      hold(key, member)
      redis.call('SADD', PREFIX .. ':live:' .. member, job.job_id)
    end
    -- Neither a call on record before the request left nor one that an answer has named is the missing one.
    local found_before = ours and unclaimed and s[6] == '0'
    if (newly_held or found_before) and tonumber(known[4] or t) >= started_at then
      s[6] = redis.call('HINCRBY', ledger, 'found', 1)
    end
  else
    watch(member, s[5] or '', job, t, started_at, deadline)
    watched[#watched + 1] = job.job_id
    redis.call('HINCRBY', ledger, 'found', 1)
    emit(events, history, HISTORY_TTL, t, of_task(job.event, s[5]))
    local shared = {}
    for _, other in ipairs(others) do
      if job.created > other.after then
        shared[#shared + 1] = other.member
        redis.call('SADD', PREFIX .. ':live:' .. other.member, job.job_id)
        redis.call('HINCRBY', PREFIX .. ':ledger:' .. other.member, 'found', 1)
      end
    end
    if #shared > 0 then redis.call('HSET', key, 'shared_with', table.concat(shared, ' ')) end
  end
end
return watched
"""

# Invariant: a person can release only an unknown outcome; found calls stay watched and hold the pair.
RELEASE = """
local ledger, live, pairs_key, events, history = unpack(KEYS)
local member, event = unpack(ARGV)
local t = now()
local s = redis.call('HMGET', ledger, 'phase', 'token', 'lookup', 'task_id')
if not s[1] then return 'absent' end
if s[1] ~= 'unknown' then return s[1] end
emit(events, history, HISTORY_TTL, t, of_task(event, s[4]))
close_look_up(ledger, live, pairs_key, member, s[2], t)
return 'released'
"""


class LookUpScripts(DurableScripts):
    """Look up lost answers; see worker.core.interfaces.Store."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        self._adopt = self.script(constants(ADOPTION_SLACK=ADOPTION_SLACK) + ADOPT)
        self._release = self.script(RELEASE)
        self._reserve = self.script(ADMIT + RESERVE)

    def reserve_query(self, *, longest: float) -> float | None:
        """Reserve a token for one status query outside a poll; return the seconds to wait for it.

        Return None, and take no token, if the wait would exceed `longest` seconds.
        """
        if not self.terms.status_rate:
            return 0
        reply = self.run(self._reserve, [self.keys.bucket("status")], [longest])
        return None if reply is None else float(reply)

    def open_look_up(self, pair: Pair) -> LookUp | None:
        """Return the pair's open look-up, None where none is open."""
        with self.translated():
            token, is_open, sending_at, held_until = self.client.hmget(
                self.keys.ledger(pair), ["token", "lookup", "sending_at", "held_until"]
            )
        return LookUp(str(token), float(sending_at)) if token and is_open and sending_at and not held_until else None

    def adopt(self, pair: Pair, look_up: LookUp, jobs: Sequence[NewJob], *, answered: bool) -> Settled | None:
        """Watch jobs that have no record; return None while another mediation's request may own them (S14).

        `answered` states that upstream answered: the window starts at the first answered look-up.
        """
        k = self.keys
        found = [
            job_fields(job, pair)
            | {
                "created": created_at(job.job_id) or 0,
                "event": event_json(Event("adopted", pair.case_id, pair.mediation_id, job.job_id)),
            }
            for job in jobs
        ]
        reply = self.run(
            self._adopt,
            [
                *(k.ledger(pair), k.mediations(pair.case_id), k.events, k.history(pair.case_id)),
                *(k.job(job.job_id) for job in jobs),
            ],
            [member(pair), look_up.token, json.dumps(found), int(answered)],
        )
        return None if reply is None else Settled(reply)

    def release(self, pair: Pair, *, by: str, why: str) -> str:
        """Release an unknown outcome by a person's order (S14); return `released`, or the phase that forbids it.

        The phase is `absent` for an unknown pair. StoreUnconfirmed if a failover may undo the release (S41).
        """
        k = self.keys
        event = Event("released", pair.case_id, pair.mediation_id, detail={"by": by, "why": why})
        return str(
            self.run_confirmed(
                self._release,
                [k.ledger(pair), k.live(pair), k.pairs, k.events, k.history(pair.case_id)],
                [member(pair), event_json(event)],
            )
        )

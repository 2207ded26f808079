"""End a trigger in Redis: store the outcome of the dial, or defer the trigger until it may call."""

import json
from dataclasses import replace

import redis

from worker.core.model import Event, Pair
from worker.core.trigger_model import Settled, Settlement
from worker.store.base import Scripts, event_json
from worker.store.codec import job_fields
from worker.store.failures import FAILURES_LUA
from worker.store.histograms import OBSERVE
from worker.store.keys import Keys, member
from worker.store.terms import Terms

# Invariant: an answer is stored whole or not at all, and a started call is watched whichever owner has the pair. An
# unknown outcome without a written `sending` (a request that left past the gate) still holds the pair.
SETTLE = """
local lock, ledger, live, task, pairs_key, done, events, history = unpack(KEYS, 1, 8)
local token, task_id, member, phase, look_up, result, answer, sent_at = unpack(ARGV)
local t, new = now(), cjson.decode(answer)
local state = redis.call('HMGET', ledger, 'token', 'phase', 'claimed_at', 'arguments')
local before, watched = state[2] or 'done', {}  -- no ledger: as in phase done
local past_the_gate = phase == 'unknown' and sent_at == ''
-- A request that left past the gate also takes a pair whose owner has sent nothing.
local ours = state[1] == token or past_the_gate and (before == 'claimed' or before == 'waiting' or before == 'done')

-- An unknown outcome is stored when its request leaves, with another reason than a later answer gives.
local function without_reason(json)
  if not string.find(json, '"outcome": "unknown"', 1, true) then return json end
  return (string.gsub(json, '"reason": "[%w_]+", ', '', 1))
end
local stored = without_reason(redis.call('GET', task) or '') == without_reason(result)
-- A duplicate delivery of this trigger may have stored the same result; only the owner of the claim settles the pair.
local unsettled = ours and (before == 'claimed' or before == 'sending')
if stored and not unsettled then return watched end  -- sent twice over a broken connection, or the look-up continues
if not ours and #new.jobs == 0 then return false end
-- The sweep has already made the outcome unknown and published that event, but no refusals.
local unknown_by_sweep = phase == 'unknown' and before == 'unknown'
local pair_event = phase == 'unknown' and 'lose' or 'watch'  -- or release, which is legal in every phase
if (ours or before == 'done') and not unknown_by_sweep then next_phase(pair_event, state[2]) end  -- before any write

local outcome = string.match(result, '"outcome": "(%w+)"')
count('triggers:' .. outcome)
count_reason(result)
if outcome == 'failed' or outcome == 'unknown' then
  note_failures('dial', string.match(result, '"reason": "([%w_]+)"') or '', 1, t)
elseif outcome == 'started' or outcome == 'refused' then
  note_answered_dial(t)
end
for _, event in ipairs(new.events) do
  local published = unknown_by_sweep and string.find(event, '^{"kind": "unknown"')
  if not published then emit(events, history, HISTORY_TTL, t, event) end
end
if sent_at ~= '' then observe('call_latency', t - tonumber(sent_at)) end

-- A request that calls everyone ends the query-first: for a person without a call, an earlier request is the last one.
-- The time of that one stays for the next failure, and for the end of a look-up for calls without a job (S5).
local everyone = string.find(result, '"refused": []', 1, true)
  and not string.find(state[4] or '', '"call_person_id":"[^"]')
if ours and before == 'sending' and outcome == 'started' and everyone then
  redis.call('HDEL', ledger, 'last_failure')
end
local started_at = tonumber(sent_at) or past_the_gate and tonumber(state[3]) or t
local deadline = started_at + WATCH_DURATION
for i, job in ipairs(new.jobs) do
  local key, answered = KEYS[8 + i], sent_at ~= '' or past_the_gate  -- else a query has found the call
  local known = redis.call('HMGET', key, 'poll_no', 'verdict', 'person_id', 'member', 'shared_with')
  if not known[1] then
    watch(member, task_id, job, t, started_at, deadline)
    if answered then redis.call('HSET', key, 'answered', 1) end
    watched[#watched + 1] = job.job_id
  elseif known[2] and known[2] ~= 'ended' and job.watch_again then
    local first = math.min(t + job.first_delay, deadline)
    redis.call('HSET', key, 'poll_no', known[1] + 1, 'retry_count', 0, 'due', stamp(first), 'deadline', stamp(deadline))
    redis.call('HDEL', key, 'verdict', 'finished_at')
    redis.call('PERSIST', key)
    redis.call('SADD', PREFIX .. ':jobs:' .. string.match(member, '^[^:]*'), job.job_id)
    redis.call('ZADD', PREFIX .. ':due', first, job.job_id)
    redis.call('ZREM', PREFIX .. ':finished', job.job_id)
    local new_holder = hold(key, member) and member .. ' ' or ''  -- this pair, unless it holds the call already
    for holder in string.gmatch(new_holder .. known[4] .. ' ' .. (known[5] or ''), '%S+') do
      redis.call('SADD', PREFIX .. ':live:' .. holder, job.job_id)
    end
    watched[#watched + 1] = job.job_id
  else  -- on record before its answer, which names person and mediation; unless ended, it holds this pair too
    if known[3] == '' then redis.call('HSET', key, 'person_id', job.person_id) end
    if known[3] == '' and answered then move(key, member, job.mediation_id, task_id) end
    if answered then redis.call('HSET', key, 'answered', 1) end
    if known[2] ~= 'ended' then hold(key, member) end
    if not known[2] then
      redis.call('SADD', live, job.job_id)
    elseif known[2] ~= 'ended' then
      local since = sent_at == '' and redis.call('HGET', ledger, 'last_failure_since') or stamp(started_at)
      remember_failure(ledger, known[2], t, since)
    end
  end
end
redis.call('SET', task, result, 'PX', TASK_TTL)

if not ours and before ~= 'done' then  -- another owner's pair: its live set holds it, and its task stays handled
  if redis.call('HGET', ledger, 'task_id') == task_id then redis.call('PERSIST', task) end
  return watched
end
if unknown_by_sweep then
  redis.call('PERSIST', task)
  return watched
end
if phase ~= 'unknown' and look_up == '0' and redis.call('SCARD', live) == 0 then
  release_pair(member, token, t)
  return watched
end
if phase == 'done' then phase = 'watching' end  -- an earlier owner's answer came late: its calls are still watched
if past_the_gate then redis.call('DEL', lock) end
redis.call('SET', lock, token, 'PX', LOCK_TTL, 'NX')
enter(ledger, pair_event, state[2], 'token', token, 'task_id', task_id, phase .. '_at', stamp(t))
redis.call('HDEL', ledger, 'lookup', 'held_until', 'answered_at')
local attend_at = deadline + 60  -- the last poll has ended the watch by then; this attention is a safety limit
if phase == 'unknown' then remember_failure(ledger, 'unknown', t, stamp(started_at)) end
if phase == 'unknown' or look_up == '1' then
  redis.call('HSET', ledger, 'sending_at', stamp(started_at), 'lookup', 1, 'lookup_from', stamp(t),
    'found', phase == 'unknown' and #new.jobs or 0)
  attend_at = t
end
for _, key in ipairs({ledger, task}) do redis.call('PERSIST', key) end
hold_case(member)
redis.call('ZADD', pairs_key, attend_at, member)
redis.call('ZREM', done, member)
return watched
"""

# Invariant: a waiting trigger holds no lock; its ledger keeps everything it needs later and outlives the wait. If its
# owner has written `sending` and not sent, only the owner knows that: the task then counts as not handled.
DEFER = """
local lock, ledger, pairs_key, events, history = unpack(KEYS)
local member, token, wait_until, event = unpack(ARGV)
local state = redis.call('HMGET', ledger, 'token', 'phase', 'expires', 'task_id')
if state[1] == token and state[2] == 'waiting' then return 1 end  -- this deferral, sent twice
if redis.call('GET', lock) ~= token or state[1] ~= token then return 0 end
if state[2] ~= 'claimed' and state[2] ~= 'sending' then return 0 end
local t, ends = now(), tonumber(state[3] or '') or math.huge
redis.call('DEL', lock, PREFIX .. ':task:' .. state[4])
redis.call('ZREM', PREFIX .. ':dialled', state[4])
enter(ledger, 'defer', state[2], 'until', wait_until, 'waiting_at', stamp(t),
  'reason', string.match(event, '"reason": "([%w_]+)"'))
redis.call('HDEL', ledger, 'requeued', 'republished')
redis.call('ZADD', pairs_key, math.min(tonumber(wait_until), ends), member)
count('triggers:deferred')
count_reason(event)
emit(events, history, HISTORY_TTL, t, event)
return 1
"""


class SettlementScripts(Scripts):
    """Settle and defer triggers; see worker.core.interfaces.Store."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        self._settle = self.script(OBSERVE + FAILURES_LUA + SETTLE)
        self._defer = self.script(DEFER)

    def defer(self, pair: Pair, token: str, *, until: float, event: Event) -> bool:
        """Defer a claimed trigger until `until` (epoch seconds); return False if another owner has the claim."""
        k = self.keys
        reply = self.run(
            self._defer,
            [k.lock(pair), k.ledger(pair), k.pairs, k.events, k.history(pair.case_id)],
            [member(pair), token, f"{until:.3f}", event_json(event)],
        )
        return bool(reply)

    def settle(self, settlement: Settlement) -> Settled | None:
        """Store the outcome of a dial; return None if another owner has the claim and no call was started."""
        k, pair = self.keys, settlement.pair
        answer = {
            "jobs": [job_fields(job, pair) for job in settlement.jobs],
            "events": [event_json(replace(event, task_id=settlement.task_id)) for event in settlement.events],
        }
        reply = self.run(
            self._settle,
            [
                *(k.lock(pair), k.ledger(pair), k.live(pair), k.task(settlement.task_id), k.pairs, k.done),
                *(k.events, k.history(pair.case_id)),
                *(k.job(job.job_id) for job in settlement.jobs),
            ],
            [
                *(settlement.token, settlement.task_id, member(pair), settlement.phase, int(settlement.look_up)),
                *(json.dumps(settlement.result.data, ensure_ascii=False), json.dumps(answer, ensure_ascii=False)),
                settlement.sent_at or "",
            ],
        )
        return None if reply is None else Settled(reply)

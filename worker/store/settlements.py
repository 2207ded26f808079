"""The last steps of a trigger in Redis: store what the dial came to, or let it wait for a time when it may call."""

import json

import redis

from worker.core.model import Event, Pair, Settled, Settlement
from worker.store.base import Scripts, event_json
from worker.store.codec import job_fields
from worker.store.histograms import OBSERVE
from worker.store.keys import Keys, member
from worker.store.terms import Terms

# Invariant: an answer is stored whole or not at all, and a started call is watched whoever owns the pair by now.
# An unknown outcome of which no `sending` was written (a request that left past the gate) holds the pair all the same.
SETTLE = """
local lock, ledger, live, task, pairs_key, done, events, history = unpack(KEYS, 1, 8)
local token, task_id, member, phase, look_up, result, answer, sent_at = unpack(ARGV)
local t, new = now(), cjson.decode(answer)
local state = redis.call('HMGET', ledger, 'token', 'phase', 'claimed_at')
local before, watched = state[2] or 'done', {}
local past_the_gate = phase == 'unknown' and sent_at == ''
local ours = state[1] == token or past_the_gate and (before == 'claimed' or before == 'waiting' or before == 'done')

local stored = redis.call('GET', task) == result  -- of an unknown outcome it was when the request left
-- A copy of this trigger may have said the same; the pair is settled by the one that has the claim.
local unsettled = ours and (before == 'claimed' or before == 'sending')
if stored and not unsettled then return watched end  -- sent twice over a broken connection, or the look-up goes on
if not ours and #new.jobs == 0 then return false end

count('triggers:' .. string.match(result, '"outcome": "(%w+)"'))
local resumed = phase == 'unknown' and before == 'unknown'  -- the sweep has made it unknown; refusals were not told
for _, event in ipairs(new.events) do
  if not (resumed and string.find(event, '^{"kind": "unknown"')) then emit(events, history, HISTORY_TTL, t, event) end
end
if sent_at ~= '' then observe('call_latency', t - tonumber(sent_at)) end

local started_at = tonumber(sent_at) or past_the_gate and tonumber(state[3]) or t
local deadline = started_at + WATCH_DURATION
for i, job in ipairs(new.jobs) do
  local key = KEYS[8 + i]
  local known = redis.call('HMGET', key, 'poll_no', 'verdict', 'person_id', 'member', 'shared_with')
  if not known[1] then
    watch(member, task_id, job, t, started_at, deadline)
    watched[#watched + 1] = job.job_id
  elseif known[2] and known[2] ~= 'ended' and job.watch_again then
    local first = math.min(t + job.first_delay, deadline)
    redis.call('HSET', key, 'poll_no', known[1] + 1, 'retry_count', 0, 'due', stamp(first), 'deadline', stamp(deadline))
    redis.call('HDEL', key, 'verdict', 'finished_at')
    redis.call('PERSIST', key)
    redis.call('SADD', PREFIX .. ':jobs:' .. string.match(member, '^[^:]*'), job.job_id)
    redis.call('ZADD', PREFIX .. ':due', first, job.job_id)
    redis.call('ZREM', PREFIX .. ':finished', job.job_id)
    local others = hold(key, member) and member .. ' ' or ''
    for holder in string.gmatch(others .. known[4] .. ' ' .. (known[5] or ''), '%S+') do
      redis.call('SADD', PREFIX .. ':live:' .. holder, job.job_id)
    end
    watched[#watched + 1] = job.job_id
  else  -- known before its answer came: it names person and mediation, and holds this pair as well unless it has ended
    if known[3] == '' then redis.call('HSET', key, 'person_id', job.person_id) end
    if known[3] == '' and (sent_at ~= '' or past_the_gate) then move(key, member, job.mediation_id, task_id) end
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
if resumed then
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
enter(ledger, phase == 'unknown' and 'lose' or 'watch', state[2], 'token', token, 'task_id', task_id,
  phase .. '_at', stamp(t))
redis.call('HDEL', ledger, 'lookup', 'held_until', 'answered_at')
local attend_at = deadline + 60  -- its last poll has ended the watch by then; this look is the net beneath it
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

# Invariant: a trigger that waits holds no lock; all that it needs later stands in its ledger, which outlives the wait.
# Its owner may have written `sending` and not sent, and alone knows that: its task is then not handled after all.
DEFER = """
local lock, ledger, pairs_key, events, history = unpack(KEYS)
local member, token, wait_until, event = unpack(ARGV)
local state = redis.call('HMGET', ledger, 'token', 'phase', 'expires', 'task_id')
if state[1] == token and state[2] == 'waiting' then return 1 end  -- this very step, sent twice
if redis.call('GET', lock) ~= token or state[1] ~= token then return 0 end
if state[2] ~= 'claimed' and state[2] ~= 'sending' then return 0 end
local t, ends = now(), tonumber(state[3] or '') or math.huge
redis.call('DEL', lock, PREFIX .. ':task:' .. state[4])
redis.call('ZREM', PREFIX .. ':dialled', state[4])
enter(ledger, 'defer', state[2], 'until', wait_until, 'waiting_at', stamp(t))
redis.call('HDEL', ledger, 'requeued', 'republished')
redis.call('ZADD', pairs_key, math.min(tonumber(wait_until), ends), member)
count('triggers:deferred')
emit(events, history, HISTORY_TTL, t, event)
return 1
"""


class SettlementScripts(Scripts):
    """Settling and deferring; see worker.core.interfaces.Store."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        self._settle = self.script(OBSERVE + SETTLE)
        self._defer = self.script(DEFER)

    def defer(self, pair: Pair, token: str, *, until: float, event: Event) -> bool:
        """Let a claimed trigger wait until then (epoch seconds); False where the claim is another owner's."""
        k = self.keys
        reply = self.run(
            self._defer,
            [k.lock(pair), k.ledger(pair), k.pairs, k.events, k.history(pair.case_id)],
            [member(pair), token, f"{until:.3f}", event_json(event)],
        )
        return bool(reply)

    def settle(self, settlement: Settlement) -> Settled | None:
        """Store what a dial came to; None where the claim has passed to another owner and no call was started."""
        k, pair = self.keys, settlement.pair
        answer = {
            "jobs": [job_fields(job, pair) for job in settlement.jobs],
            "events": [event_json(event) for event in settlement.events],
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

"""The steps of a trigger in Redis: claim the pair, write `sending`, store what the dial came to."""

import json
from typing import Literal

import redis

from worker import texts
from worker.decision import Poll
from worker.messages import TriggerResult
from worker.ports import Answered, Claimed, Copy, Pair, Settled, Settlement
from worker.store.base import Steps, Terms, event_json, milliseconds
from worker.store.keys import Keys, member

CLAIM_STALE_AFTER = 30  # seconds: a claim that has not sent by then has lost its owner (S18)

# Invariant: of all triggers of a pair one alone holds its lock, and a task that was handled is never handled again.
CLAIM = """
local lock, ledger, task, paused, live, pairs_key = unpack(KEYS)
local token, task_id, arguments, enabled, member, job_prefix = unpack(ARGV, 1, 6)
local lock_ttl, task_ttl, stale_after = unpack(ARGV, 7, 9)
local skipped_head, skipped_tail, disabled = unpack(ARGV, 10, 12)

local handled = redis.call('GET', task)
if handled then return {'handled', handled} end

local t = now()
local state = redis.call('HMGET', ledger, 'phase', 'task_id', 'claimed_at', 'requeued')
local phase, holder = state[1], redis.call('GET', lock)
if holder == token then return {'claimed'} end  -- this very step, sent twice over a broken connection

local function take()
  redis.call('SET', lock, token, 'PX', lock_ttl)
  redis.call('DEL', ledger)
  redis.call('HSET', ledger, 'phase', 'claimed', 'token', token, 'task_id', task_id, 'arguments', arguments,
    'claimed_at', stamp(t))
  redis.call('PEXPIRE', ledger, lock_ttl)
  redis.call('ZADD', pairs_key, t, member)
  return {'claimed'}
end

if phase and phase ~= 'done' and state[2] == task_id then
  local abandoned = state[4] or t > tonumber(state[3]) + tonumber(stale_after)
  if phase == 'claimed' and abandoned then return take() end
  return {'copy'}
end

if holder or (phase and phase ~= 'done') then
  local jobs = {}
  for _, id in ipairs(redis.call('SMEMBERS', live)) do
    local r = redis.call('HMGET', job_prefix .. id, 'person_id', 'call_status')
    jobs[#jobs + 1] = cjson.encode({job_id = id, person_id = r[1] or '', call_status = r[2] or ''})
  end
  table.sort(jobs)
  local result = skipped_head .. '[' .. table.concat(jobs, ',') .. ']' .. skipped_tail
  redis.call('SET', task, result, 'PX', task_ttl)
  return {'skipped', result}
end

if enabled == '0' or redis.call('EXISTS', paused) == 1 then
  redis.call('SET', task, disabled, 'PX', task_ttl)
  return {'disabled', disabled}
end

if not redis.call('SET', lock, token, 'NX', 'PX', lock_ttl) then return {'copy'} end
return take()
"""

# Invariant: the request leaves only under a claim that is still ours, while new calls are not stopped.
BEGIN_SENDING = """
local lock, ledger, paused, pairs_key = unpack(KEYS)
local token, member, lock_ttl = unpack(ARGV)
local state = redis.call('HMGET', ledger, 'token', 'phase')
local ours = redis.call('GET', lock) == token and state[1] == token
if not ours or not (state[2] == 'claimed' or state[2] == 'sending') then return 'taken' end
if redis.call('EXISTS', paused) == 1 then return 'paused' end
local t = now()
redis.call('HSET', ledger, 'phase', 'sending', 'sending_at', stamp(t))
redis.call('PEXPIRE', lock, lock_ttl)
redis.call('PEXPIRE', ledger, lock_ttl)
redis.call('ZADD', pairs_key, t, member)
return stamp(t)
"""

# Invariant: an answer is stored whole or not at all, and a started call is watched whoever owns the pair by now.
SETTLE = """
local lock, ledger, live, task, pairs_key, done, due, events, history, case_jobs = unpack(KEYS, 1, 10)
local token, task_id, member, phase, result, answer = unpack(ARGV, 1, 6)
local lock_ttl, task_ttl, history_ttl, job_ttl, duration, sent_at = unpack(ARGV, 7, 12)
local t, new = now(), cjson.decode(answer)
local state = redis.call('HMGET', ledger, 'token', 'phase')
local ours = state[1] == token
if not ours and #new.jobs == 0 then return false end

local deadline = (tonumber(sent_at) or t) + tonumber(duration)
local reply = {stamp(t)}
for i, job in ipairs(new.jobs) do
  local key = KEYS[10 + i]
  if redis.call('EXISTS', key) == 0 then
    local first = math.min(t + job.first_delay, deadline)
    redis.call('HSET', key, 'started_at', sent_at, 'watched_at', stamp(t), 'deadline', stamp(deadline),
      'due', stamp(first), 'poll_no', 1, 'retry_count', 0, unpack(job.fields))
    redis.call('PEXPIRE', key, job_ttl)
    redis.call('ZADD', due, first, job.job_id)
    redis.call('SADD', live, job.job_id)
    redis.call('SADD', case_jobs, job.job_id)
    if job.executing then redis.call('HSET', key, 'executing_since', stamp(t)) end
    for _, field in ipairs({job.job_id, stamp(first), stamp(deadline)}) do reply[#reply + 1] = field end
  end
end
redis.call('PEXPIRE', live, lock_ttl)
redis.call('PEXPIRE', case_jobs, job_ttl)
for _, event in ipairs(new.events) do emit(events, history, history_ttl, t, event) end
redis.call('SET', task, result, 'PX', task_ttl)

if not ours and state[2] and state[2] ~= 'done' then return reply end  -- another owner's pair: its live set holds it
if phase == 'done' and redis.call('SCARD', live) == 0 then
  let_go(lock, ledger, pairs_key, done, member, token, history_ttl, t)
  return reply
end
if phase == 'done' then phase = 'watching' end  -- an earlier owner's answer came late: its calls are still watched
redis.call('SET', lock, token, 'NX', 'PX', lock_ttl)
redis.call('HSET', ledger, 'phase', phase, 'token', token, 'task_id', task_id, phase .. '_at', stamp(t))
if phase == 'unknown' then redis.call('HSET', ledger, 'trouble', 'unknown', 'trouble_at', stamp(t)) end
redis.call('PEXPIRE', ledger, lock_ttl)
redis.call('ZADD', pairs_key, t, member)
redis.call('ZREM', done, member)
return reply
"""


class TriggerSteps(Steps):
    """Claiming, sending and settling; see worker.ports.Store."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        self._claim = self.script(CLAIM)
        self._begin_sending = self.script(BEGIN_SENDING)
        self._settle = self.script(SETTLE)

    def claim(
        self, pair: Pair, *, token: str, task_id: str, arguments: str, enabled: bool
    ) -> Claimed | Answered | Copy:
        """Take the pair for a new call, or say why not (S4, S16, S17)."""
        k = self.keys
        case_id, mediation_id = pair.case_id, pair.mediation_id
        skipped = TriggerResult.of("skipped", case_id, mediation_id, message=texts.ALREADY_ACTIVE)
        head, tail = json.dumps(skipped.data, ensure_ascii=False).split('"jobs": []')
        disabled = TriggerResult.of("disabled", case_id, mediation_id, message=texts.DISABLED)
        reply = self.run(
            self._claim,
            [k.lock(pair), k.ledger(pair), k.task(task_id), k.paused, k.live(pair), k.pairs],
            [
                *(token, task_id, arguments, int(enabled), member(pair), k.job("")),
                *(milliseconds(self.terms.lock_ttl), milliseconds(self.terms.task_ttl), CLAIM_STALE_AFTER),
                *(head + '"jobs": ', tail, json.dumps(disabled.data, ensure_ascii=False)),
            ],
        )
        match reply:
            case ["claimed"]:
                return Claimed()
            case ["copy"]:
                return Copy()
            case [why, text]:
                return Answered(why, TriggerResult(json.loads(text)))
            case _:
                raise AssertionError(f"claim answered {reply!r}")

    def begin_sending(self, pair: Pair, token: str) -> float | Literal["paused", "taken"]:
        """Write `sending` and return the store's time, or say why nothing may be sent (S16, S18)."""
        k = self.keys
        reply: str = self.run(
            self._begin_sending,
            [k.lock(pair), k.ledger(pair), k.paused, k.pairs],
            [token, member(pair), milliseconds(self.terms.lock_ttl)],
        )
        return reply if reply in ("paused", "taken") else float(reply)  # type: ignore[return-value]

    def settle(self, settlement: Settlement) -> Settled | None:
        """Store what a dial came to; None where the claim has passed to another owner and no call was started."""
        k, pair, terms = self.keys, settlement.pair, self.terms
        answer = {
            "jobs": [
                {
                    "job_id": job.job_id,
                    "first_delay": job.first_delay,
                    "executing": job.call_status == "Executing",
                    "fields": [
                        *("job_id", job.job_id, "person_id", job.person_id, "call_status", job.call_status),
                        *("case_id", pair.case_id, "mediation_id", pair.mediation_id),
                    ],
                }
                for job in settlement.jobs
            ],
            "events": [event_json(event) for event in settlement.events],
        }
        reply = self.run(
            self._settle,
            [
                *(k.lock(pair), k.ledger(pair), k.live(pair), k.task(settlement.task_id), k.pairs, k.done, k.due),
                *(k.events, k.history(pair.case_id), k.jobs(pair.case_id)),
                *(k.job(job.job_id) for job in settlement.jobs),
            ],
            [
                *(settlement.token, settlement.task_id, member(pair), settlement.phase),
                *(json.dumps(settlement.result.data, ensure_ascii=False), json.dumps(answer, ensure_ascii=False)),
                *(milliseconds(terms.lock_ttl), milliseconds(terms.task_ttl), milliseconds(terms.history_ttl)),
                *(milliseconds(terms.job_ttl), terms.max_poll_duration, settlement.sent_at or ""),
            ],
        )
        if reply is None:
            return None
        now, *started = reply
        polls = {
            job_id: Poll(poll_no=1, due=float(due), deadline=float(deadline), retry_count=0)
            for job_id, due, deadline in zip(*[iter(started)] * 3, strict=True)
        }
        return Settled(float(now), polls)

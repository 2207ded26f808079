"""The steps of a trigger in Redis: claim the pair, write `sending`, store what the dial came to."""

import functools
import json
from typing import Any, Literal

import redis

from worker import texts
from worker.decision import Poll
from worker.messages import TriggerResult
from worker.ports import StoreUnavailable
from worker.store.base import TROUBLE_REMEMBERED, Steps, Terms, event_json, milliseconds
from worker.store.durability import Durability, durability_of
from worker.store.histograms import OBSERVE
from worker.store.keys import Keys, member
from worker.values import Answered, Claimed, Copy, NewJob, Pair, Settled, Settlement

CLAIM_STALE_AFTER = 30  # seconds: a claim that has not sent by then has lost its owner (S18)
FSYNC_WAIT = 1_500  # milliseconds a dial waits for `sending` to be on disk: within the 2 s of its gate

REFUSALS = ("paused", "taken", "watched")

# Invariant: of all triggers of a pair one alone holds its lock, and a task that was handled is never handled again.
CLAIM = """
local lock, ledger, task, paused, live, pairs_key, mediations = unpack(KEYS)
local token, task_id, arguments, expires, enabled, member, job_prefix = unpack(ARGV, 1, 7)
local lock_ttl, task_ttl, job_ttl, stale_after, remembered = unpack(ARGV, 8, 12)
local skipped_head, skipped_tail, disabled = unpack(ARGV, 13, 15)

local state = redis.call('HMGET', ledger, 'phase', 'task_id', 'claimed_at', 'requeued')
local phase, holder = state[1], redis.call('GET', lock)
local handled = redis.call('GET', task)
if handled and not (phase == 'sending' and state[2] == task_id) then
  count('triggers:handled')
  return {'handled', handled}
end

local t = now()
local function claimed()
  return {'claimed', redis.call('HGET', ledger, 'trouble_since') or ''}
end
local function take()
  local trouble = redis.call('HMGET', ledger, 'trouble', 'trouble_at', 'trouble_since')
  redis.call('SET', lock, token, 'PX', lock_ttl)
  redis.call('DEL', ledger)
  redis.call('HSET', ledger, 'phase', 'claimed', 'token', token, 'task_id', task_id, 'arguments', arguments,
    'expires', expires, 'claimed_at', stamp(t))
  if trouble[1] and t - tonumber(trouble[2]) <= tonumber(remembered) then
    redis.call('HSET', ledger, 'trouble', trouble[1], 'trouble_at', trouble[2], 'trouble_since', trouble[3])
  end
  redis.call('PEXPIRE', ledger, job_ttl)
  redis.call('SADD', mediations, member)
  redis.call('PEXPIRE', mediations, job_ttl)
  redis.call('ZADD', pairs_key, t + tonumber(stale_after), member)
  return claimed()
end

if holder == token then return claimed() end  -- this very step, sent twice over a broken connection

if phase and phase ~= 'done' and state[2] == task_id then
  local abandoned = state[4] or t > tonumber(state[3]) + tonumber(stale_after)
  if phase == 'claimed' and abandoned then return take() end
  count('triggers:copy')
  return {'copy'}
end

if holder or (phase and phase ~= 'done') or redis.call('SCARD', live) > 0 then
  local jobs = {}
  for _, id in ipairs(redis.call('SMEMBERS', live)) do
    local r = redis.call('HMGET', job_prefix .. id, 'person_id', 'call_status')
    jobs[#jobs + 1] = cjson.encode({job_id = id, person_id = r[1] or '', call_status = r[2] or ''})
  end
  table.sort(jobs)
  local result = skipped_head .. '[' .. table.concat(jobs, ',') .. ']' .. skipped_tail
  redis.call('SET', task, result, 'PX', task_ttl)
  count('triggers:skipped')
  return {'skipped', result}
end

if enabled == '0' or redis.call('EXISTS', paused) == 1 then
  redis.call('SET', task, disabled, 'PX', task_ttl)
  count('triggers:disabled')
  return {'disabled', disabled}
end

if not redis.call('SET', lock, token, 'NX', 'PX', lock_ttl) then return {'copy'} end
return take()
"""

# Invariant: the request leaves only under a claim that is still ours, while new calls are not stopped and no call of
# the pair is being watched (an earlier owner's late answer may have brought one). From here on its task counts as
# handled, whatever becomes of the ledger: delivered again days later, it does not dial (S17).
BEGIN_SENDING = """
local lock, ledger, live, paused, pairs_key = unpack(KEYS)
local prefix, token, member, sending_limit, unknown, lock_ttl, task_ttl, job_ttl = unpack(ARGV)
local state = redis.call('HMGET', ledger, 'token', 'phase', 'task_id')
local ours = redis.call('GET', lock) == token and state[1] == token
if not ours or not (state[2] == 'claimed' or state[2] == 'sending') then return 'taken' end
if redis.call('SCARD', live) > 0 then return 'watched' end
if redis.call('EXISTS', paused) == 1 then return 'paused' end
local t = now()
redis.call('HSET', ledger, 'phase', 'sending', 'sending_at', stamp(t))
redis.call('HDEL', ledger, 'trouble', 'trouble_at', 'trouble_since')
redis.call('SET', prefix .. ':task:' .. state[3], unknown, 'PX', task_ttl)
redis.call('PEXPIRE', lock, lock_ttl)
redis.call('PEXPIRE', ledger, job_ttl)
redis.call('ZADD', pairs_key, t + tonumber(sending_limit), member)
count('call_requests')
return stamp(t)
"""

# Invariant: an answer is stored whole or not at all, and a started call is watched whoever owns the pair by now.
SETTLE = """
local lock, ledger, live, task, pairs_key, done, events, history, case_jobs = unpack(KEYS, 1, 9)
local prefix, token, task_id, member, phase, look_up, result, answer = unpack(ARGV, 1, 8)
local lock_ttl, task_ttl, history_ttl, job_ttl, duration, sent_at = unpack(ARGV, 9, 14)
local t, new = now(), cjson.decode(answer)
local state = redis.call('HMGET', ledger, 'token', 'phase')
local ours = state[1] == token
if not ours and #new.jobs == 0 then return false end

count('triggers:' .. string.match(result, '"outcome": "(%w+)"'))
if sent_at ~= '' then observe('call_latency', t - tonumber(sent_at)) end

local started_at = tonumber(sent_at) or t
local deadline = started_at + tonumber(duration)
local reply = {stamp(t)}
for i, job in ipairs(new.jobs) do
  local key, first = KEYS[9 + i], nil
  local known = redis.call('HMGET', key, 'poll_no', 'verdict', 'person_id', 'member', 'also')
  if not known[1] then
    first = watch(prefix, member, task_id, job, t, started_at, deadline, job_ttl)
    reply[#reply + 1] = '1'
  elseif known[2] and known[2] ~= 'ended' and job.watch_again then
    first = math.min(t + job.first_delay, deadline)
    redis.call('HSET', key, 'poll_no', known[1] + 1, 'retry_count', 0, 'due', stamp(first), 'deadline', stamp(deadline))
    redis.call('HDEL', key, 'verdict', 'finished_at')
    redis.call('PEXPIRE', key, job_ttl)
    redis.call('ZADD', prefix .. ':due', first, job.job_id)
    redis.call('ZREM', prefix .. ':finished', job.job_id)
    for holder in string.gmatch(known[4] .. ' ' .. (known[5] or ''), '%S+') do
      redis.call('SADD', prefix .. ':live:' .. holder, job.job_id)
      redis.call('PEXPIRE', prefix .. ':live:' .. holder, job_ttl)
    end
    reply[#reply + 1] = tostring(known[1] + 1)
  else  -- known before its answer came: it names the person, and holds this pair as well unless it has ended
    if known[3] == '' then redis.call('HSET', key, 'person_id', job.person_id) end
    local holds = known[4] .. ' ' .. (known[5] or '')
    if known[2] ~= 'ended' and not string.find(' ' .. holds .. ' ', ' ' .. member .. ' ', 1, true) then
      redis.call('HSET', key, 'also', (known[5] or '') .. ' ' .. member)
    end
    if not known[2] then
      redis.call('SADD', live, job.job_id)
    elseif known[2] ~= 'ended' then
      redis.call('HSET', ledger, 'trouble', known[2], 'trouble_at', stamp(t), 'trouble_since', stamp(started_at))
    end
  end
  if first then
    redis.call('SADD', case_jobs, job.job_id)
    for _, field in ipairs({job.job_id, stamp(first), stamp(deadline)}) do reply[#reply + 1] = field end
  end
end
redis.call('PEXPIRE', live, job_ttl)
redis.call('PEXPIRE', case_jobs, job_ttl)
for _, event in ipairs(new.events) do emit(events, history, history_ttl, t, event) end
redis.call('SET', task, result, 'PX', task_ttl)

if not ours and state[2] and state[2] ~= 'done' then return reply end  -- another owner's pair: its live set holds it
if phase ~= 'unknown' and look_up == '0' and redis.call('SCARD', live) == 0 then
  let_go(prefix, member, token, history_ttl, t)
  return reply
end
if phase == 'done' then phase = 'watching' end  -- an earlier owner's answer came late: its calls are still watched
redis.call('SET', lock, token, 'NX', 'PX', lock_ttl)
redis.call('HSET', ledger, 'phase', phase, 'token', token, 'task_id', task_id, phase .. '_at', stamp(t))
redis.call('HDEL', ledger, 'lookup', 'held_until')
local attend_at = deadline + 60
if phase == 'unknown' then
  redis.call('HSET', ledger, 'trouble', 'unknown', 'trouble_at', stamp(t), 'trouble_since', stamp(started_at))
end
if phase == 'unknown' or look_up == '1' then
  redis.call('HSET', ledger, 'sending_at', stamp(started_at), 'lookup', 1, 'lookup_from', stamp(t), 'found', 0)
  attend_at = t
end
redis.call('PEXPIRE', ledger, job_ttl)
redis.call('ZADD', pairs_key, attend_at, member)
redis.call('ZREM', done, member)
return reply
"""


class TriggerSteps(Steps):
    """Claiming, sending and settling; see worker.ports.Store."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        self._claim = self.script(CLAIM)
        self._begin_sending = self.script(BEGIN_SENDING)
        self._settle = self.script(OBSERVE + SETTLE)

    def claim(
        self, pair: Pair, *, token: str, task_id: str, arguments: str, expires: float | None, enabled: bool
    ) -> Claimed | Answered | Copy:
        """Take the pair for a new call, or say why not (S4, S16, S17)."""
        k, terms = self.keys, self.terms
        case_id, mediation_id = pair.case_id, pair.mediation_id
        skipped = TriggerResult.of("skipped", case_id, mediation_id, message=texts.ALREADY_ACTIVE)
        head, tail = json.dumps(skipped.data, ensure_ascii=False).split('"jobs": []')
        disabled = TriggerResult.of("disabled", case_id, mediation_id, message=texts.DISABLED)
        reply = self.run(
            self._claim,
            [
                *(k.lock(pair), k.ledger(pair), k.task(task_id), k.paused, k.live(pair), k.pairs),
                k.mediations(case_id),
            ],
            [
                *(token, task_id, arguments, expires or "", int(enabled), member(pair), k.job("")),
                *(milliseconds(terms.lock_ttl), milliseconds(terms.task_ttl), milliseconds(terms.job_ttl)),
                *(CLAIM_STALE_AFTER, TROUBLE_REMEMBERED),
                *(head + '"jobs": ', tail, json.dumps(disabled.data, ensure_ascii=False)),
            ],
        )
        match reply:
            case ["claimed", since]:
                return Claimed(float(since) if since else None)
            case ["copy"]:
                return Copy()
            case [why, text]:
                return Answered(why, TriggerResult(json.loads(text)))
            case _:
                raise AssertionError(f"claim answered {reply!r}")

    @functools.cached_property
    def durability(self) -> Durability:
        """How this server says that `sending` is on disk."""
        with self.translated():
            return durability_of(self.client)

    def begin_sending(self, pair: Pair, token: str) -> float | Literal["paused", "taken", "watched"]:
        """Write `sending`, see it on disk, and return the store's time, or say why nothing may be sent (S16, S18)."""
        k, terms = self.keys, self.terms
        keys = [k.lock(pair), k.ledger(pair), k.live(pair), k.paused, k.pairs]
        unknown = TriggerResult.of("unknown", pair.case_id, pair.mediation_id, message=texts.OUTCOME_UNKNOWN)
        args: list[str | float] = [
            *(k.prefix, token, member(pair), terms.sending_limit, json.dumps(unknown.data, ensure_ascii=False)),
            *(milliseconds(terms.lock_ttl), milliseconds(terms.task_ttl), milliseconds(terms.job_ttl)),
        ]
        step = self._durably if self.durability == "waitaof" else self._plainly
        reply = step(keys, args)
        return reply if reply in REFUSALS else float(reply)  # type: ignore[return-value]

    def _plainly(self, keys: list[str], args: list[str | float]) -> str:
        return str(self.run(self._begin_sending, keys, args))

    def _durably(self, keys: list[str], args: list[str | float]) -> str:
        """Run the step and wait, on the same connection, until the server says that it is on disk."""
        with self.translated(), self.client.pipeline(transaction=False) as pipeline:
            self._begin_sending(keys, args, client=pipeline)
            pipeline.execute_command("WAITAOF", 1, 0, FSYNC_WAIT)  # type: ignore[no-untyped-call]
            reply, (on_disk, _) = pipeline.execute()
        if not on_disk and reply not in REFUSALS:
            raise StoreUnavailable(f"Redis: not on disk within {FSYNC_WAIT} ms")
        return str(reply)

    def settle(self, settlement: Settlement) -> Settled | None:
        """Store what a dial came to; None where the claim has passed to another owner and no call was started."""
        k, pair, terms = self.keys, settlement.pair, self.terms
        answer = {
            "jobs": [job_fields(job, pair) for job in settlement.jobs],
            "events": [event_json(event) for event in settlement.events],
        }
        reply = self.run(
            self._settle,
            [
                *(k.lock(pair), k.ledger(pair), k.live(pair), k.task(settlement.task_id), k.pairs, k.done),
                *(k.events, k.history(pair.case_id), k.jobs(pair.case_id)),
                *(k.job(job.job_id) for job in settlement.jobs),
            ],
            [
                *(k.prefix, settlement.token, settlement.task_id, member(pair), settlement.phase),
                int(settlement.look_up),
                *(json.dumps(settlement.result.data, ensure_ascii=False), json.dumps(answer, ensure_ascii=False)),
                *(milliseconds(terms.lock_ttl), milliseconds(terms.task_ttl), milliseconds(terms.history_ttl)),
                *(milliseconds(terms.job_ttl), terms.max_poll_duration, settlement.sent_at or ""),
            ],
        )
        return settled(reply)


def job_fields(job: NewJob, pair: Pair) -> dict[str, Any]:
    """Return a job as the scripts read it."""
    return {
        "job_id": job.job_id,
        "first_delay": job.first_delay,
        "executing": job.call_status == "Executing",
        "watch_again": job.watch_again,
        "person_id": job.person_id,
        "fields": [
            *("job_id", job.job_id, "person_id", job.person_id, "call_status", job.call_status),
            *("case_id", pair.case_id, "mediation_id", pair.mediation_id),
        ],
    }


def settled(reply: list[str] | None) -> Settled | None:
    """Return a script's list of first polls as a value."""
    if reply is None:
        return None
    now, *started = reply
    polls = {
        job_id: Poll(poll_no=int(number), due=float(due), deadline=float(deadline), retry_count=0)
        for number, job_id, due, deadline in zip(*[iter(started)] * 4, strict=True)
    }
    return Settled(float(now), polls)

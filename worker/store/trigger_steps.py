"""The first steps of a trigger in Redis: claim the pair, write `sending`."""

import functools
import json
from typing import Literal

import redis

from worker import texts
from worker.messages import TriggerResult
from worker.outcomes import deferred
from worker.ports import StoreUnavailable
from worker.store.base import TROUBLE_REMEMBERED, Steps, Terms, milliseconds
from worker.store.durability import Durability, durability_of
from worker.store.keys import Keys, member
from worker.store.limits import ADMIT
from worker.values import Answered, Claimed, Copy, Later, Pair

CLAIM_STALE_AFTER = 30  # seconds: a claim that has not sent by then has lost its owner (S18)
FSYNC_WAIT = 1_500  # milliseconds a dial waits for `sending` to be on disk: within the 2 s of its gate

REFUSALS = ("paused", "taken", "watched", "closed")

# Invariant: of all triggers of a pair one alone holds its lock, and a task that was handled is never handled again.
# One trigger waits for each pair, the one that expires last; it is claimed when its time has come, unless stopped.
CLAIM = """
local lock, ledger, task, paused, live, pairs_key, mediations = unpack(KEYS)
local token, task_id, arguments, expires, enabled, member, job_prefix = unpack(ARGV, 1, 7)
local lock_ttl, task_ttl, job_ttl, stale_after, remembered = unpack(ARGV, 8, 12)
local skipped_head, skipped_tail, disabled, deferred_head = unpack(ARGV, 13, 16)

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
local function take()  -- what is remembered of the last trigger, and a place among those who wait, outlive it
  local trouble = redis.call('HMGET', ledger, 'trouble', 'trouble_at', 'trouble_since', 'slot')
  redis.call('SET', lock, token, 'PX', lock_ttl)
  redis.call('DEL', ledger)
  redis.call('HSET', ledger, 'phase', 'claimed', 'token', token, 'task_id', task_id, 'arguments', arguments,
    'expires', expires, 'claimed_at', stamp(t))
  if trouble[1] and t - tonumber(trouble[2]) <= tonumber(remembered) then
    redis.call('HSET', ledger, 'trouble', trouble[1], 'trouble_at', trouble[2], 'trouble_since', trouble[3])
  end
  if trouble[4] then redis.call('HSET', ledger, 'slot', trouble[4]) end
  redis.call('PEXPIRE', ledger, job_ttl)
  redis.call('SADD', mediations, member)
  keep(mediations, job_ttl)
  redis.call('ZADD', pairs_key, t + tonumber(stale_after), member)
  return claimed()
end

if holder == token then return claimed() end  -- this very step, sent twice over a broken connection

if phase == 'waiting' then
  local stopped = enabled == '0' or redis.call('EXISTS', paused) == 1
  local waits = redis.call('HMGET', ledger, 'until', 'expires')
  local due = tonumber(waits[1]) <= t
  if state[2] == task_id and due and not stopped then
    redis.call('DEL', lock)
    return take()
  end
  local result = deferred_head .. waits[1] .. '}'
  if state[2] ~= task_id then
    local ends = expires == '' and math.huge or tonumber(expires)
    local other = waits[2] == '' and math.huge or tonumber(waits[2])
    local answered = task_id
    if ends >= other then
      answered = state[2]
      redis.call('HSET', ledger, 'task_id', task_id, 'arguments', arguments, 'expires', expires)
      redis.call('HDEL', ledger, 'requeued')
      redis.call('ZADD', pairs_key, math.min(tonumber(waits[1]), ends), member)
    end
    redis.call('SET', PREFIX .. ':task:' .. answered, result, 'PX', task_ttl)
  end
  count('triggers:deferred')
  return {'deferred', result}
end

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

# Invariant: who looks upstream before its call keeps its claim while nobody else has it, and never takes it back.
RENEW = """
local lock, ledger, pairs_key = unpack(KEYS)
local token, member, stale_after = unpack(ARGV)
if redis.call('GET', lock) ~= token or redis.call('HGET', ledger, 'phase') ~= 'claimed' then return 0 end
local t = now()
redis.call('HSET', ledger, 'claimed_at', stamp(t))
redis.call('ZADD', pairs_key, t + tonumber(stale_after), member)
return 1
"""

# Invariant: the request leaves only under a claim that is still ours, while new calls are not stopped and no call of
# the pair is being watched (an earlier owner's late answer may have brought one). From here on its task counts as
# handled, whatever becomes of the ledger: delivered again days later, it does not dial (S17).
BEGIN_SENDING = """
local lock, ledger, live, paused, pairs_key, bucket = unpack(KEYS)
local prefix, token, member, sending_limit, unknown, lock_ttl, task_ttl, job_ttl, rate, closes = unpack(ARGV)
local state = redis.call('HMGET', ledger, 'token', 'phase', 'task_id', 'slot')
local ours = redis.call('GET', lock) == token and state[1] == token
if not ours or not (state[2] == 'claimed' or state[2] == 'sending') then return 'taken' end
if redis.call('SCARD', live) > 0 then return 'watched' end
if redis.call('EXISTS', paused) == 1 then return 'paused' end
local t = now()
if closes ~= '' and t >= tonumber(closes) then return 'closed' end
if tonumber(rate) > 0 and state[2] == 'claimed' then
  local wait, at = admit(bucket, tonumber(rate), t, state[4] and tonumber(state[4]) or nil, 0)
  if not wait then
    redis.call('HSET', ledger, 'slot', fine(at))
    return 'later ' .. stamp(t) .. ' ' .. stamp(at)
  end
end
redis.call('HSET', ledger, 'phase', 'sending', 'sending_at', stamp(t))
redis.call('HDEL', ledger, 'trouble', 'trouble_at', 'trouble_since', 'slot')
redis.call('SET', prefix .. ':task:' .. state[3], unknown, 'PX', task_ttl)
redis.call('PEXPIRE', lock, lock_ttl)
redis.call('PEXPIRE', ledger, job_ttl)
redis.call('ZADD', pairs_key, t + tonumber(sending_limit), member)
count('call_requests')
return stamp(t)
"""


class TriggerSteps(Steps):
    """Claiming and sending; see worker.ports.Store."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        self._claim = self.script(CLAIM)
        self._renew = self.script(RENEW)
        self._begin_sending = self.script(ADMIT + BEGIN_SENDING)

    def claim(
        self, pair: Pair, *, token: str, task_id: str, arguments: str, expires: float | None, enabled: bool
    ) -> Claimed | Answered | Copy:
        """Take the pair for a new call, or say why not (S4, S16, S17)."""
        k, terms = self.keys, self.terms
        case_id, mediation_id = pair.case_id, pair.mediation_id
        skipped = TriggerResult.of("skipped", case_id, mediation_id, message=texts.ALREADY_ACTIVE)
        head, tail = json.dumps(skipped.data, ensure_ascii=False).split('"jobs": []')
        disabled = TriggerResult.of("disabled", case_id, mediation_id, message=texts.DISABLED)
        waits = json.dumps(deferred(pair, 0).data, ensure_ascii=False).removesuffix("0}")
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
                *(head + '"jobs": ', tail, json.dumps(disabled.data, ensure_ascii=False), waits),
            ],
        )
        match reply:
            case ["claimed", since]:
                return Claimed(float(since) if since else None)
            case ["copy"]:
                return Copy()
        why, text = reply
        return Answered(why, TriggerResult(json.loads(text)))

    def renew(self, pair: Pair, token: str) -> bool:
        """Let a claim begin anew, for its owner is at work; False where it is another owner's, or nobody's (S18)."""
        k = self.keys
        keys = [k.lock(pair), k.ledger(pair), k.pairs]
        return bool(self.run(self._renew, keys, [token, member(pair), CLAIM_STALE_AFTER]))

    @functools.cached_property
    def durability(self) -> Durability:
        """How this server says that `sending` is on disk."""
        with self.translated():
            return durability_of(self.client)

    def begin_sending(
        self, pair: Pair, token: str, *, closes: float | None = None
    ) -> float | Later | Literal["paused", "taken", "watched", "closed"]:
        """Write `sending`, see it on disk, and return the store's time, or say why nothing may be sent (S16, S18).

        Nothing is sent from `closes` (epoch seconds) on, nor without a token of the limit of requests.
        """
        k, terms = self.keys, self.terms
        keys = [k.lock(pair), k.ledger(pair), k.live(pair), k.paused, k.pairs, k.bucket("dial")]
        unknown = TriggerResult.of("unknown", pair.case_id, pair.mediation_id, message=texts.OUTCOME_UNKNOWN)
        args: list[str | float] = [
            *(k.prefix, token, member(pair), terms.sending_limit, json.dumps(unknown.data, ensure_ascii=False)),
            *(milliseconds(terms.lock_ttl), milliseconds(terms.task_ttl), milliseconds(terms.job_ttl)),
            *(terms.dial_rate, closes or ""),
        ]
        step = self._durably if self.durability == "waitaof" else self._plainly
        reply = step(keys, args)
        if reply.startswith("later"):
            _, now, at = reply.split()
            return Later(float(now), float(at))
        return reply if reply in REFUSALS else float(reply)  # type: ignore[return-value]

    def _plainly(self, keys: list[str], args: list[str | float]) -> str:
        return str(self.run(self._begin_sending, keys, args))

    def _durably(self, keys: list[str], args: list[str | float]) -> str:
        """Run the step and wait, on the same connection, until the server says that it is on disk."""
        with self.translated(), self.client.pipeline(transaction=False) as pipeline:
            self._begin_sending(keys, args, client=pipeline)
            pipeline.execute_command("WAITAOF", 1, 0, FSYNC_WAIT)  # type: ignore[no-untyped-call]
            reply, (on_disk, _) = pipeline.execute()
        if not on_disk and str(reply)[0].isdigit():
            raise StoreUnavailable(f"Redis: not on disk within {FSYNC_WAIT} ms")
        return str(reply)

"""Start a trigger in Redis: claim the pair, then write `sending`."""

import json
from dataclasses import replace
from typing import Literal

import redis

from worker.core import texts
from worker.core.dial_result import deferred, not_called
from worker.core.interfaces import StoreUnconfirmed
from worker.core.messages import TriggerResult
from worker.core.model import Pair
from worker.core.trigger_model import ClaimAnswered, Claimed, DuplicateDelivery, RetryAt
from worker.store.base import event_json
from worker.store.durable import DurableScripts
from worker.store.keys import Keys, member
from worker.store.limits import ADMIT
from worker.store.promotion_lua import PROMOTION
from worker.store.terms import Terms, constants

CLAIM_STALE_AFTER = 30  # seconds: a claim older than that and not `sending` has lost its owner (S18)

REFUSALS = ("paused", "taken", "watched", "closed")

# Invariant: only one trigger of a pair holds its lock, and a handled task is never handled again. A pair that is listed
# as open but has no ledger may be ringing: its claim queries upstream first (S18). So does a claim after a replica was
# promoted, because records may be older than reality (S41). At most one trigger waits per pair, the first one; an equal
# trigger extends its expiry, any other is skipped.
CLAIM = """
local lock, ledger, task, paused, live, pairs_key = unpack(KEYS)
local token, task_id, arguments, expires, enabled, member, skipped_head, skipped_tail, disabled, deferred,
  disabled_event, handled_before = unpack(ARGV)

local state = redis.call('HMGET', ledger, 'phase', 'task_id', 'claimed_at', 'requeued', 'era')
local phase, lock_token = state[1], redis.call('GET', lock)
local handled = redis.call('GET', task)
if handled and not (phase == 'sending' and state[2] == task_id) then
  count('triggers:handled')
  return {'handled', handled}
end
-- A delivery after its result expired does not dial again: the broker kept the message for weeks without a worker, or a
-- process was suspended for more than a day between receiving the message and this claim.
local at_work = state[2] == task_id and phase ~= 'done'
if not at_work and redis.call('ZSCORE', PREFIX .. ':dialled', task_id) then
  count('triggers:handled')
  return {'handled', handled_before}
end

local t = now()
local is_outdated, era, noticed_at = outdated(t, state[5])
local function claimed()
  local last = redis.call('HMGET', ledger, 'last_failure', 'last_failure_since')
  return {'claimed', last[1] and last[2] or ''}
end
-- Lock the pair and start a new ledger; keep the last failure, the retry time of the rate limit and, for the same task,
-- the number of its republications.
local function take()
  local last =
    redis.call('HMGET', ledger, 'last_failure', 'last_failure_at', 'last_failure_since', 'rate_slot', 'republished')
  local without_ledger = not phase and redis.call('ZSCORE', pairs_key, member)
  redis.call('SET', lock, token, 'PX', LOCK_TTL)
  redis.call('DEL', ledger)
  enter(ledger, 'claim', phase, 'token', token, 'task_id', task_id, 'arguments', arguments, 'expires', expires,
    'claimed_at', stamp(t))
  if era and era ~= '0' then redis.call('HSET', ledger, 'era', era) end
  if without_ledger or is_outdated then
    remember_failure(ledger, 'unknown', t, '0')
  elseif last[2] and t - tonumber(last[2]) <= LAST_FAILURE_TTL / 1000 then
    redis.call('HSET', ledger, 'last_failure_at', last[2], 'last_failure_since', last[3])
    if last[1] then redis.call('HSET', ledger, 'last_failure', last[1]) end
  end
  if last[4] then redis.call('HSET', ledger, 'rate_slot', last[4]) end
  if last[5] and phase == 'claimed' and state[2] == task_id then redis.call('HSET', ledger, 'republished', last[5]) end
  hold_case(member)
  redis.call('ZADD', pairs_key, t + STALE_AFTER, member)
  return claimed()
end
local function skip()
  local jobs = {}
  for _, id in ipairs(redis.call('SMEMBERS', live)) do
    local r = redis.call('HMGET', PREFIX .. ':job:' .. id, 'person_id', 'call_status')
    jobs[#jobs + 1] = cjson.encode({job_id = id, person_id = r[1] or '', call_status = r[2] or ''})
  end
  table.sort(jobs)
  local result = skipped_head .. '[' .. table.concat(jobs, ',') .. ']' .. skipped_tail
  redis.call('SET', task, result, 'PX', TASK_TTL)
  count('triggers:skipped')
  count_reason(result)
  return {'skipped', result}
end

if lock_token == token then return claimed() end  -- this claim, sent twice over a broken connection

if phase == 'waiting' then
  local stopped = enabled == '0' or redis.call('EXISTS', paused) == 1
  local waits = redis.call('HMGET', ledger, 'until', 'expires', 'arguments', 'reason')
  local due = tonumber(waits[1]) <= t
  if state[2] == task_id and due and not stopped then
    redis.call('DEL', lock)
    return take()
  end
  if state[2] ~= task_id and waits[3] ~= arguments then return skip() end
  local result = string.gsub(deferred, '"reason": "[%w_]+"', '"reason": "' .. (waits[4] or 'calling_hours') .. '"', 1)
  result = string.gsub(result, '"deferred_until": 0', '"deferred_until": ' .. waits[1], 1)
  if state[2] ~= task_id then
    local ends = expires == '' and math.huge or tonumber(expires)
    local other = waits[2] == '' and math.huge or tonumber(waits[2])
    if ends > other then
      redis.call('HSET', ledger, 'expires', expires)
      redis.call('ZADD', pairs_key, math.min(tonumber(waits[1]), ends), member)
    end
    redis.call('SET', task, result, 'PX', TASK_TTL)
  end
  count('triggers:deferred')
  count_reason(result)
  return {'deferred', result}
end

if phase and phase ~= 'done' and state[2] == task_id then
  local stale_at = is_outdated and math.max(state[3], noticed_at) + SENDING_LIMIT or state[3] + STALE_AFTER
  local abandoned = state[4] or t > stale_at
  if phase == 'claimed' and abandoned then return take() end
  count('triggers:copy')
  return {'copy'}
end

if lock_token or (phase and phase ~= 'done') or redis.call('SCARD', live) > 0 then return skip() end

if enabled == '0' or redis.call('EXISTS', paused) == 1 then
  redis.call('SET', task, disabled, 'PX', TASK_TTL)
  count('triggers:disabled')
  count_reason(disabled)
  emit(PREFIX .. ':events', PREFIX .. ':history:' .. string.match(member, '^[^:]*'), HISTORY_TTL, t, disabled_event)
  return {'disabled', disabled}
end

-- The lock is free here (see `lock_token`), so NX does not fail.
if not redis.call('SET', lock, token, 'NX', 'PX', LOCK_TTL) then return {'copy'} end
return take()
"""

# Invariant: an owner keeps its claim while it works (each dial attempt and each query renews it) and never takes a lost
# claim back. An owner that has written `sending` and provably sent nothing is still the owner.
RENEW = """
local lock, ledger, pairs_key = unpack(KEYS)
local token, member = unpack(ARGV)
local state = redis.call('HMGET', ledger, 'token', 'phase')
if redis.call('GET', lock) ~= token or state[1] ~= token then return 0 end
if state[2] == 'sending' then return 1 end
if state[2] ~= 'claimed' then return 0 end
local t = now()
redis.call('HSET', ledger, 'claimed_at', stamp(t))
redis.call('ZADD', pairs_key, t + STALE_AFTER, member)
return 1
"""

# Invariant: a request leaves only under the owner's own claim, while new calls are not stopped and no call of the pair
# is being watched (an earlier owner's late answer may have started a watch). From here on its task counts as handled
# until the pair is done and for a day more: a redelivery weeks later does not dial (S18).
BEGIN_SENDING = """
local lock, ledger, live, paused, pairs_key, bucket = unpack(KEYS)
local token, member, unknown, closes = unpack(ARGV)
local state = redis.call('HMGET', ledger, 'token', 'phase', 'task_id', 'rate_slot')
local ours = redis.call('GET', lock) == token and state[1] == token
if not ours or not (state[2] == 'claimed' or state[2] == 'sending') then return 'taken' end
if redis.call('SCARD', live) > 0 then return 'watched' end
if redis.call('EXISTS', paused) == 1 then return 'paused' end
local t = now()
if closes ~= '' and t >= tonumber(closes) then return 'closed' end
if DIAL_RATE > 0 and state[2] == 'claimed' then
  local wait, at = admit(bucket, DIAL_RATE, t, state[4] and tonumber(state[4]) or nil, 0)
  if not wait then
    redis.call('HSET', ledger, 'rate_slot', fine(at))
    return 'later ' .. stamp(t) .. ' ' .. stamp(at)
  end
end
enter(ledger, 'send', state[2], 'sending_at', stamp(t))
redis.call('HDEL', ledger, 'rate_slot', 'requeued', 'republished')
redis.call('SET', PREFIX .. ':task:' .. state[3], unknown)
redis.call('ZADD', PREFIX .. ':dialled', t, state[3])
redis.call('PEXPIRE', lock, LOCK_TTL)
redis.call('ZADD', pairs_key, t + SENDING_LIMIT, member)
count('call_requests')
return stamp(t)
"""


class ClaimScripts(DurableScripts):
    """Claim pairs and write `sending`; see worker.core.interfaces.Store."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        stale = constants(STALE_AFTER=CLAIM_STALE_AFTER)
        self._claim = self.script(stale + PROMOTION + CLAIM)
        self._renew = self.script(stale + RENEW)
        self._begin_sending = self.script(ADMIT + BEGIN_SENDING)

    def claim(
        self,
        pair: Pair,
        *,
        token: str,
        task_id: str,
        arguments: str,
        expires: float | None,
        enabled: bool,
    ) -> Claimed | ClaimAnswered | DuplicateDelivery:
        """Claim the pair for a new call, or return why the trigger may not call (S4, S16, S17).

        A task id whose request left within the last 31 days does not dial again (S18).
        """
        k = self.keys
        case_id, mediation_id = pair.case_id, pair.mediation_id
        active, handled = texts.ALREADY_ACTIVE, texts.HANDLED_BEFORE
        skipped = TriggerResult.of("skipped", case_id, mediation_id, message=active, reason="active_call")
        head, tail = json.dumps(skipped.data, ensure_ascii=False).split('"jobs": []')
        stopped = not_called("disabled", pair, texts.DISABLED, "disabled", "paused")
        handled_before = TriggerResult.of("skipped", case_id, mediation_id, message=handled, reason="handled_before")
        disabled_event = event_json(replace(stopped.events[0], task_id=task_id))
        waiting = deferred(pair, 0, "calling_hours")
        reply = self.run(
            self._claim,
            [k.lock(pair), k.ledger(pair), k.task(task_id), k.paused, k.live(pair), k.pairs],
            [
                *(token, task_id, arguments, expires or "", int(enabled), member(pair)),
                *(head + '"jobs": ', tail, json.dumps(stopped.result.data, ensure_ascii=False)),
                *(json.dumps(waiting.data, ensure_ascii=False), disabled_event),
                json.dumps(handled_before.data, ensure_ascii=False),
            ],
        )
        match reply:
            case ["claimed", since]:
                return Claimed(float(since) if since else None)
            case ["copy"]:
                return DuplicateDelivery()
        why, text = reply
        return ClaimAnswered(why, TriggerResult(json.loads(text)))

    def renew(self, pair: Pair, token: str) -> bool:
        """Renew the claim of a working owner; return False if the pair has another owner or none (S18)."""
        k = self.keys
        keys = [k.lock(pair), k.ledger(pair), k.pairs]
        return bool(self.run(self._renew, keys, [token, member(pair)]))

    def begin_sending(
        self, pair: Pair, token: str, *, closes: float | None = None
    ) -> float | RetryAt | Literal["paused", "taken", "watched", "closed"]:
        """Write `sending`, wait until it is on disk, return the store's time or why no request may leave (S16, S18).

        No request may leave at `closes` (epoch seconds) or later, or while throttled by the rate limit of requests.
        StoreUnconfirmed if the disk of the server or of the configured replicas does not confirm the write (S41).
        """
        k = self.keys
        keys = [k.lock(pair), k.ledger(pair), k.live(pair), k.paused, k.pairs, k.bucket("dial")]
        unknown = not_called("unknown", pair, texts.OUTCOME_UNKNOWN, "unknown", "sender_died").result
        args: list[str | float] = [
            *(token, member(pair), json.dumps(unknown.data, ensure_ascii=False), closes or ""),
        ]
        reply, unconfirmed = self.run_durably(self._begin_sending, keys, args)
        if unconfirmed and str(reply)[0].isdigit():
            raise StoreUnconfirmed(f"Redis: {unconfirmed}")
        if reply.startswith("later"):
            _, now, at = reply.split()
            return RetryAt(float(now), float(at))
        return reply if reply in REFUSALS else float(reply)

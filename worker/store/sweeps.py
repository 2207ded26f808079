"""Run the sweep's scripts in Redis: the leader lock, and pairs that need attention."""

import json
from collections.abc import Iterator
from typing import Literal

import redis

from worker.core import texts
from worker.core.dial_result import not_called
from worker.core.model import Event, EventKind, Pair
from worker.core.trigger_model import AbandonedClaim
from worker.store.base import Scripts, event_json
from worker.store.claims import CLAIM_STALE_AFTER
from worker.store.keys import DIALLED_KEPT, Keys, member, pair_of
from worker.store.promotion_lua import PROMOTION
from worker.store.terms import Terms, constants, milliseconds

LONGEST_WAIT_OF_TRIGGER = 600  # seconds between publications of an abandoned trigger, against floods
MOST_REPUBLICATIONS = 5  # publications of a claim that never reached `sending` (S18)
LOOK_UP_SELDOM = 60  # seconds between two look-ups after a whole window without an answer (S14) …
UNANSWERED_FOR = 86_400  # … for that many seconds

# Invariant: one worker at a time holds the leader lock of the sweep; its acquisition is remembered longer than the lock
# lives (S28).
ACQUIRE_SWEEP_LOCK = """
local sweeper, swept = unpack(KEYS)
local owner, ttl = unpack(ARGV)
if not redis.call('SET', sweeper, owner, 'NX', 'PX', ttl) then return 0 end
redis.call('SET', swept, stamp(now()) .. ' ' .. owner, 'EX', 86400)
outdated(now())  -- notices a promotion within a sweep interval
return 1
"""

# Invariant: a pair leaves a phase here only when its owner cannot act any more: its token is replaced, or its time has
# passed (S18). Upstream's silence proves nothing, so look-ups without an answer do not end the window (S14).
ATTEND = """
local lock, ledger, live, pairs_key, events, history = unpack(KEYS)
local member, token, unknown_event, nothing_event, unasked_event, released_event, expired_event, failed_event, failed,
  expired_result = unpack(ARGV)
local t, due = now(), redis.call('ZSCORE', pairs_key, member)
if not due or tonumber(due) > t then return {'none'} end  -- another sweep has attended to it
local names = {'phase', 'token', 'task_id', 'arguments', 'expires', 'claimed_at', 'sending_at', 'lookup', 'lookup_from',
  'found', 'held_until', 'until', 'answered_at', 'republished', 'era'}
local s = {}
for i, value in ipairs(redis.call('HMGET', ledger, unpack(names))) do s[names[i]] = value or nil end
-- A claim that a promoted replica knows may have become `sending` on the former primary: its request gets time to end.
local stale_after = STALE_AFTER
if s.phase == 'claimed' then
  local is_outdated, _, noticed_at = outdated(t, s.era)
  if is_outdated then s.claimed_at, stale_after = math.max(s.claimed_at, noticed_at), SENDING_LIMIT end
end
local function later(at) redis.call('ZADD', pairs_key, at, member) end
local function notify(event) emit(events, history, HISTORY_TTL, t, of_task(event, s.task_id)) end
local function close() close_look_up(ledger, live, pairs_key, member, s.token, t) end
local function query_upstream(after)
  later(t + after)
  return {'look'}
end

if not s.phase then  -- the ledger is lost, telephones may be ringing: the next trigger queries upstream first (S18)
  s.token = redis.call('GET', lock) or token
  redis.call('HSET', ledger, 'token', s.token)
  remember_failure(ledger, 'unknown', t, '0')
  close()
  return {'none'}
end
if s.phase == 'done' then
  redis.call('ZREM', pairs_key, member)
  return {'none'}
end

-- Publish again at growing intervals, until the trigger expires.
local function publish_again()
  local times = redis.call('HINCRBY', ledger, 'republished', 1)
  redis.call('HSET', ledger, 'requeued', 1)
  later(t + math.min(STALE_AFTER * 2 ^ times, LONGEST_WAIT))
  count('requeued')
  return {'requeue', s.task_id, s.arguments, s.expires or ''}
end
local expired = s.expires and s.expires ~= '' and t > tonumber(s.expires)

if s.phase == 'waiting' and not expired then
  local due = tonumber(s['until'])
  if t < due then later(math.min(due, tonumber(s.expires or '') or math.huge)) return {'none'} end
  if redis.call('EXISTS', PREFIX .. ':paused') == 1 then later(t + STALE_AFTER) return {'none'} end
  return publish_again()
end

if s.phase == 'waiting' or s.phase == 'claimed' and t > s.claimed_at + stale_after and expired then  -- too late to call
  redis.call('HDEL', ledger, 'until', 'reason', 'rate_slot')
  redis.call('SET', PREFIX .. ':task:' .. s.task_id, expired_result, 'NX')  -- the result of an earlier owner stays
  release_pair(member, s.token, t)
  count_reason(expired_event)
  notify(expired_event)
  return {'none'}
end

if s.phase == 'claimed' then
  if t <= s.claimed_at + stale_after then later(s.claimed_at + stale_after) return {'none'} end
  local task = PREFIX .. ':task:' .. s.task_id
  if redis.call('EXISTS', task) == 1 then  -- an earlier owner has finished after all
    close()
    return {'none'}
  end
  if tonumber(s.republished or '0') >= MOST_REPUBLICATIONS then  -- it crashes its workers, or never reaches the request
    redis.call('SET', task, failed)
    count('triggers:failed')
    count_reason(failed)
    release_pair(member, s.token, t)
    notify(failed_event)
    return {'none'}
  end
  redis.call('HSET', ledger, 'token', token)
  redis.call('SET', lock, token, 'PX', LOCK_TTL)
  return publish_again()
end

if s.phase == 'sending' then
  if t <= s.sending_at + SENDING_LIMIT then later(s.sending_at + SENDING_LIMIT) return {'none'} end
  enter(ledger, 'lose', s.phase, 'unknown_at', stamp(t), 'lookup', 1, 'lookup_from', stamp(t), 'found', 0)
  remember_failure(ledger, 'unknown', t, s.sending_at)
  count_reason(unknown_event)
  notify(unknown_event)
  s.lookup, s.lookup_from, s.found = '1', t, 0
end

if s.lookup and s.held_until then
  if t < tonumber(s.held_until) then later(s.held_until) return {'none'} end
  notify(released_event)
  close()
  return {'none'}
end
if s.lookup then
  local answered, ends = tonumber(s.answered_at or ''), s.lookup_from + LOOK_UP_WINDOW
  if answered and answered > ends then ends = answered + LOOK_UP_WINDOW end
  if t < ends then return query_upstream(INTERVAL) end
  if not answered and t < s.lookup_from + UNANSWERED_FOR then return query_upstream(RARE_INTERVAL) end
  if tonumber(s.found) == 0 then
    redis.call('HSET', ledger, 'held_until', stamp(t + HOLD_DURATION))
    later(t + HOLD_DURATION)
    notify(answered and nothing_event or unasked_event)
    return {'none'}
  end
end
close()
return {'none'}
"""


class SweepScripts(Scripts):
    """Sweep pairs; see worker.core.interfaces.Store."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        self._acquire_lock = self.script(PROMOTION + ACQUIRE_SWEEP_LOCK)
        names = constants(
            STALE_AFTER=CLAIM_STALE_AFTER,
            LONGEST_WAIT=LONGEST_WAIT_OF_TRIGGER,
            MOST_REPUBLICATIONS=MOST_REPUBLICATIONS,
            RARE_INTERVAL=max(terms.interval, LOOK_UP_SELDOM),
            UNANSWERED_FOR=UNANSWERED_FOR,
        )
        self._attend = self.script(names + PROMOTION + ATTEND)

    def acquire_sweep_lock(self, owner: str, interval: float) -> bool:
        """Acquire the leader lock of the sweep for `interval` seconds; False if another worker holds it (S28)."""
        return bool(self.run(self._acquire_lock, [self.keys.sweeper, self.keys.swept], [owner, milliseconds(interval)]))

    def pairs_due(self, *, limit: int) -> list[Pair]:
        """Return at most `limit` pairs that need attention now (S18)."""
        with self.translated():
            members = self.client.zrange(self.keys.pairs, "-inf", self.now(), byscore=True, offset=0, num=limit)
        return [pair_of(str(one)) for one in members]

    def attend(self, pair: Pair, *, token: str) -> AbandonedClaim | Literal["look", "none"]:
        """Take the step that is due for a pair; return the work left for the sweep (S14, S18)."""
        k = self.keys
        failed = not_called("failed", pair, texts.DIAL_FAILED, "dial_failed", "never_sent").result
        late = not_called("failed", pair, texts.TRIGGER_EXPIRED, "dial_failed", "expired").result
        reply = self.run(
            self._attend,
            [k.lock(pair), k.ledger(pair), k.live(pair), k.pairs, k.events, k.history(pair.case_id)],
            [
                *(member(pair), token),
                *(event_json(event) for event in _events(pair)),
                *(json.dumps(one.data, ensure_ascii=False) for one in (failed, late)),
            ],
        )
        if reply[0] == "requeue":
            _, task_id, arguments, expires = reply
            return AbandonedClaim(task_id, arguments, float(expires) if expires else None)
        return "look" if reply[0] == "look" else "none"

    def postpone(self, pair: Pair, *, seconds: float) -> None:
        """Postpone a pair in the order of the sweep, behind pairs that can be attended to."""
        with self.translated():
            self.client.zadd(self.keys.pairs, {member(pair): self.now() + seconds}, xx=True)

    def trim(self) -> None:
        """Delete records older than the history (S36)."""
        with self.translated():
            horizon = self.now() - self.terms.history_ttl
            for name in (self.keys.finished, self.keys.done):
                self.client.zremrangebyscore(name, "-inf", horizon)
            self.client.zremrangebyscore(self.keys.dialled, "-inf", self.now() - DIALLED_KEPT)


def _events(pair: Pair) -> Iterator[Event]:
    """Yield the events that `attend` may emit, in the order of its arguments."""
    events: tuple[tuple[EventKind, dict[str, str]], ...] = (
        ("unknown", {"message": texts.OUTCOME_UNKNOWN, "reason": "sender_died"}),
        ("nothing_found", {"message": texts.NOTHING_FOUND, "reason": "not_found"}),
        ("nothing_found", {"message": texts.NOT_ASKED, "reason": "not_asked"}),
        ("released", {"by": "time"}),
        ("dial_failed", {"message": texts.TRIGGER_EXPIRED, "reason": "expired"}),
        ("dial_failed", {"message": texts.DIAL_FAILED, "reason": "never_sent"}),
    )
    return (Event(kind, pair.case_id, pair.mediation_id, detail=detail) for kind, detail in events)

"""The steps of a poll in Redis: pass the fence, write the record with its successor, write the verdict."""

import redis

from worker.decision import Poll, Verdict
from worker.ports import Begun, Dropped, Early, Event, Pair
from worker.store.base import Steps, Terms, event_json, milliseconds
from worker.store.keys import Keys, member

EARLY_BY = 1  # seconds: a poll that comes earlier than this is put back (S20)

# Invariant: of all copies of a poll message one alone gets past, for the number that it carries then has gone (S28).
# While the poll runs, the job counts as due at the end of the lease: by then a sweep may take its process for dead.
BEGIN_POLL = """
local job, due_key = unpack(KEYS)
local poll_no, job_id, lease, early_by = unpack(ARGV)
local r = redis.call('HMGET', job, 'poll_no', 'verdict', 'due', 'deadline', 'retry_count', 'call_status', 'case_id',
  'mediation_id')
if not r[1] then return {'absent'} end
if r[2] then return {'finished'} end
if tonumber(r[1]) ~= tonumber(poll_no) then return {'fenced'} end
local t = now()
local state = {stamp(t), r[3], r[4], r[5], r[6], r[7], r[8]}
if t < tonumber(r[3]) - tonumber(early_by) then return {'early', unpack(state)} end
redis.call('HSET', job, 'poll_no', poll_no + 1)
redis.call('ZADD', due_key, t + tonumber(lease), job_id)
return {'begun', unpack(state)}
"""

# Invariant: a poll writes only while the number is still the one that it moved on to, and never over a verdict (S28).
CONTINUE_POLL = """
local job, due_key, events, history = unpack(KEYS)
local job_id, poll_no, due, retry_count, call_status, history_ttl, event = unpack(ARGV)
local r = redis.call('HMGET', job, 'poll_no', 'verdict', 'executing_since')
if not r[1] or r[2] or tonumber(r[1]) ~= tonumber(poll_no) then return 0 end
local t = now()
redis.call('HSET', job, 'due', due, 'retry_count', retry_count, 'last_polled_at', stamp(t))
redis.call('ZADD', due_key, due, job_id)
if call_status ~= '' then
  redis.call('HSET', job, 'call_status', call_status)
  if call_status == 'Executing' and not r[3] then redis.call('HSET', job, 'executing_since', stamp(t)) end
end
if event ~= '' then emit(events, history, history_ttl, t, event) end
return 1
"""

# Invariant: one verdict a call, and the pair is let go with its last watched call (S5): never by a stranger's token,
# never while a look-up is open. A terminal status counts even from a poll that has been overtaken (S28).
FINISH_POLL = """
local job, due_key, live, lock, ledger, pairs_key, done, finished, events, history = unpack(KEYS)
local job_id, poll_no, verdict, retry_count, call_status, member, history_ttl, event = unpack(ARGV)
local r = redis.call('HMGET', job, 'poll_no', 'verdict')
if not r[1] or r[2] then return 0 end
if tonumber(r[1]) ~= tonumber(poll_no) and verdict ~= 'ended' then return 0 end
local t = now()
redis.call('HSET', job, 'verdict', verdict, 'finished_at', stamp(t), 'last_polled_at', stamp(t),
  'retry_count', retry_count)
if call_status ~= '' then redis.call('HSET', job, 'call_status', call_status) end
redis.call('PEXPIRE', job, history_ttl)
redis.call('ZREM', due_key, job_id)
redis.call('ZADD', finished, t, job_id)
redis.call('ZREMRANGEBYSCORE', finished, '-inf', t - history_ttl / 1000)
redis.call('SREM', live, job_id)
local state = redis.call('HMGET', ledger, 'token', 'phase', 'lookup')
if state[1] and verdict ~= 'ended' then
  redis.call('HSET', ledger, 'trouble', verdict, 'trouble_at', stamp(t))
end
if redis.call('SCARD', live) == 0 and state[2] == 'watching' and not state[3] then
  let_go(lock, ledger, pairs_key, done, member, state[1], history_ttl, t)
end
emit(events, history, history_ttl, t, event)
return 1
"""


class PollSteps(Steps):
    """The two ends of a poll; see worker.ports.Store."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        self._begin_poll = self.script(BEGIN_POLL)
        self._continue_poll = self.script(CONTINUE_POLL)
        self._finish_poll = self.script(FINISH_POLL)

    def begin_poll(self, job_id: str, poll_no: int) -> Begun | Early | Dropped:
        """Pass the fence and move its number on, or say why not (S28)."""
        k = self.keys
        reply = self.run(self._begin_poll, [k.job(job_id), k.due], [poll_no, job_id, self.terms.lease, EARLY_BY])
        if len(reply) == 1:
            return Dropped(reply[0])
        kind, now, due, deadline, retry_count, call_status, case_id, mediation_id = reply
        poll = Poll(poll_no, float(due), float(deadline), int(retry_count))
        if kind == "early":
            return Early(float(now), poll)
        return Begun(float(now), Pair(case_id, mediation_id), poll, call_status)

    def continue_poll(
        self, pair: Pair, job_id: str, poll: Poll, *, call_status: str | None, event: Event | None
    ) -> bool:
        """Write the record and the successor; False where another poll has moved the number on (S28)."""
        k = self.keys
        return bool(
            self.run(
                self._continue_poll,
                [k.job(job_id), k.due, k.events, k.history(pair.case_id)],
                [
                    *(job_id, poll.poll_no, f"{poll.due:.3f}", poll.retry_count, call_status or ""),
                    *(milliseconds(self.terms.history_ttl), event_json(event)),
                ],
            )
        )

    def finish_poll(
        self,
        pair: Pair,
        job_id: str,
        poll_no: int,
        *,
        verdict: Verdict,
        retry_count: int,
        call_status: str | None,
        event: Event,
    ) -> bool:
        """Write the verdict and let the pair go after its last call (S5); False where a verdict stands or the fence."""
        k = self.keys
        return bool(
            self.run(
                self._finish_poll,
                [
                    *(k.job(job_id), k.due, k.live(pair), k.lock(pair), k.ledger(pair), k.pairs, k.done, k.finished),
                    *(k.events, k.history(pair.case_id)),
                ],
                [
                    *(job_id, poll_no + 1, verdict, retry_count, call_status or "", member(pair)),
                    *(milliseconds(self.terms.history_ttl), event_json(event)),
                ],
            )
        )

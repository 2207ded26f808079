"""The steps of a poll in Redis: pass the fence, write the record with its successor, write the verdict."""

from typing import Any

import redis

from worker.decision import OUTAGE_CALLS, Poll, Verdict
from worker.store.base import Steps, Terms, event_json, milliseconds
from worker.store.histograms import poll_counts
from worker.store.keys import Keys, member
from worker.store.limits import ADMIT, ALLOT
from worker.values import Begun, Dropped, Early, Event, Heard, Pair, Timing, Written

PROBES = 5  # queries in each interval of an outage: one at the least (S29)
PROMPT = 0.5  # seconds within which upstream answers a query as long as all is well
BRIEF = 1.0  # seconds of a lease meanwhile: a poll whose worker dies before it asks comes again within five more (S28)
SLOW_FOR = 60  # seconds after an answer that was not prompt, in which a poll is given as long as it may take

# Invariant: of all copies of a poll message one alone gets past, for the number that it carries then has gone (S28).
# While the poll runs, the job counts as due at the end of the lease: by then a sweep may take its process for dead.
# The lease is brief as long as upstream answers promptly: a guess, and a wrong one costs one query, for the copy that
# is published then has the whole lease. (With brief ones each copy would overtake the last, and nothing be written.)
# A poll that asks takes its token here; without one it keeps its number and is due when it may come back. Who came at
# its time in vain may wait twice as long for a token, and so finds one though others take all that are at hand.
# Its turn is kept until the poll has ended: should its worker die meanwhile, it is not put at the end of the queue.
BEGIN_POLL = """
local job, due_key, outage, probe, late, bucket = unpack(KEYS)
local poll_no, job_id = unpack(ARGV)
local r = redis.call('HMGET', job, 'poll_no', 'verdict', 'due', 'deadline', 'retry_count', 'call_status', 'case_id',
  'mediation_id', 'reissued', 'slot', 'root', 'in_vain')
local function drop(why) count('polls:' .. why) return {why} end
local function early(at, state)
  count('polls:early')
  return {'early', at, '0', unpack(state)}
end
if not r[1] then return drop('absent') end
if r[2] then return drop('finished') end
if tonumber(r[1]) ~= tonumber(poll_no) then return drop('fenced') end
local t = now()
local state = {stamp(t), r[3], r[4], r[5], r[6], r[7], r[8], r[11] or ''}
if t < tonumber(r[3]) - SLOT_EARLY then return early(r[3], state) end
local away, slot, due, wait = 'none', r[10] and tonumber(r[10]) or nil, tonumber(r[3]), 0
if redis.call('EXISTS', outage) == 1 then away = redis.call('EXISTS', probe) == 0 and 'probe' or 'wait' end
if RATE > 0 and away ~= 'wait' and due < tonumber(r[4]) then
  local at
  wait, at = admit(bucket, RATE, t, away == 'probe' and t or slot, at_hand(RATE) * (r[12] and 2 or 1))
  if not wait then
    redis.call('HSET', job, 'slot', fine(at))
    if slot and at > slot then redis.call('HSET', job, 'in_vain', 1) end
    redis.call('ZADD', due_key, at, job_id)
    return early(stamp(at), state)
  end
end
redis.call('HSET', job, 'poll_no', poll_no + 1, 'reissued', 0)
if r[12] then redis.call('HDEL', job, 'in_vain') end
if (r[9] or '0') == '0' then redis.call('SET', late, t - math.max(due, slot or 0), 'PX', 5000) end  -- the backlog
local patient = (r[9] or '0') ~= '0' or redis.call('EXISTS', PREFIX .. ':slow') == 1
redis.call('ZADD', due_key, t + (patient and LEASE or BRIEF), job_id)
if away == 'probe' then redis.call('SET', probe, job_id, 'PX', PROBE_TTL) end
return {'begun', away, stamp(wait), unpack(state)}
"""

# Invariant: an outage is one event (S29). It begins when five calls failed and no query was answered well for one
# interval. It ends with the first good answer, or when fewer than five calls are left: then S24 alone holds again.
# Each change is announced once, by the poll that makes it.
HEAR = """
local function hear(heard, job_id, t)
  local outage, good, failing = PREFIX .. ':outage', PREFIX .. ':good', PREFIX .. ':failing'
  if heard == 'answer' then redis.call('SET', good, stamp(t), 'EX', 86400) end
  if heard == 'answer' or redis.call('ZCARD', PREFIX .. ':due') < OUTAGE_CALLS then
    if redis.call('DEL', outage) == 0 then return '' end
    redis.call('DEL', failing)
    count('events:outage_ended')
    redis.call('XADD', PREFIX .. ':events', 'MAXLEN', '~', EVENTS_KEPT, '*',
      'event', '{"at":' .. stamp(t) .. ',"kind":"outage_ended"}')
    return 'outage_ended'
  end
  if heard == 'nothing' or redis.call('EXISTS', outage) == 1 then return '' end
  local last = tonumber(redis.call('GET', good) or '0')
  redis.call('ZREMRANGEBYSCORE', failing, '-inf', last)
  redis.call('ZADD', failing, 'NX', t, job_id)
  redis.call('EXPIRE', failing, 86400)
  if redis.call('ZCARD', failing) < OUTAGE_CALLS then return '' end
  local first = tonumber(redis.call('ZRANGE', failing, 0, 0, 'WITHSCORES')[2])
  if t - math.max(last, first) < INTERVAL then return '' end
  redis.call('HSET', outage, 'since', stamp(t))
  count('events:outage_began')
  redis.call('XADD', PREFIX .. ':events', 'MAXLEN', '~', EVENTS_KEPT, '*',
    'event', '{"at":' .. stamp(t) .. ',"kind":"outage_began"}')
  return 'outage_began'
end

-- Upstream is slow whoever sees it, a poll that was overtaken for that above all. ARGV[9]: how long the answer took.
local function notice_slowness()
  if tonumber(ARGV[9]) > PROMPT then redis.call('SET', PREFIX .. ':slow', ARGV[9], 'EX', SLOW_FOR) end
end

-- What the end of a poll counts: fields and numbers, from ARGV[10] on.
local function counted()
  notice_slowness()
  for i = 10, #ARGV, 2 do count(ARGV[i], ARGV[i + 1]) end
end

local function overtaken()
  notice_slowness()
  count('polls:overtaken')
  return false
end
"""

# Invariant: a poll writes only while the number is still the one that it moved on to, and never over a verdict (S28).
# Where those who wait for a token wait beyond the next due time, the next poll is given its turn among them at once.
CONTINUE_POLL = """
local job, due_key, events, history, bucket = unpack(KEYS)
local job_id, poll_no, due, retry_count, call_status, event, heard, deadline = unpack(ARGV, 1, 8)
local r = redis.call('HMGET', job, 'poll_no', 'verdict', 'executing_since', 'due', 'call_status', 'slot')
if not r[1] or r[2] or tonumber(r[1]) ~= tonumber(poll_no) then return overtaken() end
local again = r[4] == due  -- this very step, sent twice over a broken connection
if not again then counted() end
local t = now()
if call_status == '' then call_status = r[5] or '' end
redis.call('HSET', job, 'due', due, 'retry_count', retry_count, 'last_polled_at', stamp(t), 'call_status', call_status)
if call_status == 'Executing' and not r[3] then redis.call('HSET', job, 'executing_since', stamp(t)) end
redis.call('ZADD', due_key, due, job_id)
local turn = ''
local waits = RATE > 0 and tonumber(due) < tonumber(deadline) and redis.call('HGET', bucket, 'tail')
if waits and tonumber(waits) > tonumber(due) then
  turn = fine(allot(bucket, RATE, t))
  redis.call('HSET', job, 'slot', turn)
  redis.call('ZADD', due_key, turn, job_id)
elseif r[6] then
  redis.call('HDEL', job, 'slot')
end
if event ~= '' and not again then emit(events, history, HISTORY_TTL, t, event) end
return hear(heard, job_id, t) .. ' ' .. turn
"""

# Invariant: one verdict a call, and a pair is released with its last watched call (S5): never by a stranger's token,
# never while a look-up is open. A terminal status counts even from a poll that has been overtaken (S28).
FINISH_POLL = """
local job, due_key, finished, events, history = unpack(KEYS)
local job_id, poll_no, verdict, retry_count, call_status, member, event, heard = unpack(ARGV, 1, 8)
local r = redis.call('HMGET', job, 'poll_no', 'verdict', 'also')
if not r[1] or r[2] then return overtaken() end
if tonumber(r[1]) ~= tonumber(poll_no) and verdict ~= 'ended' then return overtaken() end
counted()
local t = now()
redis.call('HSET', job, 'verdict', verdict, 'finished_at', stamp(t), 'last_polled_at', stamp(t),
  'retry_count', retry_count)
if call_status ~= '' then redis.call('HSET', job, 'call_status', call_status) end
redis.call('PEXPIRE', job, JOB_TTL)  -- an ended call too: forgotten earlier, it would pass for one not seen before (S5)
redis.call('ZREM', due_key, job_id)
redis.call('ZADD', finished, t, job_id)
redis.call('ZREMRANGEBYSCORE', finished, '-inf', t - HISTORY_TTL / 1000)
for holder in string.gmatch(member .. ' ' .. (r[3] or ''), '%S+') do
  local live, ledger = PREFIX .. ':live:' .. holder, PREFIX .. ':ledger:' .. holder
  redis.call('SREM', live, job_id)
  local state = redis.call('HMGET', ledger, 'token', 'phase', 'lookup', 'sending_at', 'trouble_since')
  if state[1] and verdict ~= 'ended' then  -- a call that a look found is of the request that the trouble began with
    remember(ledger, verdict, t, state[4] or state[5] or stamp(t))
  end
  if redis.call('SCARD', live) == 0 and state[2] == 'watching' and not state[3] then
    release_pair(holder, state[1], t)
  end
end
emit(events, history, HISTORY_TTL, t, event)
redis.call('ZREM', PREFIX .. ':failing', job_id)
return hear(heard, job_id, t)
"""


class PollSteps(Steps):
    """The two ends of a poll; see worker.ports.Store."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        names = (
            f"local LEASE, BRIEF, PROMPT, SLOW_FOR = {terms.lease}, {min(terms.lease, BRIEF)}, {PROMPT}, {SLOW_FOR}\n"
            f"local RATE, INTERVAL, OUTAGE_CALLS = {terms.status_rate}, {terms.interval}, {OUTAGE_CALLS}\n"
            f"local PROBE_TTL = {milliseconds(terms.interval / PROBES)}\n"
        )
        self._begin_poll = self.script(names + ADMIT + BEGIN_POLL)
        self._continue_poll = self.script(names + ADMIT + ALLOT + HEAR + CONTINUE_POLL)
        self._finish_poll = self.script(names + HEAR + FINISH_POLL)

    def begin_poll(self, job_id: str, poll_no: int) -> Begun | Early | Dropped:
        """Pass the fence and move its number on, or say why not (S28)."""
        k = self.keys
        reply = self.run(
            self._begin_poll,
            [k.job(job_id), k.due, k.outage, k.probe, k.late, k.bucket("status")],
            [poll_no, job_id],
        )
        if len(reply) == 1:
            return Dropped(reply[0])
        kind, word, wait, now, due, deadline, retry_count, call_status, case_id, mediation_id, root = reply
        poll = Poll(poll_no, float(due), float(deadline), int(retry_count))
        if kind == "early":
            return Early(float(now), poll, float(word))
        return Begun(float(now), Pair(case_id, mediation_id), poll, call_status, word, float(wait), root)

    def continue_poll(
        self,
        pair: Pair,
        job_id: str,
        poll: Poll,
        *,
        heard: Heard,
        call_status: str | None,
        event: Event | None,
        timing: Timing | None = None,
    ) -> Written | None:
        """Write the record and its successor; None where another poll has moved the number on (S28)."""
        k = self.keys
        reply: Any = self.run(
            self._continue_poll,
            [k.job(job_id), k.due, k.events, k.history(pair.case_id), k.bucket("status")],
            [
                *(job_id, poll.poll_no, f"{poll.due:.3f}", poll.retry_count, call_status or ""),
                *(event_json(event), heard, poll.deadline, (timing and timing.took) or 0),
                *poll_counts(heard, timing),
            ],
        )
        if reply is None:
            return None
        change, _, turn = reply.partition(" ")
        return Written(change or "no_change", float(turn) if turn else None)

    def finish_poll(  # noqa: PLR0913 - an argument for each thing that one step writes
        self,
        pair: Pair,
        job_id: str,
        poll_no: int,
        *,
        verdict: Verdict,
        retry_count: int,
        heard: Heard,
        call_status: str | None,
        event: Event,
        timing: Timing | None = None,
    ) -> Written | None:
        """Write the verdict and release the pair after its last call (S5); None where a verdict stands or the fence."""
        k = self.keys
        reply: Any = self.run(
            self._finish_poll,
            [k.job(job_id), k.due, k.finished, k.events, k.history(pair.case_id)],
            [
                *(job_id, poll_no + 1, verdict, retry_count, call_status or "", member(pair)),
                *(event_json(event), heard, (timing and timing.took) or 0),
                *poll_counts(heard, timing),
            ],
        )
        return None if reply is None else Written(reply or "no_change")

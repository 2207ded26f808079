"""Run polls in Redis: pass the fence, renew the lease, write the successor or the verdict.

Each script handles a batch of polls independently: a failure of one poll is reported for that poll only.
"""

import json
from collections.abc import Sequence
from typing import Any, cast

import redis

from worker.core.decision import OUTAGE_CALLS, Next, Poll
from worker.core.model import Pair
from worker.core.poll_model import OutageChange, PollDropped, PollEnd, PollStarted
from worker.store.base import Scripts, event_json
from worker.store.failures import FAILURES_LUA
from worker.store.histograms import poll_counts
from worker.store.keys import LEASED, Keys, member
from worker.store.terms import Terms, constants

# Invariant: of all deliveries of a poll only one passes the fence, because it increments the record's `poll_no` (S28).
# From here on the lease belongs to the process that runs the poll. A poll that began and was never written outlasted
# its lease, so it counts as a failed query.
BEGIN_POLLS = """
local due_key, outage = unpack(KEYS)
local t, in_outage, replies = now(), redis.call('EXISTS', outage) == 1, {}
local function begin(job_id, poll_no)
  local job = PREFIX .. ':job:' .. job_id
  local r = redis.call('HMGET', job, 'poll_no', 'verdict', 'due', 'deadline', 'retry_count', 'call_status', 'case_id',
    'mediation_id', 'root', 'begun_at', 'last_polled_at')
  local function drop(why) count('polls:' .. why) return {why} end
  if not r[1] then return drop('absent') end
  if r[2] then return drop('finished') end
  if tonumber(r[1]) ~= tonumber(poll_no) then return drop('fenced') end
  if t + 0.001 < tonumber(r[3]) then return drop('early') end  -- the record has three digits
  local failures = tonumber(r[5])
  if r[10] and not in_outage then failures = failures + 1 end
  redis.call('HSET', job, 'poll_no', poll_no + 1, 'begun_at', stamp(t), 'retry_count', failures)
  redis.call('ZADD', due_key, LEASED + t + LEASE, job_id)
  return {'begun', stamp(t), r[3], r[4], tostring(failures), r[6], r[7], r[8], r[9] or '', r[11] or ''}
end
for i = 1, #ARGV, 2 do replies[#replies + 1] = begin(ARGV[i], ARGV[i + 1]) end
return {in_outage and 1 or 0, replies}
"""

# Invariant: a lease is renewed only for the poll that began last.
RENEW_POLLS = """
local due_key = unpack(KEYS)
local t = now()
for i = 1, #ARGV, 2 do
  local r = redis.call('HMGET', PREFIX .. ':job:' .. ARGV[i], 'poll_no', 'begun_at')
  if r[1] == ARGV[i + 1] and r[2] then redis.call('ZADD', due_key, 'XX', LEASED + t + LEASE, ARGV[i]) end
end
"""

# Invariant: an outage is one event (S29). It begins when five calls have failed and no query has succeeded for one
# interval. It ends with the first successful answer, or when fewer than five calls are left: then only S24 applies. The
# poll that makes the change announces it, once.
DETECT_OUTAGE = """
local good_noted = false
local function detect_outage(result, job_id, t)
  local outage, good, failing = PREFIX .. ':outage', PREFIX .. ':good', PREFIX .. ':failing'
  if result == 'answer' then
    if good_noted then return '' end
    good_noted = true
    redis.call('SET', good, stamp(t), 'EX', 86400)
  end
  if result == 'answer' or redis.call('ZCARD', PREFIX .. ':due') < OUTAGE_CALLS then
    if redis.call('DEL', outage) == 0 then return '' end
    redis.call('DEL', failing)
    count('events:outage_ended')
    redis.call('XADD', PREFIX .. ':events', 'MAXLEN', '~', EVENTS_KEPT, '*',
      'event', '{"at":' .. stamp(t) .. ',"kind":"outage_ended"}')
    return 'outage_ended'
  end
  if result == 'nothing' or redis.call('EXISTS', outage) == 1 then return '' end
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
"""

# Invariant: a poll writes only while the record still has the `poll_no` that the poll's fence wrote, and never over a
# verdict (S28). Record and successor are written in one step; the dispatcher publishes the successor by its due time.
CONTINUE_POLL = """
local function continue_watch(p, t, counted)
  local job = PREFIX .. ':job:' .. p.job_id
  local r = redis.call('HMGET', job, 'poll_no', 'verdict', 'executing_since', 'due', 'call_status')
  if not r[1] or r[2] or tonumber(r[1]) ~= p.poll_no then return false end
  local again = r[4] == p.due  -- this write, sent twice over a broken connection
  local status = p.call_status ~= '' and p.call_status or r[5] or ''
  redis.call('HSET', job, 'due', p.due, 'retry_count', p.retry_count, 'last_polled_at', stamp(t), 'call_status', status)
  redis.call('HDEL', job, 'begun_at')
  if status == 'Executing' and not r[3] then redis.call('HSET', job, 'executing_since', stamp(t)) end
  redis.call('ZADD', PREFIX .. ':due', p.due, p.job_id)
  if not again then
    counted()
    if p.event ~= '' then emit(PREFIX .. ':events', PREFIX .. ':history:' .. p.case, HISTORY_TTL, t, p.event) end
  end
  return detect_outage(p.result, p.job_id, t)
end
"""

# Invariant: a call gets one verdict, and its last watched call releases a pair (S5): never with another owner's token,
# never while a look-up is open. A terminal status counts even from an overtaken poll, and so does the end of the watch
# after its deadline (S28).
FINISH_POLL = """
local function finish(p, t, counted)
  local job = PREFIX .. ':job:' .. p.job_id
  local r = redis.call('HMGET', job, 'poll_no', 'verdict', 'shared_with', 'deadline', 'member')
  if not r[1] or r[2] then return false end
  local overtaken = tonumber(r[1]) ~= p.poll_no
  local stands = p.verdict == 'ended' or (p.verdict == 'expired' and t >= tonumber(r[4]))
  if overtaken and not stands then return false end
  counted()
  redis.call('HSET', job, 'verdict', p.verdict, 'finished_at', stamp(t), 'last_polled_at', stamp(t),
    'retry_count', p.retry_count)
  redis.call('HDEL', job, 'begun_at')
  if p.call_status ~= '' then redis.call('HSET', job, 'call_status', p.call_status) end
  redis.call('ZREM', PREFIX .. ':due', p.job_id)
  redis.call('ZADD', PREFIX .. ':finished', t, p.job_id)
  redis.call('ZREMRANGEBYSCORE', PREFIX .. ':finished', '-inf', t - HISTORY_TTL / 1000)
  -- The record names the owner: an answer may have moved the call to another mediation since this poll began.
  for holder in string.gmatch(r[5] .. ' ' .. (r[3] or ''), '%S+') do
    local live, ledger = PREFIX .. ':live:' .. holder, PREFIX .. ':ledger:' .. holder
    redis.call('SREM', live, p.job_id)
    local state = redis.call('HMGET', ledger, 'token', 'phase', 'lookup', 'sending_at', 'last_failure_since')
    if p.verdict ~= 'ended' then  -- an adopted call belongs to the request of the last failure
      remember_failure(ledger, p.verdict, t, state[4] or state[5] or stamp(t))
    end
    if redis.call('SCARD', live) == 0 and state[2] == 'watching' and not state[3] then
      release_pair(holder, state[1], t)
    end
  end
  age_case(r[5])  -- with no open pair left in the case, the record gets its time to live here
  emit(PREFIX .. ':events', PREFIX .. ':history:' .. p.case, HISTORY_TTL, t, p.event)
  redis.call('ZREM', PREFIX .. ':failing', p.job_id)
  return detect_outage(p.result, p.job_id, t)
end
"""

# Invariant: a write that the fence refuses counts only as overtaken, and a failure of one poll leaves the others
# written.
WRITE_POLLS = """
local t, totals, replies = now(), {}, {}
local failed, reason = 0, ''
local function total(field, by) totals[field] = (totals[field] or 0) + by end
for i, text in ipairs(ARGV) do
  local well, reply = pcall(function()
    local p = cjson.decode(text)
    local function counted()
      for n = 1, #p.counts, 2 do total(p.counts[n], p.counts[n + 1]) end
      if p.reason then failed, reason = failed + 1, p.reason end
    end
    return (p.verdict and finish or continue_watch)(p, t, counted)
  end)
  if well and reply == false then total('polls:overtaken', 1) end
  replies[i] = well and (reply or 'overtaken') or 'failed'
end
for field, by in pairs(totals) do count(field, by) end
if failed > 0 then note_failures('query', reason, failed, t) end
return replies
"""


class PollScripts(Scripts):
    """Begin and end polls; see worker.core.interfaces.Store."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        names = constants(LEASED=LEASED, OUTAGE_CALLS=OUTAGE_CALLS)
        self._begin_polls = self.script(names + BEGIN_POLLS)
        self._renew_polls = self.script(names + RENEW_POLLS)
        self._write_polls = self.script(
            names + FAILURES_LUA + DETECT_OUTAGE + CONTINUE_POLL + FINISH_POLL + WRITE_POLLS
        )

    def begin_polls(self, polls: Sequence[tuple[str, int]]) -> list[PollStarted | PollDropped]:
        """Check polls, given as job id and fencing token, against the fence; advance it for those that pass (S28)."""
        args = [part for poll in polls for part in poll]
        outage, replies = self.run(self._begin_polls, [self.keys.due, self.keys.outage], args)
        return [_started(reply, number, outage=bool(outage)) for (_, number), reply in zip(polls, replies, strict=True)]

    def renew_polls(self, polls: Sequence[tuple[str, int]]) -> None:
        """Renew the leases of polls in progress, given as `PollInProgress.lease` (S28)."""
        self.run(self._renew_polls, [self.keys.due], [part for poll in polls for part in poll])

    def write_polls(self, ends: Sequence[PollEnd]) -> list[OutageChange | Exception | None]:
        """Write the ends of polls, each with its successor or its verdict, and return each one's effect on the outage.

        None means that a later poll has passed the fence or a verdict exists (S28); an exception means that the
        write failed. The last call of a pair releases it (S5).
        """
        replies = self.run(self._write_polls, [], [self._as_json(end) for end in ends])
        return [_written(reply) for reply in replies]

    def _as_json(self, end: PollEnd) -> str:
        fields: dict[str, Any] = {
            "job_id": end.job_id,
            "poll_no": end.poll_no,
            "result": end.result,
            "call_status": end.call_status or "",
            "event": event_json(end.event),
            "counts": poll_counts(end.result, end.timing, end.reason),
        }
        if end.reason:
            fields["reason"] = end.reason
        if isinstance(end.follows, Next):
            poll = end.follows.poll  # without its `poll_no`: the fence has already written it
            fields |= {"due": f"{poll.due:.3f}", "retry_count": poll.retry_count}
        else:
            fields |= {"verdict": end.follows.verdict, "retry_count": end.follows.retry_count}
        return json.dumps(fields | {"case": member(end.pair).partition(":")[0]}, ensure_ascii=False)


def _started(reply: list[str], poll_no: int, *, outage: bool) -> PollStarted | PollDropped:
    if len(reply) == 1:
        return PollDropped(cast("Any", reply[0]))
    _, now, due, deadline, retry_count, call_status, case_id, mediation_id, root, last_polled_at = reply
    poll = Poll(poll_no, float(due), float(deadline), int(retry_count))
    return PollStarted(
        float(now), Pair(case_id, mediation_id), poll, call_status, outage, root, queried=last_polled_at != ""
    )


def _written(reply: str) -> OutageChange | Exception | None:
    if reply == "failed":
        return RuntimeError("the store refused the record")
    return None if reply == "overtaken" else cast("OutageChange", reply or "no_change")

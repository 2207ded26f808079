"""Run the store's scripts: the client, the key names, the times to live, and the Lua prelude that all scripts share."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import redis
from redis.commands.core import Script
from redis.exceptions import MasterDownError, NoScriptError

from worker.core.interfaces import StoreRefused, StoreUnavailable
from worker.core.model import Event
from worker.core.notice import KINDS
from worker.core.transitions import lua_table
from worker.store.connection import ThreadClient
from worker.store.keys import EVENTS_KEPT, HISTORY_KEPT, Keys
from worker.store.outbox_lua import OUTBOX_LUA
from worker.store.terms import LAST_FAILURE_KEPT, Terms, constants

PRELUDE = (
    f"local EVENTS_KEPT, HISTORY_KEPT, LAST_FAILURE_TTL = {EVENTS_KEPT}, {HISTORY_KEPT}, {LAST_FAILURE_KEPT * 1_000}\n"
    f"local NOTICE_KINDS = {{{', '.join(f'{kind} = true' for kind in KINDS)}}}\n"
    f"local TRANSITIONS = {lua_table()}\n"
    """
-- Redis' time in epoch seconds, the only clock of all processes (S18).
local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

local function stamp(t) return string.format('%.3f', t) end

-- A script counts an event in the same step that causes it: exactly once, whichever process ran the script.
local function count(field, by) redis.call('HINCRBY', PREFIX .. ':counters', field, by or 1) end

-- Count a trigger by the reason in its result or event; a success has none. A quote inside a value is escaped in JSON.
local function count_reason(json)
  local reason = string.match(json, '"reason": "([%w_]+)"')
  if reason then count('reasons:trigger:' .. reason) end
end

-- Name the trigger in an event that a script emits for it.
local function of_task(event, task_id)
  if not task_id or task_id == '' then return event end
  return string.sub(event, 1, -2) .. ', "task_id": ' .. cjson.encode(task_id) .. '}'
end
"""
    + OUTBOX_LUA
    + """
-- Write an event to the live stream and count it; return its stream id, its text and its kind.
local function announce(events, t, json)
  local entry = '{"at":' .. stamp(t) .. ',' .. string.sub(json, 2)
  local id = redis.call('XADD', events, 'MAXLEN', '~', EVENTS_KEPT, '*', 'event', entry)
  local kind = string.match(json, '^{"kind": "([a-z_]+)"')
  count('events:' .. kind)
  return id, entry, kind
end

-- Publish a change in the script that makes it: to the live stream, to the case's history (which keeps the stream id),
-- and to the back ends' outboxes.
local function emit(events, history, ttl, t, json)
  local id, entry, kind = announce(events, t, json)
  if NOTICE_KINDS[kind] then enqueue_notice(id, entry) end
  redis.call('RPUSH', history, '{"id":"' .. id .. '",' .. string.sub(entry, 2))
  redis.call('LTRIM', history, -HISTORY_KEPT, -1)
  redis.call('PEXPIRE', history, ttl)
end

-- Return the phase after an event, and raise if the event is illegal in the phase `before`: the phase that the script
-- has read, false where the pair has no ledger.
local function next_phase(event, before)
  local after = TRANSITIONS[event .. ' ' .. (before or 'absent')]
  if not after then error('illegal transition: ' .. event .. ' in phase ' .. (before or 'absent')) end
  return after
end

-- Change the phase of a pair and write further fields with it. No other code writes a phase (S18).
local function enter(ledger, event, before, ...)
  redis.call('HSET', ledger, 'phase', next_phase(event, before), ...)
end

-- Extend a key's time to live to at least `ttl` milliseconds.
local function keep(key, ttl)
  if redis.call('PTTL', key) < tonumber(ttl) then redis.call('PEXPIRE', key, ttl) end
end

-- Keep the case's records without a time to live while one of its pairs is open: without its record, even an ended call
-- would pass for a new one (S5, S14).
local function hold_case(member)
  local case = string.match(member, '^[^:]*')
  local mediations, jobs = PREFIX .. ':mediations:' .. case, PREFIX .. ':jobs:' .. case
  redis.call('SADD', mediations, member)
  redis.call('PERSIST', mediations)
  redis.call('PERSIST', jobs)
  for _, id in ipairs(redis.call('SMEMBERS', jobs)) do redis.call('PERSIST', PREFIX .. ':job:' .. id) end
end

-- Start the times to live of a case's records once its last open pair is done; the records outlive the last failure.
local function age_case(member)
  local case = string.match(member, '^[^:]*')
  local mediations, jobs = PREFIX .. ':mediations:' .. case, PREFIX .. ':jobs:' .. case
  for _, other in ipairs(redis.call('SMEMBERS', mediations)) do
    local phase = redis.call('HGET', PREFIX .. ':ledger:' .. other, 'phase')
    if phase and phase ~= 'done' then return end
  end
  keep(mediations, JOB_TTL)
  keep(jobs, JOB_TTL)
  for _, id in ipairs(redis.call('SMEMBERS', jobs)) do keep(PREFIX .. ':job:' .. id, JOB_TTL) end
end

-- Release the pair (S5): delete the lock if it holds the owner's token, mark the ledger done. Only from here on do the
-- ledger and the handled task id have a time to live (S18).
local function release_pair(member, token, t)
  local lock, ledger, done = PREFIX .. ':lock:' .. member, PREFIX .. ':ledger:' .. member, PREFIX .. ':done'
  if redis.call('GET', lock) == token then redis.call('DEL', lock) end
  enter(ledger, 'release', redis.call('HGET', ledger, 'phase'), 'done_at', stamp(t))
  redis.call('HDEL', ledger, 'lookup', 'held_until', 'answered_at')
  redis.call('PEXPIRE', ledger, math.max(HISTORY_TTL, LAST_FAILURE_TTL))
  redis.call('PEXPIRE', PREFIX .. ':task:' .. (redis.call('HGET', ledger, 'task_id') or ''), TASK_TTL)
  redis.call('ZREM', PREFIX .. ':pairs', member)
  redis.call('ZADD', done, t, member)
  redis.call('ZREMRANGEBYSCORE', done, '-inf', t - HISTORY_TTL / 1000)
  age_case(member)
end

-- Remember a failure: the pair's next trigger first queries upstream for calls created since (S5), also for those of an
-- earlier request whose failure is less than a day old: upstream may show them late. A done pair, or one whose ledger
-- has expired, may share a call that another pair watches: the failure is then remembered for a day from now.
local function remember_failure(ledger, kind, t, since)
  local last = redis.call('HMGET', ledger, 'last_failure_at', 'last_failure_since')
  local recent = last[1] and t - tonumber(last[1]) <= LAST_FAILURE_TTL / 1000
  if recent and tonumber(last[2]) < tonumber(since) then since = last[2] end
  redis.call('HSET', ledger, 'last_failure', kind, 'last_failure_at', stamp(t), 'last_failure_since', since)
  local phase = redis.call('HGET', ledger, 'phase')
  if not phase then enter(ledger, 'release', phase, 'done_at', stamp(t)) end
  if not phase or phase == 'done' then redis.call('PEXPIRE', ledger, math.max(HISTORY_TTL, LAST_FAILURE_TTL)) end
end

-- Close the look-up: hold the pair for its watched calls, or release it if there are none. The unknown outcome is
-- remembered for a full day from here, because a look-up may last a day. A watched call without a record counts as
-- lost.
local function close_look_up(ledger, live, pairs_key, member, token, t)
  local state = redis.call('HMGET', ledger, 'lookup', 'last_failure', 'last_failure_since', 'sending_at')
  for _, id in ipairs(redis.call('SMEMBERS', live)) do
    local r = redis.call('HMGET', PREFIX .. ':job:' .. id, 'job_id', 'verdict')
    if not r[1] then remember_failure(ledger, 'lost', t, state[4] or '0') end
    if not r[1] or r[2] then redis.call('SREM', live, id) end
  end
  if state[1] then remember_failure(ledger, state[2] or 'unknown', t, state[3] or state[4] or '0') end
  redis.call('HDEL', ledger, 'lookup', 'held_until', 'answered_at')
  if redis.call('SCARD', live) == 0 then
    release_pair(member, token, t)
  else
    enter(ledger, 'watch', redis.call('HGET', ledger, 'phase'))
    redis.call('PERSIST', ledger)
    redis.call('ZADD', pairs_key, t + LOCK_TTL / 1000, member)
  end
end

-- Tell whether a pair is the owner of a call or one that shares it.
local function holds(owner, shared, member)
  return string.find(' ' .. owner .. ' ' .. (shared or '') .. ' ', ' ' .. member .. ' ', 1, true) ~= nil
end

-- Let one more pair hold a call; return false if the pair holds it already.
local function hold(key, member)
  local r = redis.call('HMGET', key, 'member', 'shared_with')
  if holds(r[1], r[2], member) then return false end
  redis.call('HSET', key, 'shared_with', (r[2] or '') .. ' ' .. member)
  return true
end

-- Move a call's record to the pair that upstream's answer names, after a look-up had adopted the call for another
-- mediation. The other pair keeps sharing the call.
local function move(key, member, mediation_id, task_id)
  local r = redis.call('HMGET', key, 'member', 'shared_with')
  local case = string.match(member, '^[^:]*:')
  if r[1] == member or string.sub(r[1], 1, #case) ~= case then return end
  local shared = r[1]
  for other in string.gmatch(r[2] or '', '%S+') do
    if other ~= member then shared = shared .. ' ' .. other end
  end
  redis.call('HSET', key, 'member', member, 'mediation_id', mediation_id, 'shared_with', shared, 'root', task_id)
end

-- Write a new record of a watched call (S11) with its trigger's task id and its first due time; the caller has checked
-- that no record exists. The record has no time to live until the verdict sets one.
local function watch(member, task_id, job, t, started_at, deadline)
  local key, first = PREFIX .. ':job:' .. job.job_id, math.min(t + job.first_delay, deadline)
  redis.call('HSET', key, 'started_at', stamp(started_at), 'watched_at', stamp(t), 'deadline', stamp(deadline),
    'due', stamp(first), 'poll_no', 1, 'retry_count', 0, 'member', member, 'root', task_id, unpack(job.fields))
  if job.executing then redis.call('HSET', key, 'executing_since', stamp(t)) end
  redis.call('ZADD', PREFIX .. ':due', first, job.job_id)
  redis.call('SADD', PREFIX .. ':live:' .. member, job.job_id)
  local jobs = PREFIX .. ':jobs:' .. string.match(member, '^[^:]*')
  redis.call('SADD', jobs, job.job_id)
  redis.call('PERSIST', jobs)
end
"""
)


class Scripts:
    """Compile and run a group of scripts.

    One convention holds for every script. Settings and constants are compiled in as upper-case locals
    (`Terms.compiled`, `constants`). Keys whose names the caller knows come as KEYS, everything else as ARGV. The first
    statements give both their names with `unpack`; by position a script reads only the items of a list (records,
    polls). Keys that depend on data the script reads itself are built from PREFIX.
    """

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        self.client = client
        self._own = ThreadClient(client)
        self.keys = keys
        self.terms = terms

    def script(self, source: str) -> Script:
        """Compile a script: settings, prelude and source."""
        channels = ", ".join(f"'{channel}'" for channel in self.terms.channels)
        head = f"local CHANNELS = {{{channels}}}\n" + constants(PREFIX=self.keys.prefix, **self.terms.compiled)
        return self.client.register_script(head + PRELUDE + source)

    def run(self, script: Script, keys: Sequence[str], args: Sequence[str | float]) -> Any:
        """Run a script over this thread's own connection; raise StoreUnavailable where Redis failed.

        Calling the library's Script object costs 4 % of a poll; it is needed only where the server has lost the script.
        """
        with self.translated():
            client = self._own.client
            try:
                return client.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)  # type: ignore[no-untyped-call]
            except NoScriptError:
                return script(keys=keys, args=args, client=client)

    def now(self) -> float:
        """Return the server's time in epoch seconds; all records use this clock."""
        with self.translated():
            seconds, micros = self.client.time()
        return seconds + micros / 1_000_000

    @staticmethod
    @contextmanager
    def translated() -> Iterator[None]:
        """Translate every error of the Redis library into StoreUnavailable or StoreRefused."""
        try:
            yield
        except redis.RedisError as error:
            kind = StoreUnavailable if is_away(error) else StoreRefused
            raise kind(f"Redis: {type(error).__name__}: {error}") from error


AWAY = (
    *(redis.ConnectionError, redis.TimeoutError),  # includes LOADING and a refused password
    *(redis.ReadOnlyError, redis.OutOfMemoryError, MasterDownError),
)
# The error text of a script on Redis before 7 has a prefix.
AWAY_TEXT = re.compile(r"(?:.* -)?(?:BUSY|MISCONF|NOREPLICAS|OOM|READONLY|LOADING|MASTERDOWN) ")


def is_away(error: redis.RedisError) -> bool:
    """Tell whether a failed server may recover; any other error would fail the same script again."""
    return isinstance(error, AWAY) or (isinstance(error, redis.ResponseError) and bool(AWAY_TEXT.match(str(error))))


def event_json(event: Event | None) -> str:
    """Return an event as the text to which a script adds the time; an empty text for no event."""
    if event is None:
        return ""
    fields = {name: value for name, value in asdict(event).items() if name != "detail" and value != ""}
    return json.dumps(fields | event.detail, ensure_ascii=False)

"""Put notices into the outboxes and among the dead letters: bounded, and each case within a share of its own."""

from worker.store.keys import DEAD_KEPT, OF_ONE_CASE, OUTBOX_KEPT

OUTBOX_LUA = (
    f"local OUTBOX_KEPT, DEAD_KEPT, OF_ONE_CASE = {OUTBOX_KEPT}, {DEAD_KEPT}, {OF_ONE_CASE}\n"
    """
-- How many letters of a case stand in a list, so that one case cannot push out another's (S38): it has a share of its
-- own, and in a full list no letter gives way to one of a case that has more. Bounded by the letters.
local function held(cases, case) return tonumber(redis.call('HGET', cases, case) or '0') end
local function tally(cases, case, by)
  if redis.call('HINCRBY', cases, case, by) <= 0 then redis.call('HDEL', cases, case) end
end
local function yields(cases, case, other) return held(cases, case) >= OF_ONE_CASE or
  other and held(cases, case) > held(cases, other) end
local function case_of(event) return cjson.decode(event).case_id or '' end
local function outbox_cases(channel) return PREFIX .. ':waiting:' .. channel end

-- The value of one field of a letter.
local function field(fields, name)
  for i = 1, #fields, 2 do if fields[i] == name then return fields[i + 1] end end
end

-- Remove a letter from its outbox.
local function strike(channel, position, fields)
  if redis.call('XDEL', PREFIX .. ':outbox:' .. channel, position) == 1 then
    tally(outbox_cases(channel), case_of(field(fields, 'event')), -1)
  end
end

-- Keep a notice that was not delivered where a person can see it. The oldest one makes room for it, or it is dropped.
local function bury(channel, fields, reason, t)
  local dead, cases = PREFIX .. ':dead', PREFIX .. ':buried'
  local case = case_of(field(fields, 'event'))
  local full = redis.call('LLEN', dead) >= DEAD_KEPT
  local other = full and case_of(cjson.decode(redis.call('LINDEX', dead, -1)).event)
  if yields(cases, case, other) then return end
  if full then
    redis.call('RPOP', dead)
    tally(cases, other, -1)
  end
  redis.call('LPUSH', dead, cjson.encode({channel = channel, died_at = stamp(t), reason = reason,
    id = field(fields, 'id'), event = field(fields, 'event')}))
  tally(cases, case, 1)
end

local function enclose(channel, id, entry)
  redis.call('XADD', PREFIX .. ':outbox:' .. channel, '*', 'id', id, 'event', entry)
  tally(outbox_cases(channel), case_of(entry), 1)
end

-- What back ends are told stands in the outbox of each channel in the step that makes it so. Where there is no room the
-- oldest letter, or this one, goes to the dead ones.
local function post(id, entry)
  local case, t = case_of(entry), now()
  for _, channel in ipairs(CHANNELS) do
    local outbox = PREFIX .. ':outbox:' .. channel
    local full = redis.call('XLEN', outbox) >= OUTBOX_KEPT
    local oldest = full and redis.call('XRANGE', outbox, '-', '+', 'COUNT', 1)[1]
    local yielding = yields(outbox_cases(channel), case, oldest and case_of(field(oldest[2], 'event')))
    if full or yielding then redis.call('HINCRBY', PREFIX .. ':notices', channel .. ':pushed_out', 1) end
    if yielding then
      bury(channel, {'id', id, 'event', entry}, 'the outbox is full', t)
    else
      if full then
        strike(channel, oldest[1], oldest[2])
        bury(channel, oldest[2], 'the outbox is full', t)
      end
      enclose(channel, id, entry)
    end
  end
end
"""
)

"""Add notices to outboxes and dead letters, in Lua: bounded in total and per case."""

from worker.store.keys import DEAD_KEPT, OF_ONE_CASE, OUTBOX_KEPT

OUTBOX_LUA = (
    f"local OUTBOX_KEPT, DEAD_KEPT, OF_ONE_CASE = {OUTBOX_KEPT}, {DEAD_KEPT}, {OF_ONE_CASE}\n"
    """
-- Count the entries of each case in a list, so that one case cannot push out another's (S38): each case has a share of
-- its own, and in a full list no entry makes room for a case that has more entries.
local function count_of(cases, case) return tonumber(redis.call('HGET', cases, case) or '0') end
local function adjust_count(cases, case, by)
  if redis.call('HINCRBY', cases, case, by) <= 0 then redis.call('HDEL', cases, case) end
end
local function must_yield(cases, case, other) return count_of(cases, case) >= OF_ONE_CASE or
  other and count_of(cases, case) > count_of(cases, other) end
local function case_of(event) return cjson.decode(event).case_id or '' end
local function outbox_cases(channel) return PREFIX .. ':waiting:' .. channel end

-- Return the value of one field of an entry.
local function field(fields, name)
  for i = 1, #fields, 2 do if fields[i] == name then return fields[i + 1] end end
end

-- Remove an entry from its outbox.
local function remove_entry(channel, position, fields)
  if redis.call('XDEL', PREFIX .. ':outbox:' .. channel, position) == 1 then
    adjust_count(outbox_cases(channel), case_of(field(fields, 'event')), -1)
  end
end

-- Keep an undelivered notice as a dead letter for inspection. The oldest dead letter makes room for it, or it is
-- dropped.
local function add_dead_letter(channel, fields, reason, t)
  local dead, cases = PREFIX .. ':dead', PREFIX .. ':buried'
  local case = case_of(field(fields, 'event'))
  local full = redis.call('LLEN', dead) >= DEAD_KEPT
  local other = full and case_of(cjson.decode(redis.call('LINDEX', dead, -1)).event)
  if must_yield(cases, case, other) then return end
  if full then
    redis.call('RPOP', dead)
    adjust_count(cases, other, -1)
  end
  redis.call('LPUSH', dead, cjson.encode({channel = channel, died_at = stamp(t), reason = reason,
    id = field(fields, 'id'), event = field(fields, 'event')}))
  adjust_count(cases, case, 1)
end

local function add_entry(channel, id, entry)
  redis.call('XADD', PREFIX .. ':outbox:' .. channel, '*', 'id', id, 'event', entry)
  adjust_count(outbox_cases(channel), case_of(entry), 1)
end

-- Write a notice to the outbox of each channel, in the script that makes the change. Without room, the oldest entry or
-- the new one becomes a dead letter.
local function enqueue_notice(id, entry)
  local case, t = case_of(entry), now()
  for _, channel in ipairs(CHANNELS) do
    local outbox = PREFIX .. ':outbox:' .. channel
    local full = redis.call('XLEN', outbox) >= OUTBOX_KEPT
    local oldest = full and redis.call('XRANGE', outbox, '-', '+', 'COUNT', 1)[1]
    local yields_itself = must_yield(outbox_cases(channel), case, oldest and case_of(field(oldest[2], 'event')))
    if full or yields_itself then redis.call('HINCRBY', PREFIX .. ':notices', channel .. ':pushed_out', 1) end
    if yields_itself then
      add_dead_letter(channel, {'id', id, 'event', entry}, 'the outbox is full', t)
    else
      if full then
        remove_entry(channel, oldest[1], oldest[2])
        add_dead_letter(channel, oldest[2], 'the outbox is full', t)
      end
      add_entry(channel, id, entry)
    end
  end
end
"""
)

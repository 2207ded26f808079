"""The token buckets that all workers share, in Lua: who may go now, and when everybody else may come back."""

BURST = 0.05  # seconds' worth of tokens that a bucket saves up: the jitter of a timer costs none
EASE = 1.03  # by which waiting takes longer than tokens do, so that those who came in vain can be served in between
EARLY_BY = 1  # seconds by which a process's clock may be ahead of the store's

# Invariant: no more than `rate` tokens leave a bucket in any one second, whoever asks and however late. Who gets none
# is told a time of its own to come back at, so that those who wait do not all come at once; who came at its time and
# still found none goes before those who are new. `slot` is the time that was told before, nil for the first time.
ADMIT = (
    f"local BURST, EASE, SLOT_EARLY = {BURST}, {EASE}, {EARLY_BY}"
    """
local function fine(t) return string.format('%.6f', t) end  -- a thousand tokens a second need more than milliseconds

local function admit(bucket, rate, t, slot)
  local b = redis.call('HMGET', bucket, 'next', 'tail', 'front')
  local next, tail, front = tonumber(b[1] or '0'), tonumber(b[2] or '0'), tonumber(b[3] or '0')
  local gap, in_time = (1 + BURST) / rate, slot and t >= slot - SLOT_EARLY
  if slot and not in_time then return slot end
  local at
  if t > next - BURST and (in_time or math.max(tail, front) <= t) then
    next = math.max(next, t) + gap
  elseif in_time then
    front = math.max(front, next - BURST, t) + gap
    at = front
  else
    tail = math.max(tail, next, t) + gap * EASE
    at = tail
  end
  redis.call('HSET', bucket, 'next', fine(next), 'tail', fine(tail), 'front', fine(front))
  redis.call('PEXPIRE', bucket, math.ceil(math.max(next, tail, front, t) - t) * 1000 + 60000)
  return at
end
"""
)

# Invariant: whoever asks outside a poll takes its token ahead of time and waits, or is sent away: never more than
# `longest` seconds ahead, so that polls find tokens as well.
RESERVE = """
local bucket = unpack(KEYS)
local rate, longest = unpack(ARGV)
local t, next = now(), tonumber(redis.call('HGET', bucket, 'next') or '0')
local wait = math.max(0, next - BURST - t)
if wait > tonumber(longest) then return false end
next = math.max(next, t) + (1 + BURST) / rate
redis.call('HSET', bucket, 'next', fine(next))
redis.call('PEXPIRE', bucket, math.ceil(next - t) * 1000 + 60000)
return stamp(wait)
"""

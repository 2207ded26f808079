"""The token buckets that all workers share, in Lua; polls take theirs as they are dispatched (dispatch_steps.py)."""

SPARE = 0.05  # of a limit that is held back for the jitter between a token and the wire
EARLY_BY = 1  # seconds by which a process's clock may be ahead of the store's

# Invariant: tokens are a fixed distance apart, so that no more than `rate` have their time in any one second, whoever
# asks and however late. Returns the seconds until the token's time; or nil and a time of one's own to come back at, so
# that those who wait do not all come at once. Who came at its time in vain goes before those who are new.
# `slot` is the time that was told before, nil for the first time; `ahead` the longest wait for a token.
ADMIT = (
    f"local SPARE, SLOT_EARLY = {SPARE}, {EARLY_BY}"
    """
local function fine(t) return string.format('%.6f', t) end  -- a thousand tokens a second need more than milliseconds

local function admit(bucket, rate, t, slot, ahead)
  local b = redis.call('HMGET', bucket, 'next', 'tail', 'front')
  local next, tail, front = tonumber(b[1] or '0'), tonumber(b[2] or '0'), tonumber(b[3] or '0')
  local gap, in_time, wait, at = (1 + SPARE) / rate, slot and t >= slot - SLOT_EARLY, nil, nil
  if slot and not in_time then return nil, slot end
  if next - t <= ahead and (in_time or math.max(tail, front) <= t) then
    wait = math.max(0, next - t)
    next = t + wait + gap
  elseif in_time then
    front = math.max(front, next, t) + gap
    at = front
  else
    tail = math.max(tail, next, t) + gap
    at = tail
  end
  redis.call('HSET', bucket, 'next', fine(next), 'tail', fine(tail), 'front', fine(front))
  redis.call('PEXPIRE', bucket, math.ceil(math.max(next, tail, front, t) - t) * 1000 + 60000)
  return wait, at
end
"""
)

# Invariant: whoever asks outside a poll takes its token ahead of time and waits for it, or is sent away: never more
# than `longest` seconds ahead, so that polls find tokens as well.
RESERVE = """
local bucket = unpack(KEYS)
local longest = unpack(ARGV)
local t, next = now(), tonumber(redis.call('HGET', bucket, 'next') or '0')
local wait = math.max(0, next - t)
if wait > tonumber(longest) then return false end
next = t + wait + (1 + SPARE) / STATUS_RATE
redis.call('HSET', bucket, 'next', fine(next))
redis.call('PEXPIRE', bucket, math.ceil(next - t) * 1000 + 60000)
return stamp(wait)
"""

"""Share token buckets among all workers, in Lua; the dispatcher takes the tokens of polls (dispatches.py)."""

SPARE = 0.05  # share of a limit held back for the jitter between a token and the wire
EARLY_BY = 1  # seconds by which a process's clock may be ahead of the store's

# Invariant: tokens are a fixed distance apart and never accumulate, so that at most `rate` requests fall into any one
# second. Only a process that stalls between token and request sends the polls it holds together: two seconds' worth,
# its lease, at most. Returns the seconds until the token's time; a throttled caller gets nil and a retry time of its
# own, so that waiting callers do not return all at once. A caller that returns at its retry time and is throttled
# again precedes new ones. `slot` is the retry time given before, nil on the first attempt; `ahead` is the longest
# wait for a token.
ADMIT = (
    f"local SPARE, SLOT_EARLY = {SPARE}, {EARLY_BY}"
    """
local function fine(t) return string.format('%.6f', t) end  -- milliseconds are too coarse for 1,000 tokens a second

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

# Invariant: a query outside a poll reserves its token ahead and waits for it, or is refused. Reservations reach at most
# `longest` seconds ahead, so that polls get tokens too.
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

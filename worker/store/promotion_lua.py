"""Notice the promotion of a replica, in Lua: records may be older than reality from then on (S41)."""

# Invariant: each promotion that a script notices starts a new era, and the number of eras never falls. A promoted
# replica keeps the replication id of its former primary as the second one; a server that has merely restarted has none.
# Where the user may not read it, or the server hides it, no promotion is noticed.
#
# A pair whose ledger is of an earlier era, or lost, may have a call that no record knows: for a day its next claim
# queries upstream first. The time of the notice is on the clock of this server, like `t`; those of the ledger may be on
# that of its former primary.
PROMOTION = """
local function outdated(t, era_of_ledger)
  local info = redis.pcall('INFO', 'replication')
  local id = type(info) == 'string' and string.match(info, 'master_replid:(%x+)')
  if not id then return false end
  local key = PREFIX .. ':primary'
  local known = redis.call('HMGET', key, 'id', 'era', 'since')
  local era, since = known[2] or '0', tonumber(known[3] or '')
  if known[1] ~= id then
    redis.call('HSET', key, 'id', id)
    if known[1] and not string.match(info, 'master_replid2:0+%s') then
      era, since = tostring(redis.call('HINCRBY', key, 'era', 1)), t
      redis.call('HSET', key, 'since', stamp(t))
    end
  end
  local recent = since and t - since <= LAST_FAILURE_TTL / 1000
  return recent and (era_of_ledger or '0') ~= era, era, since
end
"""

"""Take due polls in Redis, each under a lease."""

import redis

from worker.core.messages import PollMessage
from worker.core.poll_model import DuePolls
from worker.store.base import Scripts
from worker.store.keys import LEASED, Keys
from worker.store.limits import SPARE
from worker.store.terms import Terms, constants, milliseconds

PROBES = 5  # queries per interval of an outage: at least one (S29)
AHEAD = 0.3  # seconds by which tokens of a limit are given out ahead: two rounds of a dispatcher
RETURNED = 1_000  # expired leases per script: a few milliseconds of Redis' only thread

# Invariant: one dispatcher at a time takes a poll, the longest overdue first, with the fencing token (`poll_no`) of its
# record (S28). After an expired lease the poll is due again at its own due time, so that it precedes polls that became
# due later. Where queries are limited, each poll needs a token of the rate limit; tokens are a fixed distance apart and
# never accumulate. During an outage only probes are taken: all other calls skip this due time, and the skip does not
# count as a failure (S29). A poll that only ends its watch makes no query, so it needs neither a token nor a probe.
TAKE_DUE = """
local due_key, outage, probe, bucket = unpack(KEYS)
local limit = unpack(ARGV)
limit = tonumber(limit)
local t, reissued, taken = now(), 0, {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', due_key, LEASED, LEASED + t, 'LIMIT', 0, RETURNED)) do
  local due = redis.call('HGET', PREFIX .. ':job:' .. id, 'due')
  if due then
    redis.call('ZADD', due_key, due, id)
    reissued = reissued + 1
  else
    redis.call('ZREM', due_key, id)
  end
end
if reissued > 0 then count('reissued', reissued) end
local ids = limit > 0 and redis.call('ZRANGEBYSCORE', due_key, '-inf', t, 'LIMIT', 0, limit) or {}
local in_outage = #ids > 0 and redis.call('EXISTS', outage) == 1
local probed = in_outage and redis.call('EXISTS', probe) == 1
local token_at = STATUS_RATE > 0 and #ids > 0 and math.max(t, tonumber(redis.call('HGET', bucket, 'next') or '0'))
local asked = 0
for _, id in ipairs(ids) do
  local job = PREFIX .. ':job:' .. id
  local r = redis.call('HMGET', job, 'poll_no', 'due', 'deadline', 'retry_count', 'case_id', 'mediation_id',
    'person_id', 'root', 'last_polled_at', 'watched_at', 'verdict')
  local due, deadline, not_before = tonumber(r[2] or 0), tonumber(r[3] or 0), 0
  -- The same rule as may_query in core/decision.py, without its test of the failures in a row.
  local asks = due < deadline or not r[9] or t - due >= INTERVAL
  if not r[1] or r[11] then
    redis.call('ZREM', due_key, id)
  elseif probed and due < deadline then
    local later = math.min(due + INTERVAL * (math.floor((t - due) / INTERVAL) + 1), deadline)
    redis.call('HSET', job, 'due', stamp(later))
    redis.call('ZADD', due_key, stamp(later), id)
    count('polls:nothing')
  else
    if asks and token_at and not (in_outage and due >= deadline) then
      if token_at - t > AHEAD then break end
      not_before, token_at, asked = token_at, token_at + (1 + SPARE) / STATUS_RATE, asked + 1
    end
    if in_outage and due < deadline then
      redis.call('SET', probe, id, 'PX', PROBE_TTL)
      probed = true
    end
    redis.call('ZADD', due_key, LEASED + t + LEASE, id)
    taken[#taken + 1] = {id, r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8] or '',
      stamp(due - tonumber(r[9] or r[10])), stamp(not_before)}
  end
end
if asked > 0 then
  redis.call('HSET', bucket, 'next', string.format('%.6f', token_at))
  redis.call('PEXPIRE', bucket, math.ceil(token_at - t) * 1000 + 60000)
end
return {reissued, taken}
"""


class DispatchScripts(Scripts):
    """Take due polls for the dispatcher; see worker.core.interfaces.Store."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        probe_ttl = milliseconds(terms.interval / PROBES)
        names = constants(LEASED=LEASED, RETURNED=RETURNED, SPARE=SPARE, AHEAD=AHEAD, PROBE_TTL=probe_ttl)
        self._take_due = self.script(names + TAKE_DUE)

    def take_due(self, *, limit: int) -> DuePolls:
        """Take at most `limit` due polls, the longest overdue first.

        Before that, make polls with an expired lease due again, also with a limit of 0; `reissued` is their number.
        """
        k = self.keys
        reissued, taken = self.run(self._take_due, [k.due, k.outage, k.probe, k.bucket("status")], [limit])
        return DuePolls([_message(*fields) for fields in taken], reissued)


def _message(  # noqa: PLR0913, PLR0917 - the fields of a record, as the script returns them
    job_id: str,
    poll_no: str,
    due: str,
    deadline: str,
    retry_count: str,
    case_id: str,
    mediation_id: str,
    person_id: str,
    root: str,
    countdown: str,
    not_before: str,
) -> PollMessage:
    return PollMessage(
        job_id=job_id,
        case_id=case_id,
        mediation_id=mediation_id,
        person_id=person_id,
        countdown=max(0.0, float(countdown)),
        due=float(due),
        deadline=float(deadline),
        retry_count=int(retry_count),
        poll_no=int(poll_no),
        root_id=root,
        not_before=float(not_before),
    )

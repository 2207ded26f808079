"""Manage notices in Redis: the leader lock of delivery, waiting entries, delivered entries, dead letters."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import redis

from worker.core.model import OutboxEntry
from worker.core.notice import CHANNELS, NoticeChannel
from worker.store.base import Scripts
from worker.store.keys import Keys
from worker.store.terms import Terms, milliseconds

BATCH = 500  # entries per script: a few milliseconds of the server's time

# Invariant: one worker at a time delivers over a channel; it holds the leader lock while it renews it.
ACQUIRE_LEADER_LOCK = """
local notifier = unpack(KEYS)
local token, ttl = unpack(ARGV)
if redis.call('GET', notifier) == token then return redis.call('PEXPIRE', notifier, ttl) end
return redis.call('SET', notifier, token, 'NX', 'PX', ttl) and 1 or 0
"""

CHECK_ENTRY = """
local notifier, outbox = unpack(KEYS)
local token, position = unpack(ARGV)
if redis.call('GET', notifier) ~= token then return 'not ours' end
return #redis.call('XRANGE', outbox, position, position) == 0 and 'gone' or 'here'
"""

# A delivery counts even if the entry is gone: a notice that was pushed out during its delivery has still been
# delivered.
DELIVERED = """
local outbox, notices = unpack(KEYS)
local channel, position = unpack(ARGV)
local found = redis.call('XRANGE', outbox, position, position)
if #found > 0 then remove_entry(channel, position, found[1][2]) end
redis.call('HINCRBY', notices, channel .. ':delivered', 1)
"""

# Invariant: an entry leaves the outbox only when it was delivered, or in the step that adds it to the dead letters.
GIVE_UP = """
local outbox, notices = unpack(KEYS)
local channel, position, reason = unpack(ARGV)
local t, found = now(), redis.call('XRANGE', outbox, position, position)
if #found == 0 then return 1 end
if t - tonumber(string.match(position, '^%d+')) / 1000 < NOTICE_AGE then return 0 end
remove_entry(channel, position, found[1][2])
add_dead_letter(channel, found[1][2], reason, t)
redis.call('HINCRBY', notices, channel .. ':given_up', 1)
return 1
"""

# Invariant: a dead letter returns to the outbox that it came from, or stays; the oldest one first.
REPLAY = """
local dead = unpack(KEYS)
local limit = unpack(ARGV)
local moved = 0
for _ = 1, tonumber(limit) do
  local text = redis.call('LINDEX', dead, -1)
  if not text then break end
  local letter = cjson.decode(text)
  local outbox = PREFIX .. ':outbox:' .. letter.channel
  if redis.call('XLEN', outbox) >= OUTBOX_KEPT then break end
  add_entry(letter.channel, letter.id, letter.event)
  redis.call('RPOP', dead)
  adjust_count(PREFIX .. ':buried', case_of(letter.event), -1)
  moved = moved + 1
end
return moved
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """State of one channel: number of waiting entries, time of the oldest (epoch seconds), counters of ends."""

    channel: NoticeChannel
    waiting: int
    oldest_at: float | None
    delivered: int
    given_up: int
    pushed_out: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A notice that was given up at `died_at` (epoch seconds), with the reason."""

    channel: str
    notice_id: str
    event: dict[str, Any]
    reason: str
    died_at: float


class RedisOutbox:
    """Outbox of one channel; see worker.core.interfaces.Outbox."""

    def __init__(self, scripts: "OutboxScripts", channel: NoticeChannel) -> None:
        self.channel = channel
        self._scripts = scripts
        self._outbox = scripts.keys.outbox(channel)
        self._notifier = scripts.keys.notifier(channel)

    def acquire_leader_lock(self, token: str, seconds: float) -> bool:
        """Acquire or renew the leader lock of the channel for `seconds`; return False if another worker holds it."""
        return bool(
            self._scripts.run(self._scripts.acquire_leader_lock, [self._notifier], [token, milliseconds(seconds)])
        )

    def read(self, after: str, *, limit: int) -> list[OutboxEntry]:
        """Return at most `limit` entries after a position (`-`: from the beginning), the oldest first."""
        first = after if after == "-" else f"({after}"
        with self._scripts.translated():
            found = cast(
                "list[tuple[str, dict[str, str]]]", self._scripts.client.xrange(self._outbox, first, "+", count=limit)
            )
        return [OutboxEntry(position, fields["id"], json.loads(fields["event"])) for position, fields in found]

    def look(self, entry: OutboxEntry, token: str) -> Literal["here", "gone", "not ours"]:
        """Return whether an entry still waits for delivery and this worker still holds the leader lock."""
        keys, args = [self._notifier, self._outbox], [token, entry.position]
        return cast('Literal["here", "gone", "not ours"]', self._scripts.run(self._scripts.look, keys, args))

    def delivered(self, entry: OutboxEntry) -> None:
        """Remove a delivered entry and count the delivery."""
        keys = [self._outbox, self._scripts.keys.notices]
        self._scripts.run(self._scripts.delivered, keys, [self.channel, entry.position])

    def give_up(self, entry: OutboxEntry, reason: str) -> bool:
        """Move an entry that is too old to the dead letters; return False if it must be retried."""
        keys = [self._outbox, self._scripts.keys.notices]
        return bool(self._scripts.run(self._scripts.give_up, keys, [self.channel, entry.position, reason]))


class OutboxScripts(Scripts):
    """Deliver, give up and replay notices."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        self.acquire_leader_lock = self.script(ACQUIRE_LEADER_LOCK)
        self.look = self.script(CHECK_ENTRY)
        self.delivered = self.script(DELIVERED)
        self.give_up = self.script(GIVE_UP)
        self._replay = self.script(REPLAY)

    def outbox(self, channel: NoticeChannel) -> RedisOutbox:
        """Return the outbox of a channel."""
        return RedisOutbox(self, channel)

    def notices(self) -> list[Waiting]:
        """Return the state of each channel that is configured or still has entries."""
        oldest: dict[str, float] = {}
        for channel in CHANNELS:
            for entry in self.outbox(channel).read("-", limit=1):
                oldest[channel] = float(entry.position.partition("-")[0]) / 1000
        return self.waiting(oldest)

    def waiting(self, oldest: Mapping[str, float]) -> list[Waiting]:
        """Return the same without reading entries; `oldest` gives the time of each channel's oldest entry."""
        with self.translated():
            counts = cast("dict[str, str]", self.client.hgetall(self.keys.notices))
            sizes = {one: int(self.client.xlen(self.keys.outbox(one))) for one in CHANNELS}
        return [
            Waiting(
                channel,
                size,
                oldest.get(channel) if size else None,
                *(int(counts.get(f"{channel}:{end}", "0")) for end in ("delivered", "given_up", "pushed_out")),
            )
            for channel, size in sizes.items()
            if size or channel in self.terms.channels
        ]

    def number_of_dead_letters(self) -> int:
        """Return the number of dead letters."""
        with self.translated():
            return int(self.client.llen(self.keys.dead))

    def dead_letters(self) -> list[DeadLetter]:
        """Return the dead letters, the newest first."""
        with self.translated():
            found = cast("list[str]", self.client.lrange(self.keys.dead, 0, -1))
        return [_dead(json.loads(text)) for text in found]

    def replay(self) -> int:
        """Move the dead letters back into their outboxes, the oldest first; return how many found room."""
        left, moved = self.number_of_dead_letters(), 0
        while moved < left:
            batch = int(self.run(self._replay, [self.keys.dead], [min(BATCH, left - moved)]))
            if not batch:
                break
            moved += batch
        return moved

    def delete_dead_letters(self, case_id: str) -> int:
        """Delete every outbox entry and dead letter of a case; return their number."""
        found = 0
        with self.translated():
            for channel in CHANNELS:
                name = self.keys.outbox(channel)
                found += sum(self.client.xdel(name, entry) for entry, _ in self.entries(name, case_id))
            found += self._delete_dead(case_id)
            for name in (*map(self.keys.outbox_cases, CHANNELS), self.keys.dead_cases):
                self.client.hdel(name, case_id)
        return found

    def entries(self, stream: str, case_id: str) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield a stream's entries with an event of the case, read in batches of `BATCH`."""
        first = "-"
        while found := cast("list[tuple[str, dict[str, str]]]", self.client.xrange(stream, first, "+", count=BATCH)):
            yield from (one for one in found if json.loads(one[1]["event"]).get("case_id") == case_id)
            first = f"({found[-1][0]}"

    def _delete_dead(self, case_id: str) -> int:
        """Delete the dead letters of a case, read from the oldest on, because new ones are added at the other end."""
        deleted = kept = 0
        while found := cast("list[str]", self.client.lrange(self.keys.dead, -kept - BATCH, -kept - 1)):
            for text in found:
                if _dead(json.loads(text)).event.get("case_id") == case_id:
                    deleted += int(self.client.lrem(self.keys.dead, -1, text))
                else:
                    kept += 1
        return deleted


def _dead(letter: dict[str, str]) -> DeadLetter:
    return DeadLetter(
        letter["channel"], letter["id"], json.loads(letter["event"]), letter["reason"], float(letter["died_at"])
    )

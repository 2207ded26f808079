"""The steps of notices in Redis: whose turn it is to deliver, what waits, what was taken, what was given up."""

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

BATCH = 500  # letters in one step: a few milliseconds of the server's time

# Invariant: of all workers one delivers over a channel; it keeps the turn as long as it renews it.
TAKE_TURN = """
local notifier = unpack(KEYS)
local token, turn = unpack(ARGV)
if redis.call('GET', notifier) == token then return redis.call('PEXPIRE', notifier, turn) end
return redis.call('SET', notifier, token, 'NX', 'PX', turn) and 1 or 0
"""

LOOK = """
local notifier, outbox = unpack(KEYS)
local token, position = unpack(ARGV)
if redis.call('GET', notifier) ~= token then return 'not ours' end
return #redis.call('XRANGE', outbox, position, position) == 0 and 'gone' or 'here'
"""

# A delivery is counted whether or not the letter still stands: one that was pushed out meanwhile was taken all the same
DELIVERED = """
local outbox, notices = unpack(KEYS)
local channel, position = unpack(ARGV)
local found = redis.call('XRANGE', outbox, position, position)
if #found > 0 then strike(channel, position, found[1][2]) end
redis.call('HINCRBY', notices, channel .. ':delivered', 1)
"""

# Invariant: a letter leaves the outbox because it was taken, or together with its entry among the dead ones.
GIVE_UP = """
local outbox, notices = unpack(KEYS)
local channel, position, reason = unpack(ARGV)
local t, found = now(), redis.call('XRANGE', outbox, position, position)
if #found == 0 then return 1 end
if t - tonumber(string.match(position, '^%d+')) / 1000 < NOTICE_AGE then return 0 end
strike(channel, position, found[1][2])
bury(channel, found[1][2], reason, t)
redis.call('HINCRBY', notices, channel .. ':given_up', 1)
return 1
"""

# Invariant: a dead letter goes back into the outbox that it came from, or stays; the oldest one first.
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
  enclose(letter.channel, letter.id, letter.event)
  redis.call('RPOP', dead)
  tally(PREFIX .. ':buried', case_of(letter.event), -1)
  moved = moved + 1
end
return moved
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """How one channel stands: letters that wait, since when the oldest (epoch seconds), and how many had which end."""

    channel: NoticeChannel
    waiting: int
    oldest_at: float | None
    delivered: int
    given_up: int
    pushed_out: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A notice that was given up `died_at` (epoch seconds), and why."""

    channel: str
    notice_id: str
    event: dict[str, Any]
    reason: str
    died_at: float


class RedisOutbox:
    """The outbox of one channel; see worker.core.interfaces.Outbox."""

    def __init__(self, steps: "OutboxScripts", channel: NoticeChannel) -> None:
        self.channel = channel
        self._steps = steps
        self._outbox = steps.keys.outbox(channel)
        self._notifier = steps.keys.notifier(channel)

    def acquire_leader_lock(self, token: str, seconds: float) -> bool:
        """Take or keep the turn to deliver for so long; False where another one has it."""
        return bool(self._steps.run(self._steps.acquire_leader_lock, [self._notifier], [token, milliseconds(seconds)]))

    def read(self, after: str, *, limit: int) -> list[OutboxEntry]:
        """Return letters after a position (`-`: from the beginning), the oldest first."""
        first = after if after == "-" else f"({after}"
        with self._steps.translated():
            found = cast(
                "list[tuple[str, dict[str, str]]]", self._steps.client.xrange(self._outbox, first, "+", count=limit)
            )
        return [OutboxEntry(position, fields["id"], json.loads(fields["event"])) for position, fields in found]

    def look(self, letter: OutboxEntry, token: str) -> Literal["here", "gone", "not ours"]:
        """Tell whether a letter still has to be delivered, and by this turn."""
        keys, args = [self._notifier, self._outbox], [token, letter.position]
        return cast('Literal["here", "gone", "not ours"]', self._steps.run(self._steps.look, keys, args))

    def delivered(self, letter: OutboxEntry) -> None:
        """Strike a letter out."""
        keys = [self._outbox, self._steps.keys.notices]
        self._steps.run(self._steps.delivered, keys, [self.channel, letter.position])

    def give_up(self, letter: OutboxEntry, reason: str) -> bool:
        """Put a letter that is too old with the dead ones; False where it is to be tried again."""
        keys = [self._outbox, self._steps.keys.notices]
        return bool(self._steps.run(self._steps.give_up, keys, [self.channel, letter.position, reason]))


class OutboxScripts(Scripts):
    """What is done with notices."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        self.acquire_leader_lock = self.script(TAKE_TURN)
        self.look = self.script(LOOK)
        self.delivered = self.script(DELIVERED)
        self.give_up = self.script(GIVE_UP)
        self._replay = self.script(REPLAY)

    def outbox(self, channel: NoticeChannel) -> RedisOutbox:
        """Return the outbox of a channel."""
        return RedisOutbox(self, channel)

    def notices(self) -> list[Waiting]:
        """Return how each channel stands that is told over, or has letters left from when it was."""
        oldest: dict[str, float] = {}
        for channel in CHANNELS:
            for letter in self.outbox(channel).read("-", limit=1):
                oldest[channel] = float(letter.position.partition("-")[0]) / 1000
        return self.waiting(oldest)

    def waiting(self, oldest: Mapping[str, float]) -> list[Waiting]:
        """Return the same without a look at any letter; `oldest` says since when each channel's oldest waits."""
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
        """Return how many dead letters are kept."""
        with self.translated():
            return int(self.client.llen(self.keys.dead))

    def dead_letters(self) -> list[DeadLetter]:
        """Return the dead letters, the newest first."""
        with self.translated():
            texts = cast("list[str]", self.client.lrange(self.keys.dead, 0, -1))
        return [_dead(json.loads(text)) for text in texts]

    def replay(self) -> int:
        """Put the dead letters back into their outboxes, the oldest first; returns how many found room."""
        left, moved = self.number_of_dead_letters(), 0
        while moved < left:
            step = int(self.run(self._replay, [self.keys.dead], [min(BATCH, left - moved)]))
            if not step:
                break
            moved += step
        return moved

    def delete_dead_letters(self, case_id: str) -> int:
        """Delete every outbox entry and dead letter of a case; returns how many there were."""
        found = 0
        with self.translated():
            for channel in CHANNELS:
                name = self.keys.outbox(channel)
                found += sum(self.client.xdel(name, entry) for entry, _ in self.entries(name, case_id))
            found += self._forget_dead(case_id)
            for name in (*map(self.keys.outbox_cases, CHANNELS), self.keys.dead_cases):
                self.client.hdel(name, case_id)
        return found

    def entries(self, stream: str, case_id: str) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield a stream's entries that hold an event of the case, read in pieces of `BATCH`."""
        first = "-"
        while found := cast("list[tuple[str, dict[str, str]]]", self.client.xrange(stream, first, "+", count=BATCH)):
            yield from (one for one in found if json.loads(one[1]["event"]).get("case_id") == case_id)
            first = f"({found[-1][0]}"

    def _forget_dead(self, case_id: str) -> int:
        """Delete the dead letters of a case, read from the oldest on: new ones come in at the other end of the list."""
        deleted = kept = 0
        while texts := cast("list[str]", self.client.lrange(self.keys.dead, -kept - BATCH, -kept - 1)):
            for text in texts:
                if _dead(json.loads(text)).event.get("case_id") == case_id:
                    deleted += int(self.client.lrem(self.keys.dead, -1, text))
                else:
                    kept += 1
        return deleted


def _dead(letter: dict[str, str]) -> DeadLetter:
    return DeadLetter(
        letter["channel"], letter["id"], json.loads(letter["event"]), letter["reason"], float(letter["died_at"])
    )

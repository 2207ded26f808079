"""Read calls, pairs and events for operators, and switch new calls off and on."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, cast

import redis

from worker.core.decision import Phase, Verdict
from worker.core.model import Call, Event, EventKind, Pair, PairState, Pause
from worker.store.base import event_json
from worker.store.durable import DurableScripts
from worker.store.keys import AUDIT_KEPT, Keys, pair_of
from worker.store.terms import Terms, constants

NOTE = """
-- Announce an operator's action and keep it in the audit list.
local function note(t, event)
  local _, entry = announce(PREFIX .. ':events', t, event)
  redis.call('LPUSH', PREFIX .. ':audit', entry)
  redis.call('LTRIM', PREFIX .. ':audit', 0, AUDIT_KEPT - 1)
end
"""

# Invariant: while new calls are stopped, the flag states by, reason and time; the latest stop replaces earlier ones
# (S16).
PAUSE = """
local paused = unpack(KEYS)
local stop, event = unpack(ARGV)
local t, before = now(), redis.call('EXISTS', paused)
redis.call('SET', paused, '{"at":' .. stamp(t) .. ',' .. string.sub(stop, 2))
note(t, event)
return before
"""

# Invariant: only an operator's order removes the flag, and the order is kept; without a flag nothing changes (S16).
RESUME = """
local paused = unpack(KEYS)
local event = unpack(ARGV)
local before = redis.call('DEL', paused)
if before == 1 then note(now(), event) end
return before
"""


class Queries(DurableScripts):
    """Read the state for operators, and switch new calls (S16). All methods raise StoreUnavailable."""

    def __init__(self, client: redis.Redis, keys: Keys, terms: Terms) -> None:
        super().__init__(client, keys, terms)
        note = constants(AUDIT_KEPT=AUDIT_KEPT) + NOTE
        self._pause = self.script(note + PAUSE)
        self._resume = self.script(note + RESUME)

    def calls(self, *, case_id: str | None = None, job_id: str | None = None, finished: bool = False) -> list[Call]:
        """Return the watched calls, and on request the finished ones, the oldest first."""
        with self.translated():
            if job_id is not None:
                ids = {job_id}
            elif case_id is not None:
                ids = cast("set[str]", self.client.smembers(self.keys.jobs(case_id)))
            else:
                ids = set(self._members(self.keys.due))
                if finished:
                    ids |= set(self._members(self.keys.finished))
            records = self._hashes(self.keys.job(one) for one in ids)
        calls = [call_of(record) for record in records if record]
        wanted = (call for call in calls if finished or job_id is not None or call.verdict is None)
        return sorted(
            (call for call in wanted if case_id in (None, call.case_id)),
            key=lambda call: (call.started_at, call.job_id),
        )

    def pairs(self, *, case_id: str | None = None, finished: bool = False) -> list[PairState]:
        """Return the pairs whose last trigger is not done, the oldest first; on request the done ones before them."""
        with self.translated():
            members = self._members(self.keys.pairs)
            if finished:
                members = [*self._members(self.keys.done), *members]
            pairs = [pair for pair in map(pair_of, members) if case_id in (None, pair.case_id)]
            ledgers = self._hashes(self.keys.ledger(pair) for pair in pairs)
        states = [
            pair_state(pair, ledger, self.terms)
            for pair, ledger in zip(pairs, ledgers, strict=True)
            if "phase" in ledger
        ]
        # The set of pairs has the order of the next look-ups.
        return sorted(states, key=lambda state: (state.phase != "done", state.since or 0))

    def refused(self, pairs: Sequence[Pair]) -> list[list[dict[str, Any]]]:
        """Return the refusals of each pair's last trigger, with upstream's own texts and unmasked person ids."""
        with self.translated():
            pipeline = self.client.pipeline(transaction=False)
            for pair in pairs:
                pipeline.hget(self.keys.ledger(pair), "task_id")
            tasks = [self.keys.task(task_id or "") for task_id in cast("list[str | None]", pipeline.execute())]
            results = cast("list[str | None]", self.client.mget(tasks)) if tasks else []
        return [json.loads(result)["refused"] if result else [] for result in results]

    def history(self, case_id: str) -> list[dict[str, Any]]:
        """Return the events of a case, the oldest first (S36)."""
        with self.translated():
            return [json.loads(entry) for entry in self.client.lrange(self.keys.history(case_id), 0, -1)]

    def events(self, after: str, *, wait: float, limit: int | None = None) -> list[tuple[str, dict[str, Any]]]:
        """Return the events after the entry `after` (`$`: from now on), waiting up to `wait` seconds for one.

        At most `limit` events are returned, the oldest ones.
        """
        with self.translated():
            reply = cast(
                "list[tuple[str, list[tuple[str, dict[str, str]]]]] | None",
                self.client.xread({self.keys.events: after}, count=limit, block=max(1, round(wait * 1000))),
            )
        return [(entry, json.loads(fields["event"])) for _, entries in reply or () for entry, fields in entries]

    def first_event(self) -> str | None:
        """Return the id of the oldest entry of the live stream, None where it is empty."""
        with self.translated():
            found = cast("list[tuple[str, dict[str, str]]]", self.client.xrange(self.keys.events, count=1))
        return found[0][0] if found else None

    def pause(self, why: str, *, by: str = "") -> bool:
        """Stop new calls at once (S16); return whether they were stopped before.

        StoreUnconfirmed if a failover may undo the stop (S41).
        """
        stop = json.dumps({"by": by, "why": why}, ensure_ascii=False)
        return bool(self.run_confirmed(self._pause, [self.keys.paused], [stop, _operator_event("paused", by, why)]))

    def resume(self, why: str = "", *, by: str = "") -> bool:
        """Allow new calls again; return False if they were not stopped."""
        return bool(self.run(self._resume, [self.keys.paused], [_operator_event("resumed", by, why)]))

    def is_paused(self) -> bool:
        """Return whether new calls are stopped, without reading the reason."""
        with self.translated():
            return bool(self.client.exists(self.keys.paused))

    def paused(self) -> Pause | None:
        """Return by, reason and time of the stop of new calls; None while they are allowed."""
        with self.translated():
            return stop_of(cast("str | None", self.client.get(self.keys.paused)))

    def audit(self) -> list[dict[str, Any]]:
        """Return the audit list of stops and releases, the newest first."""
        with self.translated():
            return [json.loads(entry) for entry in self.client.lrange(self.keys.audit, 0, -1)]

    def _members(self, name: str) -> list[str]:
        return cast("list[str]", self.client.zrange(name, 0, -1))

    def _hashes(self, names: Iterable[str]) -> list[dict[str, str]]:
        pipeline = self.client.pipeline(transaction=False)
        for name in names:
            pipeline.hgetall(name)
        return cast("list[dict[str, str]]", pipeline.execute())


def stop_of(text: str | None) -> Pause | None:
    """Parse the stop flag; None if it is absent. An earlier release wrote the reason alone."""
    if text is None:
        return None
    try:
        stop = json.loads(text)
        return Pause(str(stop["by"]), str(stop["why"]), float(stop["at"]))
    except (ValueError, TypeError, KeyError):
        return Pause("", text, None)


def pair_state(pair: Pair, ledger: dict[str, str], terms: Terms) -> PairState:
    """Return the state of a pair from its ledger (a hash as read from Redis)."""

    def moment(name: str, later: float = 0) -> float | None:
        return float(ledger[name]) + later if ledger.get(name) else None

    phase = cast("Phase", ledger["phase"])
    until, looking = None, False
    if phase == "sending":
        until = moment("sending_at", terms.sending_limit)
    elif phase == "waiting":
        until = moment("until")
    elif phase == "unknown":
        until, looking = moment("held_until"), "lookup" in ledger and "held_until" not in ledger
    if looking:  # the first answer starts the window again if it arrives after its end
        until, answered = moment("lookup_from", terms.look_up), moment("answered_at")
        if until and answered and answered > until:
            until = answered + terms.look_up
    since = moment(f"{phase}_at") or moment("sending_at")  # a watch that a look-up began has no begin of its own
    return PairState(pair, phase, since, until, looking, int(ledger.get("found", 0)))


def _operator_event(kind: EventKind, by: str, why: str) -> str:
    return event_json(Event(kind, "", "", detail={"by": by, "why": why}))


def call_of(record: dict[str, str]) -> Call:
    """Return the call of a record (a hash as read from Redis)."""

    def moment(name: str) -> float | None:
        return float(record[name]) if record.get(name) else None

    return Call(
        job_id=record["job_id"],
        case_id=record["case_id"],
        mediation_id=record["mediation_id"],
        person_id=record["person_id"],
        call_status=record["call_status"],
        verdict=cast("Verdict | None", record.get("verdict")),
        retry_count=int(record["retry_count"]),
        poll_no=int(record["poll_no"]),
        started_at=float(record["started_at"]),
        watched_at=float(record["watched_at"]),
        deadline=float(record["deadline"]),
        due=float(record["due"]),
        executing_since=moment("executing_since"),
        last_polled_at=moment("last_polled_at"),
        finished_at=moment("finished_at"),
        shared_with=tuple(map(pair_of, record.get("shared_with", "").split())),
    )

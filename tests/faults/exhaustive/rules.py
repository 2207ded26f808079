"""Rules that hold in every content of the store, at every step, and after all work is done."""

from typing import Any

from tests.fakes import START
from tests.faults.exhaustive.flows import SETTINGS, Effect, Message
from tests.faults.exhaustive.snapshots import Published, Snapshot
from tests.faults.exhaustive.state import KEYS, Budget, Request, State
from worker.core.model import Pair
from worker.core.trigger_model import Settlement
from worker.store.keys import member, pair_of

DAY = 86_400
OPEN = ("claimed", "sending", "watching", "unknown")


class Violation(Exception):  # noqa: N818 - the name states the finding
    """A rule is broken."""


def require(holds: object, rule: str, *what: object) -> None:
    """Raise Violation unless a rule holds."""
    if not holds:
        raise Violation(" ".join(map(str, (rule, *what))))


# -- at a request ------------------------------------------------------------------------------------------------------


def judge_request(state: State, message: Message, *, denied: bool) -> None:
    """S17: one task makes one request. S4 S5 S14: no request while a call of the pair is actually running.

    A task id is remembered for a month (S18), a failure for a day. Calls that upstream has denied (`denied`) may be
    dialled again.
    """
    pair = message.pair
    for request in state.requests:
        require(request.task_id != message.task_id, "S17: a second request of", message.task_id)
    for call in state.calls:
        forgotten = call.given_up is not None and START - call.given_up > DAY
        over = call.pair != pair or call.ended or forgotten or denied
        require(over, "S5:", member(pair), "is called while its call", call.number, "is under way")


# -- at a step of the store --------------------------------------------------------------------------------------------


def judge_step(state: State, effect: Effect, reply: Any, after: State, events: list[Published]) -> None:
    """Judge one script by the state before it, its writes and its published events."""
    if effect.name in ("renew", "begin_sending", "adopt", "settle", "defer"):
        _judge_ownership(state, effect, after)
    if effect.name == "begin_sending" and isinstance(reply, float):
        held = [record["job_id"] for record in state.store.watched if member(effect.args[0]) in _holders(record)]
        require(not held, "S18: a request may leave while calls of the pair are watched:", *held)
    if effect.name == "settle":
        _judge_settlement(state, effect.args[0], reply, after)
    if effect.name == "adopt":
        _judge_adoption(state, effect.args[0], after)
    for event in events:
        if event.kind == "nothing_found":
            _judge_nothing_found(state, event)


def _judge_ownership(state: State, effect: Effect, after: State) -> None:
    """S18: a script under a token that is not the ledger's changes nothing, except for calls that an answer names."""
    first = effect.args[0]
    if isinstance(first, Settlement):
        pair, token, jobs = first.pair, first.token, bool(first.jobs)
    else:
        pair, token, jobs = first, effect.args[1], False
        token = getattr(token, "token", token)
    if state.store.ledgers.get(member(pair), {}).get("token") != token and not jobs:
        require(after.store is state.store, "S18:", effect.name, "of another owner has changed something")


def _judge_settlement(state: State, settlement: Settlement, reply: Any, after: State) -> None:
    """S18: no answer is discarded. S14: a call belongs to the pair whose answer names it.

    A call that was found before the request may belong to another mediation whose answer was lost; a call that another
    mediation's answer has named is not taken.
    """
    pair, answered = member(settlement.pair), settlement.sent_at is not None or settlement.phase == "unknown"
    if reply is None and not answered:
        return  # its successor queries upstream as well
    for job in settlement.jobs:
        record = after.store.records.get(job.job_id)
        require(reply is not None and record, "S18: an answer's call has no record:", job.job_id)
        assert record is not None
        watched = "verdict" in record or job.job_id in after.store.scores(KEYS.due)
        require(watched, "S18: a call is not watched:", job.job_id)
        before = state.store.records.get(job.job_id, record)
        shared = not answered and (before["person_id"] == "" or pair in _holders(before))
        require(record["member"] == pair or shared, "S14: a call of another mediation is taken:", job.job_id)


def _judge_adoption(state: State, pair: Pair, after: State) -> None:
    """S14: no call is adopted for a pair while another mediation's own request for it is running."""
    for call in state.calls:
        if call.job_id in after.store.records.keys() - state.store.records.keys() and call.pair != pair:
            phase = state.store.ledgers.get(member(call.pair), {}).get("phase")
            require(phase != "sending", "S14: adopted for another mediation than its own:", call.number)


def _judge_nothing_found(state: State, event: Published) -> None:
    """S14: a call reported as missing was not found."""
    for call in state.calls:
        record = state.store.records.get(call.job_id)
        ledger = state.store.ledgers.get(member(call.pair), {})
        made_by_it = ledger.get("task_id") == call.task_id and float(ledger.get("sending_at", START)) <= call.created
        if record and made_by_it and call.pair.mediation_id == event.mediation_id:
            found = member(call.pair) in _holders(record)
            require(not found, "S14: reported as not found, but there is", call.job_id)


def judge_watch_end(state: State, after: State) -> None:
    """S5: the end of a call does not release a pair during a look-up; S14: the first find does not end the look-up."""
    for name, ledger in after.store.ledgers.items():
        was_open = "lookup" in state.store.ledgers[name]
        require(not was_open or ledger["phase"] != "done", "S5:", name, "is released while it is looked up")


def judge_release(state: State, name: str, after: State) -> None:
    """S14: a person releases only pairs with an unknown outcome."""
    phase = state.store.ledgers[name]["phase"]
    require(phase == "unknown" or after.store is state.store, "S14: a person has released", name, phase)


# -- in every state ----------------------------------------------------------------------------------------------------


class Judge:
    """Judge states, each content once. `left` is the budget of faults at the beginning."""

    def __init__(self, left: Budget) -> None:
        self._left = left
        self._judged: set[tuple[Snapshot, tuple[Request, ...], bool]] = set()

    def __call__(self, state: State) -> None:
        """Raise Violation where a rule is broken."""
        aged = state.left.expiry < self._left.expiry  # days have passed, so keys may have expired
        if (key := (state.store, state.requests, aged)) not in self._judged:
            self._judged.add(key)
            _judge_ledgers(state.store, aged=aged)
            _judge_watches(state.store)
            _judge_lasting(state.store, state.requests)
        if state.at_rest:
            _judge_rest(state)
            if not aged and state.left.hidden == self._left.hidden:
                _judge_calls(state)
            if not aged:
                _judge_outcomes(state)


def _judge_ledgers(store: Snapshot, *, aged: bool) -> None:
    for name, ledger in store.ledgers.items():
        pair, phase = pair_of(name), ledger.get("phase")
        lock, live = store.text(KEYS.lock(pair)), store.members(KEYS.live(pair))
        listed = name in store.scores(KEYS.pairs)
        if phase in OPEN:
            old = aged or START - float(ledger.get("sending_at", START)) > SETTINGS.lock_ttl
            require(lock == ledger["token"] or (lock is None and old), "S18:", name, phase, "has lock", lock)
            require(listed, "S18: no sweep attends to", name, phase)
        if phase == "waiting":
            require(listed and lock is None, "S4:", name, "waits and is locked, or is not listed")
        if phase == "watching":
            require(live or "lookup" in ledger, "S5:", name, "is held by nothing")
        if phase == "done":
            held = any(not _is_watched_again(store.records[job_id]) for job_id in live)
            require(not listed and lock is None, "S5:", name, "is done and locked")
            require(not held and "lookup" not in ledger, "S5:", name, "is done and held")
    locks = set(store.under(f"{KEYS.prefix}:lock:"))
    require(locks <= store.ledgers.keys(), "S5: locks without a ledger")


def _judge_watches(store: Snapshot) -> None:
    """S28: a watched call has its due time and holds its pairs."""
    watched = {record["job_id"]: record for record in store.watched}
    for job_id, record in watched.items():
        require(job_id in store.scores(KEYS.due), "S28: no poll is due for", job_id)
        for holder in _holders(record):
            require(job_id in store.members(KEYS.live(pair_of(holder))), "S5:", job_id, "does not hold", holder)
            phase = store.ledgers.get(holder, {}).get("phase")
            require(phase in OPEN or _is_watched_again(record), "S5:", holder, phase, "is called by", job_id)
    for name in store.under(f"{KEYS.prefix}:live:"):
        require(store.members(KEYS.live(pair_of(name))) <= watched.keys(), "S5: held by a call that has ended:", name)


def _is_watched_again(record: dict[str, str]) -> bool:
    """Tell whether a watch was reopened: its other pairs may be done, and it still holds them."""
    return record["poll_no"] != "1"


def _judge_lasting(store: Snapshot, requests: tuple[Request, ...]) -> None:
    """S18: an open pair is protected without a time to live, by its ledger and its handled task that has dialled."""
    expiries = {name: expires for name, _, expires in store.entries}
    for name, ledger in store.ledgers.items():
        if ledger["phase"] != "done":
            require(expiries[KEYS.ledger(pair_of(name))] is None, "S18: a ledger expires:", name, ledger["phase"])
            dialled = any(request.task_id == ledger["task_id"] for request in requests)
            lasting = not dialled or expiries.get(KEYS.task(ledger["task_id"])) is None
            require(lasting, "S18: a handled task expires:", ledger["task_id"])


def _judge_rest(state: State) -> None:
    """S5: after all work is done, pairs are done."""
    require(not state.store.scores(KEYS.due), "S28: polls are left")
    for name, ledger in state.store.ledgers.items():
        require(ledger["phase"] == "done", "S18:", name, "stays", ledger["phase"])


def _judge_calls(state: State) -> None:
    """S14 S28: after all work is done, every call was watched, unless a person has released its pair."""
    for call in state.calls:
        watched = call.job_id in state.store.records or call.given_up is not None
        require(watched, "S14: a call was never watched:", call.number)


def _judge_outcomes(state: State) -> None:
    """S17: after all work is done, triggers have outcomes, and deferred ones have run."""
    for request in state.requests:
        require(state.store.text(KEYS.task(request.task_id)), "S17: no outcome of", request.task_id)
    for message in state.waiting:
        asked = any(_asks_the_same(message, request.task_id) for request in state.requests)
        ended = '"deferred"' not in (state.store.text(KEYS.task(message.task_id)) or '"deferred"')
        require(asked or ended, "S16: a deferred trigger never runs:", message.task_id)


def _asks_the_same(message: Message, task_id: str) -> bool:
    """Tell whether another task has the same mediation and person; the two are interchangeable."""
    mediation_id, _, person = f"{task_id}::".split(":")[:3]
    return (message.pair.mediation_id, message.person) == (mediation_id, person)


def _holders(record: dict[str, str]) -> list[str]:
    return [record["member"], *record.get("shared_with", "").split()]

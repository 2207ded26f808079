"""Who follows which case, and what each has still to be sent. Pure: no clock, no Redis, no network.

An event is a signal alone: it makes its case dirty. `plan` says which cases are to be read, `apply` takes what was read
and puts into each subscriber's buffer what has changed. A buffer holds the latest state of each call, so it is bounded.
"""

import json
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.showing import NOTICES_SHOWN, START, CaseView, Position, Setting, notices, position
from worker.store.cases import CaseState, Surroundings

BATCH = 200  # cases that are read in one round trip
NOTICES_BUFFERED = 100  # beyond that a reader is too slow to be served
MARGIN = 2_000  # milliseconds that a resumed stream of several cases goes back: their events are sent case by case
FOR_ALL = frozenset({"outage_began", "outage_ended", "paused", "resumed"})
SLOTS = 100  # heartbeats are spread over so many groups of streams

BREAKS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}  # some readers take these for ends of lines

Key = tuple[str, ...]


def frame(event: str, data: Mapping[str, Any], entry: str = "") -> bytes:
    """Return one event of the stream as bytes; `entry` is its id, empty where no event caused it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(BREAKS)
    head = f"id: {entry}\n" if entry else ""
    return f"{head}event: {event}\ndata: {text}\n\n".encode()


@dataclass(eq=False, slots=True)
class Subscriber:
    """One who follows cases; `wake` is called when there is something to send."""

    cases: tuple[str, ...]
    wake: Callable[[], None]
    after: Position | None = None
    slot: int = 0
    joined: bool = False
    closed: str = ""
    overflown: bool = False
    buffer: dict[Key, bytes] = field(default_factory=dict)
    notices: int = 0

    def put(self, key: Key, data: bytes) -> None:
        """Put what is to be sent in the place of an older one of its kind, as the latest."""
        if self.closed:
            return
        if self.buffer.pop(key, None) is None and key[0] == "notice":
            self.notices += 1
            self.overflown = self.overflown or self.notices > NOTICES_BUFFERED
        self.buffer[key] = data
        self.wake()

    def take(self) -> bytes:
        """Return all that is to be sent, and let it go."""
        data = b"".join(self.buffer.values())
        self.buffer.clear()
        self.notices = 0
        return data

    def forget(self, case_id: str) -> None:
        """Let go of what was to be sent of a case."""
        for key in [key for key in self.buffer if key[1:2] == (case_id,)]:
            self.notices -= key[0] == "notice"
            del self.buffer[key]

    def close(self, reason: str, retry: int) -> None:
        """Say good-bye after what is to be sent; `retry` in milliseconds."""
        if not self.closed:
            bye = frame("bye", {"reason": reason, "retry": retry})
            self.put(("bye",), f"retry: {retry}\n".encode() + bye)
            self.closed = reason


@dataclass(slots=True)
class Followed:
    """A case that somebody follows: who, and what they were shown last."""

    subscribers: set[Subscriber] = field(default_factory=set)
    view: CaseView | None = None
    seen: Position = START
    read_at: float = 0.0


class Hub:
    """All subscribers of one process."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._cases: OrderedDict[str, Followed] = OrderedDict()
        self._joining: deque[Subscriber] = deque()
        self._dirty: dict[str, None] = {}
        self._state: dict[str, Any] | None = None
        self._look_around = False
        self._numbers = 0
        self._size = 0
        self.slots: list[set[Subscriber]] = [set() for _ in range(SLOTS)]

    def __len__(self) -> int:
        return self._size

    @property
    def cases(self) -> int:
        """How many cases are followed."""
        return len(self._cases)

    @property
    def wanting(self) -> bool:
        """Whether anything is to be read."""
        return bool(self._dirty or self._joining or self._look_around)

    def join(self, subscriber: Subscriber) -> None:
        """Let one follow its cases; it is sent a snapshot as soon as they are read."""
        self._numbers += 1
        subscriber.slot = self._numbers % SLOTS
        self.slots[subscriber.slot].add(subscriber)
        self._size += 1
        for case_id in subscriber.cases:
            self._cases.setdefault(case_id, Followed()).subscribers.add(subscriber)
        self._joining.append(subscriber)

    def leave(self, subscriber: Subscriber) -> None:
        """Let one follow no more."""
        if subscriber not in self.slots[subscriber.slot]:
            return
        self.slots[subscriber.slot].remove(subscriber)
        self._size -= 1
        for case_id in subscriber.cases:
            followed = self._cases.get(case_id)
            if followed is None:
                continue
            followed.subscribers.discard(subscriber)
            if not followed.subscribers:
                del self._cases[case_id]
                self._dirty.pop(case_id, None)

    def subscribers(self) -> list[Subscriber]:
        """Return all subscribers."""
        return [one for slot in self.slots for one in slot]

    def note(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take events as signals: their cases are to be read again."""
        for event in events:
            if event.get("kind") in FOR_ALL:
                self._look_around = True
            self.touch(str(event.get("case_id", "")))

    def touch(self, case_id: str) -> None:
        """Have a case read again, if anybody follows it."""
        if case_id in self._cases:
            self._dirty[case_id] = None

    def touch_all(self) -> None:
        """Have everything read again: events may have been missed."""
        self._look_around = True
        self._dirty.update(dict.fromkeys(self._cases))

    def touch_old(self, before: float, limit: int) -> None:
        """Have those cases read again that were read last before a time: the net under missed events."""
        for case_id, followed in self._cases.items():
            if limit <= 0 or followed.read_at >= before:
                return
            self._dirty[case_id] = None
            limit -= 1

    def plan(self, recently: Position) -> tuple[list[tuple[str, Position]], list[Subscriber]]:
        """Return the cases to read now, each with the position whose later events are wanted, and who joins by that.

        `recently` is the position from which on a new subscriber is told notices.
        """
        wanted: dict[str, Position] = {}
        joining: list[Subscriber] = []
        while self._joining and len(wanted) < BATCH:
            one = self._joining.popleft()
            if one not in self.slots[one.slot]:
                continue
            joining.append(one)
            for case_id in one.cases:
                since, followed = _since(one, recently), self._cases[case_id]
                known = since if followed.view is None else min(since, followed.seen)
                wanted[case_id] = min(wanted.get(case_id, known), known)
        while self._dirty and len(wanted) < BATCH:
            case_id = next(iter(self._dirty))
            wanted.setdefault(case_id, self._cases[case_id].seen)
            del self._dirty[case_id]
        for case_id in wanted:
            self._dirty.pop(case_id, None)
        self._look_around = False
        return list(wanted.items()), joining

    def failed(self, wanted: Sequence[tuple[str, Position]]) -> None:
        """Take back a plan that could not be read."""
        self._look_around = True
        for case_id, _ in wanted:
            self.touch(case_id)

    def apply(
        self,
        surroundings: Surroundings,
        states: Iterable[CaseState],
        joining: Iterable[Subscriber],
        *,
        recently: Position,
        at: float,
    ) -> None:
        """Give each subscriber what has changed, and those who join their snapshot; `at` is when it was read."""
        self._tell_state(surroundings)
        read = {state.case_id: state for state in states}
        views = {case_id: CaseView.of(state) for case_id, state in read.items()}
        for case_id, state in read.items():
            if case_id in self._cases:
                self._refresh(self._cases[case_id], state, views[case_id], at)
        head = self._setting.head(surroundings)
        for one in joining:
            if one in self.slots[one.slot] and all(case_id in read for case_id in one.cases):
                self._welcome(one, head, [(read[name], views[name]) for name in one.cases], recently)

    def _tell_state(self, surroundings: Surroundings) -> None:
        state = self._setting.state(surroundings)
        if self._state is not None and state != self._state:
            self.tell_all("state", state | {"store": "ok"})
        self._state = state

    def tell_all(self, event: str, data: Mapping[str, Any]) -> None:
        """Tell every subscriber what no case's event has caused."""
        sent = frame(event, data)
        for one in self.subscribers():
            if one.joined:
                one.put((event,), sent)

    def _refresh(self, followed: Followed, state: CaseState, view: CaseView, at: float) -> None:
        before, followed.view, followed.read_at = followed.view, view, at
        self._cases.move_to_end(view.case_id)
        newest = position(state.newest) if state.newest else START
        new = [event for event in state.events if position(event["id"]) > followed.seen]
        followed.seen = max(newest, followed.seen)
        if newest < followed.seen and newest != START:  # the server's clock, or its data, went back
            followed.seen = newest
        if before is None:
            return
        for key, data in _changes(before, view, notices(new, view)):
            for one in followed.subscribers:
                if one.joined:
                    if key[0] == "gone":
                        one.forget(view.case_id)
                    one.put(key, data)

    def _welcome(
        self,
        one: Subscriber,
        head: Mapping[str, Any],
        cases: Sequence[tuple[CaseState, CaseView]],
        recently: Position,
    ) -> None:
        since = _since(one, recently)
        documents, newest = [], START
        for state, view in cases:
            events = [event for event in state.events if position(event["id"]) > since]
            documents.append(view.document(notices(events, view)[-NOTICES_SHOWN:]))
            newest = max(newest, position(state.newest) if state.newest else START)
        entry = f"{newest[0]}-{newest[1]}" if newest != START else ""
        one.joined = True
        one.put(("snapshot",), frame("snapshot", {**head, "cases": documents}, entry))


def _since(one: Subscriber, recently: Position) -> Position:
    if one.after is None:
        return recently
    milliseconds, number = one.after
    return (max(0, milliseconds - MARGIN), 0) if len(one.cases) > 1 else (milliseconds, number)


def _changes(before: CaseView, view: CaseView, told: Iterable[Mapping[str, Any]]) -> Iterable[tuple[Key, bytes]]:
    """Yield what is to be sent of a case that was read again, under the key that a later one replaces it by."""
    case_id = view.case_id
    for notice in told:
        yield ("notice", case_id, notice["id"]), frame("notice", notice, notice["id"])
    vanished = (before.calls.keys() - view.calls.keys()) or (before.pairs.keys() - view.pairs.keys())
    if vanished and not view.calls and not view.pairs:
        yield ("gone", case_id), frame("gone", {"case_id": case_id}, view.newest)
        return
    for job_id, call in view.calls.items():
        if before.calls.get(job_id) != call:
            yield ("call", case_id, job_id), frame("call", {"case_id": case_id, "call": call}, view.newest)
    for mediation_id, pair in view.pairs.items():
        if before.pairs.get(mediation_id) != pair:
            yield ("pair", case_id, mediation_id), frame("pair", {"case_id": case_id, **pair}, view.newest)
    if vanished:
        yield ("vanished", case_id), frame("snapshot", {"cases": [view.document([])]}, view.newest)

"""Subscribers of cases and their send buffers. Pure: no clock, no Redis, no network.

An event only marks its case as dirty. `plan` selects the cases to read; `apply` compares the states read with the last
ones and puts the changes into the buffers of the subscribers. A buffer holds one entry per call, so it is bounded.
"""

import json
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.live_view import NOTICES_SHOWN, START, CaseView, Position, Setting, notices, position
from worker.store.cases import CaseState, SystemState

BATCH = 200  # cases read in one round trip
NOTICES_BUFFERED = 100  # a subscriber with more is dropped as too slow
MARGIN = 2_000  # milliseconds by which a resumed stream of several cases goes back: events are ordered per case only
FOR_ALL = frozenset({"outage_began", "outage_ended", "paused", "resumed"})
SLOTS = 100  # groups of streams over which heartbeats are spread

BREAKS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}  # some parsers treat these as line ends

Key = tuple[str, ...]


def frame(event: str, data: Mapping[str, Any], entry: str = "") -> bytes:
    """Encode one event of the stream; `entry` is its id, empty if no stored event caused it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(BREAKS)
    head = f"id: {entry}\n" if entry else ""
    return f"{head}event: {event}\ndata: {text}\n\n".encode()


@dataclass(eq=False, slots=True)
class Subscriber:
    """A subscriber of cases; `wake` is called when its buffer has data to send."""

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
        """Buffer data as the newest entry, replacing an older entry with the same key."""
        if self.closed:
            return
        if self.buffer.pop(key, None) is None and key[0] == "notice":
            self.notices += 1
            self.overflown = self.overflown or self.notices > NOTICES_BUFFERED
        self.buffer[key] = data
        self.wake()

    def take(self) -> bytes:
        """Return the buffered data and clear the buffer."""
        data = b"".join(self.buffer.values())
        self.buffer.clear()
        self.notices = 0
        return data

    def forget(self, case_id: str) -> None:
        """Remove the buffered entries of a case."""
        for key in [key for key in self.buffer if key[1:2] == (case_id,)]:
            self.notices -= key[0] == "notice"
            del self.buffer[key]

    def close(self, reason: str, retry: int) -> None:
        """Append `bye` to the buffer and accept no more data; `retry` in milliseconds."""
        if not self.closed:
            bye = frame("bye", {"reason": reason, "retry": retry})
            self.put(("bye",), f"retry: {retry}\n".encode() + bye)
            self.closed = reason


@dataclass(slots=True)
class Followed:
    """A followed case: its subscribers and the state sent last."""

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
        self._state_due = False
        self._numbers = 0
        self._size = 0
        self.slots: list[set[Subscriber]] = [set() for _ in range(SLOTS)]

    def __len__(self) -> int:
        return self._size

    @property
    def cases(self) -> int:
        """The number of followed cases."""
        return len(self._cases)

    @property
    def wanting(self) -> bool:
        """Whether a read is due."""
        return bool(self._dirty or self._joining or self._state_due)

    def join(self, subscriber: Subscriber) -> None:
        """Add a subscriber; it receives a snapshot once its cases have been read."""
        self._numbers += 1
        subscriber.slot = self._numbers % SLOTS
        self.slots[subscriber.slot].add(subscriber)
        self._size += 1
        for case_id in subscriber.cases:
            self._cases.setdefault(case_id, Followed()).subscribers.add(subscriber)
        self._joining.append(subscriber)

    def leave(self, subscriber: Subscriber) -> None:
        """Remove a subscriber, and the cases that only it followed."""
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
        """Mark the cases of events as dirty."""
        for event in events:
            if event.get("kind") in FOR_ALL:
                self._state_due = True
            self.touch(str(event.get("case_id", "")))

    def touch(self, case_id: str) -> None:
        """Mark a case as dirty if it is followed."""
        if case_id in self._cases:
            self._dirty[case_id] = None

    def touch_all(self) -> None:
        """Mark every followed case as dirty: events may have been missed."""
        self._state_due = True
        self._dirty.update(dict.fromkeys(self._cases))

    def touch_old(self, before: float, limit: int) -> None:
        """Mark up to `limit` cases as dirty that were last read before a time: this repairs missed events."""
        for case_id, followed in self._cases.items():
            if limit <= 0 or followed.read_at >= before:
                return
            self._dirty[case_id] = None
            limit -= 1

    def plan(self, recently: Position) -> tuple[list[tuple[str, Position]], list[Subscriber]]:
        """Return the cases to read, each with the position to read events after, and the subscribers that join.

        `recently` is the position after which a new subscriber receives notices.
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
        self._state_due = False
        return list(wanted.items()), joining

    def failed(self, wanted: Sequence[tuple[str, Position]]) -> None:
        """Mark the cases of a failed read as dirty again."""
        self._state_due = True
        for case_id, _ in wanted:
            self.touch(case_id)

    def apply(
        self,
        system: SystemState,
        states: Iterable[CaseState],
        joining: Iterable[Subscriber],
        *,
        recently: Position,
        at: float,
    ) -> None:
        """Buffer changes for each subscriber and snapshots for those that join; `at` is the time of the read."""
        self._send_state(system)
        read = {state.case_id: state for state in states}
        views = {case_id: CaseView.of(state) for case_id, state in read.items()}
        for case_id, state in read.items():
            if case_id in self._cases:
                self._refresh(self._cases[case_id], state, views[case_id], at)
        head = self._setting.head(system)
        for one in joining:
            if one in self.slots[one.slot] and all(case_id in read for case_id in one.cases):
                self._welcome(one, head, [(read[name], views[name]) for name in one.cases], recently)

    def _send_state(self, system: SystemState) -> None:
        state = self._setting.state(system)
        if self._state is not None and state != self._state:
            self.send_all("state", state | {"store": "ok"})
        self._state = state

    def send_all(self, event: str, data: Mapping[str, Any]) -> None:
        """Send an event that belongs to no case to every subscriber."""
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
        if newest < followed.seen and newest != START:  # the clock or the data of Redis went back
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


def _changes(before: CaseView, view: CaseView, new: Iterable[Mapping[str, Any]]) -> Iterable[tuple[Key, bytes]]:
    """Yield the events to send for a case that was re-read, each with its key in the buffer."""
    case_id = view.case_id
    for notice in new:
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

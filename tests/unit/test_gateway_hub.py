"""Test the hub: snapshots, notices and changes reach each subscriber in order and without a backlog (S34, S35)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.hub import BATCH, NOTICES_BUFFERED, Hub, Subscriber, frame
from gateway.live_view import Position, Setting, position
from worker.core.model import Call, Pair, Pause
from worker.store.cases import CasePair, CaseState, SystemState

CASES = ("C-1", "C-2", "C-3")
SETTING = Setting(10)
CALM = SystemState(1_000.0, None, None)
RECENTLY = (400_000, 0)


def parse(data: bytes) -> list[tuple[str, str, Any]]:
    """Return id, name and data of each event of a stream."""
    events = []
    for block in data.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        if "event" in fields:
            events.append((fields.get("id", ""), fields["event"], json.loads(fields["data"])))
    return events


@dataclass
class World:
    """Records of some cases, changed by hand with an event or (like a poll without a status update) without one."""

    calls: dict[str, dict[str, str]] = field(default_factory=lambda: {case: {} for case in CASES})
    phases: dict[str, dict[str, str]] = field(default_factory=lambda: {case: {} for case in CASES})
    events: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {case: [] for case in CASES})
    clock: int = 1_000_000

    def emit(self, case: str, kind: str, **fields: Any) -> dict[str, Any]:
        self.clock += 1
        event = {"id": f"{self.clock}-0", "at": self.clock / 1000, "kind": kind, "case_id": case, **fields}
        self.events[case].append(event)
        return event

    def erase(self, case: str) -> dict[str, Any]:
        for kept in (self.calls, self.phases):
            kept[case].clear()
        self.events[case].clear()
        return {"kind": "erased", "case_id": case}

    def read(self, wanted: Sequence[tuple[str, Position]]) -> list[CaseState]:
        return [
            CaseState(
                case,
                self.events[case][-1]["id"] if self.events[case] else "",
                [event for event in self.events[case] if position(event["id"]) > after],
                [CasePair(Pair(case, name), phase, None) for name, phase in self.phases[case].items()],  # type: ignore[arg-type]
                [call(case, job, status) for job, status in self.calls[case].items()],
            )
            for case, after in wanted
        ]


def call(case: str, job: str, status: str) -> Call:
    return Call(job, case, "20", "P-10010001", status, None, 0, 1, 1.0, 1.0, 2.0, 1.5)


@dataclass(eq=False)
class Page:
    """State that a page builds from its stream."""

    subscriber: Subscriber
    calls: dict[tuple[str, str], str] = field(default_factory=dict)
    phases: dict[tuple[str, str], str] = field(default_factory=dict)
    delivered: list[str] = field(default_factory=list)

    def drain(self) -> None:
        for _, kind, data in parse(self.subscriber.take()):
            if kind == "snapshot":
                for case in data["cases"]:
                    self.clear(case["case_id"])
                    self.calls |= {(case["case_id"], one["job_id"]): one["call_status"] for one in case["calls"]}
                    self.phases |= {(case["case_id"], one["mediation_id"]): one["phase"] for one in case["pairs"]}
                    self.delivered += [one["id"] for one in case["notices"]]
            elif kind == "call":
                self.calls[data["case_id"], data["call"]["job_id"]] = data["call"]["call_status"]
            elif kind == "pair":
                self.phases[data["case_id"], data["mediation_id"]] = data["phase"]
            elif kind == "notice":
                self.delivered.append(data["id"])
            elif kind == "gone":
                self.clear(data["case_id"])

    def clear(self, case: str) -> None:
        for kept in (self.calls, self.phases):
            for key in [key for key in kept if key[0] == case]:
                del kept[key]


def tick(hub: Hub, world: World, *, fails: bool = False) -> None:
    wanted, joining = hub.plan(RECENTLY)
    if fails:
        hub.failed(wanted)
        for one in joining:
            hub.leave(one)
        return
    hub.apply(CALM, world.read(wanted), joining, recently=RECENTLY, at=1.0)


def follow(hub: Hub, *cases: str, after: Position | None = None) -> Page:
    page = Page(Subscriber(cases, lambda: None, after))
    hub.join(page.subscriber)
    return page


def test_stalled_reader_keeps_the_latest_state_of_each_call_without_a_backlog() -> None:
    hub, world = Hub(SETTING), World()
    world.calls["C-1"] = {"job-1": "Executing", "job-2": "Executing"}
    page = follow(hub, "C-1")
    tick(hub, world)
    page.drain()
    for number in range(50):
        world.calls["C-1"]["job-1"] = f"Status{number}"
        hub.note([world.emit("C-1", "status_changed")])
        tick(hub, world)
    assert len(page.subscriber.buffer) == 1
    (event,) = parse(page.subscriber.take())
    assert event[0] == world.events["C-1"][-1]["id"]
    assert event[2]["call"]["call_status"] == "Status49"


def test_latest_event_is_sent_last_so_that_no_id_skips_a_notice() -> None:
    """A client that is disconnected in between resumes from the last id that it received."""
    hub, world = Hub(SETTING), World()
    page = follow(hub, "C-1")
    tick(hub, world)
    page.drain()
    for kind in ("status_changed", "unknown", "status_changed"):
        world.calls["C-1"]["job-1"] = f"after {world.clock}"
        hub.note([world.emit("C-1", kind, mediation_id="20")])
        tick(hub, world)
    ids = [position(entry) for entry, _, _ in parse(page.subscriber.take())]
    assert ids == sorted(ids)


def test_resumed_stream_gets_only_the_missed_notices() -> None:
    """S35: including notices too old for the first snapshot of a new page."""
    hub, world = Hub(SETTING), World()
    world.clock = 1_000
    seen = world.emit("C-1", "dial_failed", mediation_id="20")
    missed = world.emit("C-1", "dial_failed", mediation_id="20")
    resumed, new = follow(hub, "C-1", after=position(seen["id"])), follow(hub, "C-1")
    tick(hub, world)
    resumed.drain()
    new.drain()
    assert resumed.delivered == [missed["id"]]
    assert new.delivered == [], "older than ten minutes"


def test_s35_first_snapshot_holds_notices_from_before_the_page_opened() -> None:
    hub, world = Hub(SETTING), World()
    event = world.emit("C-1", "dial_failed", mediation_id="20", message="发起外呼失败,请稍后重试")
    page = follow(hub, "C-1")
    tick(hub, world)
    ((entry, kind, data),) = parse(page.subscriber.take())
    assert (entry, kind) == (event["id"], "snapshot")
    assert data["cases"][0]["notices"] == [
        {
            "kind": "dial_failed", "level": "error", "text": "发起外呼失败,请稍后重试", "id": event["id"],
            "at": event["at"], "case_id": "C-1", "mediation_id": "20",
        }
    ]  # fmt: skip


def test_s16_s29_global_state_reaches_every_stream_without_a_person() -> None:
    hub, world = Hub(SETTING), World()
    page, late = follow(hub, "C-1"), Page(Subscriber(("C-2",), lambda: None))
    tick(hub, world)
    page.drain()
    hub.join(late.subscriber)
    hub.note([{"kind": "paused", "by": "张三", "why": "secret"}])
    assert hub.wanting
    wanted, joining = hub.plan(RECENTLY)
    stopped = SystemState(1_000.0, 900.0, Pause("张三", "secret", 1.0))
    hub.apply(stopped, world.read(wanted), joining, recently=RECENTLY, at=1.0)
    assert parse(page.subscriber.take()) == [
        ("", "state", {"upstream": "away", "upstream_since": 900.0, "new_calls": "stopped", "store": "ok"})
    ]
    assert [kind for _, kind, _ in parse(late.subscriber.take())] == ["snapshot"], "the stream begins with it"


def test_erasing_a_case_drops_its_pending_events() -> None:
    hub, world = Hub(SETTING), World()
    world.calls["C-1"] = {"job-1": "Executing"}
    page = follow(hub, "C-1", "C-2")
    tick(hub, world)
    page.drain()
    world.calls["C-1"]["job-1"] = "Failed"
    world.calls["C-2"]["job-2"] = "Executing"
    hub.note([world.emit("C-1", "unknown"), world.emit("C-2", "status_changed")])
    tick(hub, world)
    hub.note([world.erase("C-1")])
    tick(hub, world)
    assert [(kind, data["case_id"]) for _, kind, data in parse(page.subscriber.take())] == [
        ("call", "C-2"),
        ("gone", "C-1"),
    ]


def test_overfull_notice_buffer_drops_the_slow_reader() -> None:
    """The reader reconnects and finds them in the history; no notice is lost silently."""
    subscriber = Subscriber(("C-1",), lambda: None)
    for number in range(NOTICES_BUFFERED + 1):
        assert not subscriber.overflown
        subscriber.put(("notice", "C-1", str(number)), b"x")
    assert subscriber.overflown


def test_no_event_follows_bye() -> None:
    subscriber = Subscriber(("C-1",), lambda: None)
    subscriber.close("renew", 4_200)
    subscriber.close("shutdown", 1)
    subscriber.put(("beat",), b"x")
    assert subscriber.take() == b'retry: 4200\nevent: bye\ndata: {"reason":"renew","retry":4200}\n\n'


def test_missed_events_make_the_hub_read_every_case_again() -> None:
    """S34: after an outage of Redis, or after the live stream was trimmed before it was read."""
    hub, world = Hub(SETTING), World()
    page = follow(hub, "C-1")
    tick(hub, world)
    world.calls["C-1"]["job-1"] = "Executing"
    event = world.emit("C-1", "dial_failed", mediation_id="20")
    hub.touch_all()
    tick(hub, world)
    page.drain()
    assert (page.calls, page.delivered) == ({("C-1", "job-1"): "Executing"}, [event["id"]])


def test_cases_are_read_in_batches() -> None:
    hub = Hub(SETTING)
    pages = [follow(hub, f"C-{number}") for number in range(BATCH + 50)]
    wanted, joining = hub.plan(RECENTLY)
    assert len(wanted) == len(joining) == BATCH
    assert hub.wanting
    assert len(hub.plan(RECENTLY)[0]) == 50
    assert len(pages) == len(hub)


def test_periodic_refresh_starts_with_the_least_recently_read_cases() -> None:
    hub, world = Hub(SETTING), World()
    for number, case in enumerate(CASES):
        follow(hub, case)
        wanted, joining = hub.plan(RECENTLY)
        hub.apply(CALM, world.read(wanted), joining, recently=RECENTLY, at=float(number))
    hub.touch_old(1.5, 1)
    assert [case for case, _ in hub.plan(RECENTLY)[0]] == ["C-1"]
    hub.touch_old(1.5, 9)
    assert [case for case, _ in hub.plan(RECENTLY)[0]] == ["C-1", "C-2"]


def test_hub_follows_a_store_that_lost_its_data() -> None:
    """After the loss, smaller ids are still later ids."""
    hub, world = Hub(SETTING), World()
    world.emit("C-1", "unknown")
    page = follow(hub, "C-1")
    tick(hub, world)
    world.clock, world.events["C-1"] = 700_000, []
    hub.note([world.emit("C-1", "unknown")])
    tick(hub, world)
    hub.note([world.emit("C-1", "unknown")])
    tick(hub, world)
    page.drain()
    assert page.delivered[-1] == "700002-0"


@pytest.mark.parametrize("text", ["a\nb", "\r\n", "案件\u2028"])
def test_line_breaks_in_texts_do_not_split_a_frame(text: str) -> None:
    (event,) = parse(frame("notice", {"text": text}, "1-0"))
    assert event == ("1-0", "notice", {"text": text})
    assert b"\r" not in frame("notice", {"text": text})

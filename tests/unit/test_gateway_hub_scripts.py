"""Test that a subscriber at rest shows the records, for any events in any order (S34)."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.hub import Hub
from tests.unit.test_gateway_hub import CASES, SETTING, Page, World, follow, tick

steps = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.sets(st.sampled_from(CASES), min_size=1)),
        st.tuples(st.just("leave"), st.integers(0, 9)),
        st.tuples(st.just("call"), st.sampled_from(CASES), st.integers(0, 2), st.sampled_from(["Executing", "Failed"])),
        st.tuples(st.just("silent"), st.sampled_from(CASES), st.integers(0, 2), st.just("Paused")),
        st.tuples(st.just("phase"), st.sampled_from(CASES), st.sampled_from(["watching", "done", "unknown"])),
        st.tuples(st.just("notice"), st.sampled_from(CASES)),
        st.tuples(st.just("erase"), st.sampled_from(CASES)),
        st.tuples(st.just("drain"), st.integers(0, 9)),
        st.tuples(st.sampled_from(["tick", "tick", "fails", "miss"])),
    ),
    max_size=40,
)


@dataclass
class Run:
    """State of one script; each step of the script is a method."""

    hub: Hub = field(default_factory=lambda: Hub(SETTING))
    world: World = field(default_factory=World)
    pages: list[Page] = field(default_factory=list)
    missed: bool = False

    def signal(self, event: dict[str, Any]) -> None:
        if not self.missed:
            self.hub.note([event])

    def join(self, cases: set[str]) -> None:
        self.pages.append(follow(self.hub, *sorted(cases)))

    def leave(self, number: int) -> None:
        if self.pages:
            self.hub.leave(self.pages.pop(number % len(self.pages)).subscriber)

    def silent(self, case: str, job: int, status: str) -> None:
        self.world.calls[case][f"job-{job}"] = status

    def call(self, case: str, job: int, status: str) -> None:
        self.silent(case, job, status)
        self.signal(self.world.emit(case, "status_changed"))

    def phase(self, case: str, phase: str) -> None:
        self.world.phases[case]["20"] = phase
        self.signal(self.world.emit(case, "started", mediation_id="20"))

    def notice(self, case: str) -> None:
        self.signal(self.world.emit(case, "dial_failed", mediation_id="20"))

    def erase(self, case: str) -> None:
        self.signal(self.world.erase(case))

    def drain(self, number: int) -> None:
        if self.pages:
            self.pages[number % len(self.pages)].drain()

    def tick(self) -> None:
        tick(self.hub, self.world)

    def fails(self) -> None:
        tick(self.hub, self.world, fails=True)
        self.pages = [page for page in self.pages if page.subscriber in self.hub.subscribers()]

    def miss(self) -> None:
        self.missed = True

    def rest(self) -> None:
        self.hub.touch_all() if self.missed else self.hub.touch_old(2.0, 100)
        while self.hub.wanting:
            tick(self.hub, self.world)


@given(steps)
def test_subscriber_at_rest_shows_the_records(script: list[tuple[Any, ...]]) -> None:
    """S34: no notice since its opening is missed or delivered twice."""
    run = Run()
    for kind, *args in script:
        getattr(run, kind)(*args)
    run.rest()
    for page in run.pages:
        page.drain()
        shown, world = page.subscriber.cases, run.world
        assert page.calls == {(c, job): status for c in shown for job, status in world.calls[c].items()}
        assert page.phases == {(c, name): phase for c in shown for name, phase in world.phases[c].items()}
        assert len(page.delivered) == len(set(page.delivered)), "delivered twice"
        kept = {event["id"] for c in shown for event in world.events[c] if event["kind"] == "dial_failed"}
        assert kept <= set(page.delivered)
    for page in run.pages:
        run.hub.leave(page.subscriber)
    assert (len(run.hub), run.hub.cases) == (0, 0)

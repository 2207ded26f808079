"""The life of a simulated call: statuses by age, its talk, its end, and the clock of all lives."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.life import LIVES, TERMINAL, Life, LifeClock, Step, parse_life

STATUSES = ("Scheduling", "Executing", "Paused", "Drafted", "Succeeded", "Failed", "Cancelled")
ACTIVE = ("Scheduling", "Executing", "Paused", "Drafted")


@pytest.mark.parametrize(
    ("name", "age", "expected"),
    [
        pytest.param("normal", -1, "Scheduling", id="before its birth"),
        pytest.param("normal", 0, "Scheduling", id="S10: the first status"),
        pytest.param("normal", 11.999, "Scheduling", id="just before the first word"),
        pytest.param("normal", 12, "Executing", id="a step counts from its own moment on"),
        pytest.param("normal", 32, "Succeeded", id="the end"),
        pytest.param("normal", 1e9, "Succeeded", id="S27: terminal for ever"),
        pytest.param("blink", 5.9, "Scheduling", id="S27: blink, one poll"),
        pytest.param("blink", 6, "Succeeded", id="S27: blink, the next poll"),
        pytest.param("endless", 7_201, "Scheduling", id="S25: Scheduling beyond two hours"),
        pytest.param("paused", 7_201, "Paused", id="S19: paused until a resume"),
        pytest.param("drafted", 0, "Drafted", id="S19: drafted"),
    ],
)
def test_life_has_a_status_at_each_age(name: str, age: float, expected: str) -> None:
    assert LIVES[name].status_at(age) == expected


@pytest.mark.parametrize("name", ["endless", "talking", "paused", "drafted"])
def test_some_lives_stay_active_for_ever_s19(name: str) -> None:
    assert LIVES[name].ends == math.inf
    assert LIVES[name].status_at(1e9) in ACTIVE


def test_the_unknown_life_shows_a_status_outside_both_lists_s19() -> None:
    assert LIVES["unknown"].status_at(1e9) not in STATUSES


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("normal", (12, 32), id="while it is Executing"),
        pytest.param("blink", (3, 6), id="unseen, before its success"),
        pytest.param("talking", (12, math.inf), id="without an end"),
        pytest.param("failed", None, id="no answer"),
        pytest.param("endless", None, id="never dialled"),
    ],
)
def test_life_has_a_talk(name: str, expected: tuple[float, float] | None) -> None:
    assert LIVES[name].talk == expected


@given(status=st.sampled_from(sorted(TERMINAL)), age=st.floats(0, 40), later=st.floats(0, 1e6))
def test_a_call_ended_now_keeps_its_past_and_never_comes_back_s27(status: str, age: float, later: float) -> None:
    ended = LIVES["normal"].cut(status, age)
    assert ended.status_at(age + later) == status
    assert age == 0 or ended.status_at(math.nextafter(age, 0)) == LIVES["normal"].status_at(math.nextafter(age, 0))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("blink", LIVES["blink"], id="by name"),
        pytest.param(
            [["Scheduling", 0], ["Failed", 2]], Life((Step("Scheduling", 0), Step("Failed", 2))), id="by its steps"
        ),
    ],
)
def test_life_is_parsed(value: object, expected: Life) -> None:
    assert parse_life(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("unheard", id="no such name"),
        pytest.param([], id="no step"),
        pytest.param(None, id="nothing"),
        pytest.param([["Scheduling", 1]], id="does not begin at 0"),
        pytest.param([["Scheduling", 0], ["Executing", 5], ["Succeeded", 5]], id="two steps at once"),
        pytest.param([["Scheduling"]], id="no time"),
        pytest.param([["", 0]], id="no status"),
        pytest.param([["Scheduling", True]], id="a truth is no time"),
        pytest.param([["Scheduling", 0], ["Executing", math.nan]], id="not a number"),
    ],
)
def test_invalid_life_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"life|list|step"):
        parse_life(value)


def test_change_of_speed_is_continuous() -> None:
    clock = LifeClock()
    clock.set_speed(2, now=100)
    before = clock.lived(110)
    clock.set_speed(50, now=110)
    assert clock.lived(110) == before
    assert clock.lived(111) == before + 50

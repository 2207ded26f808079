"""Calling hours: opening and closing minutes, days, holidays, make-up days and time zones."""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.calling_hours import CallingHours, Window, parse_days, parse_hours, public_holidays

CHINA = ZoneInfo("Asia/Shanghai")
OFFICE = CallingHours(*parse_hours("09:00-21:00"), parse_days("mon-sat"), CHINA, public_holidays("CN"))


def at(text: str, zone: ZoneInfo = CHINA) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


@pytest.mark.parametrize(
    ("now", "opens", "closes"),
    [
        pytest.param("2026-11-23 08:59:59.999", "2026-11-23 09:00", "2026-11-23 21:00", id="before the opening"),
        pytest.param("2026-11-23 09:00:00", "2026-11-23 09:00", "2026-11-23 21:00", id="the opening itself is open"),
        pytest.param("2026-11-23 20:59:59.999", "2026-11-23 09:00", "2026-11-23 21:00", id="the last moment"),
        pytest.param("2026-11-23 21:00:00", "2026-11-24 09:00", "2026-11-24 21:00", id="the closing itself is closed"),
        pytest.param("2026-11-28 21:00:00", "2026-11-30 09:00", "2026-11-30 21:00", id="over a Sunday"),
        pytest.param("2026-09-30 21:30:00", "2026-10-08 09:00", "2026-10-08 21:00", id="over the National Day's week"),
        pytest.param("2026-10-10 10:00:00", "2026-10-10 09:00", "2026-10-10 21:00", id="a Saturday that makes up"),
        pytest.param("2026-09-20 10:00:00", "2026-09-20 09:00", "2026-09-20 21:00", id="a Sunday that makes up"),
        pytest.param("2026-10-04 10:00:00", "2026-10-08 09:00", "2026-10-08 21:00", id="a Sunday within the break"),
        pytest.param("2026-01-03 10:00:00", "2026-01-04 09:00", "2026-01-04 21:00", id="a Saturday within the break"),
    ],
)
def test_window_contains_or_follows_now(now: str, opens: str, closes: str) -> None:
    assert OFFICE.window(at(now)) == Window(at(opens), at(closes))


BREAKS_2026 = [  # as announced by the General Office of the State Council
    ("2026-01-01", "2026-01-03"),
    ("2026-02-15", "2026-02-23"),
    ("2026-04-04", "2026-04-06"),
    ("2026-05-01", "2026-05-05"),
    ("2026-06-19", "2026-06-21"),
    ("2026-09-25", "2026-09-27"),
    ("2026-10-01", "2026-10-07"),
]
MADE_UP_2026 = ["2026-01-04", "2026-02-14", "2026-02-28", "2026-05-09", "2026-09-20", "2026-10-10"]


def test_the_breaks_and_make_up_days_of_2026_are_the_official_ones() -> None:
    calendar = public_holidays("CN")
    year = [date(2026, 1, 1) + timedelta(days=number) for number in range(365)]
    off = {
        day
        for first, last in BREAKS_2026
        for day in year
        if date.fromisoformat(first) <= day <= date.fromisoformat(last)
    }
    assert {day for day in year if calendar.is_off(day)} == off
    assert {day for day in year if calendar.is_made_up_for(day)} == {date.fromisoformat(day) for day in MADE_UP_2026}


def test_hours_follow_their_zone_through_clock_changes() -> None:
    zone = ZoneInfo("Europe/Berlin")
    hours = CallingHours(*parse_hours("08:00-24:00"), parse_days("mon-sun"), zone)
    spring = hours.window(at("2026-03-29 03:30", zone))
    assert spring == Window(at("2026-03-29 08:00", zone), at("2026-03-30 00:00", zone))


@given(st.floats(at("2026-01-01 00:00"), at("2026-12-31 00:00")))
def test_window_ends_after_now_and_contains_its_own_times(now: float) -> None:
    window = OFFICE.window(now)
    assert now < window.closes
    assert window.closes - window.opens == 12 * 3600
    assert OFFICE.window(window.opens) == window
    assert OFFICE.window(window.closes).opens > window.closes


@pytest.mark.parametrize(
    ("text", "days"),
    [("mon-sun", range(7)), ("mon-fri", range(5)), ("sat-mon", (5, 6, 0)), ("Mon, wed-thu", (0, 2, 3)), ("sun", (6,))],
)
def test_days_are_parsed(text: str, days: tuple[int, ...]) -> None:
    assert parse_days(text) == frozenset(days)


@pytest.mark.parametrize("text", ["", "monday", "mon-", "-mon", "1-5", "mon fri"])
def test_invalid_days_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="names no days"):
        parse_days(text)


@pytest.mark.parametrize("text", ["", "9-21", "09:00", "25:00-26:00", "09:00-24:30", "09:60-10:00"])
def test_invalid_hours_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no span"):
        parse_hours(text)


def test_a_span_over_midnight_is_refused() -> None:
    with pytest.raises(ValueError, match="closes before it opens"):
        parse_hours("21:00-09:00")


def test_unknown_country_is_refused() -> None:
    with pytest.raises(ValueError, match="no calendar is known of XX"):
        public_holidays("XX")

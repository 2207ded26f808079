"""Calling hours: hours, days of the week and public holidays in one time zone. Pure: the time is an argument."""

import functools
import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
SATURDAY = 5
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|(24):(00))")


class Calendar(Protocol):
    """The calendar of a country."""

    def is_off(self, day: date) -> bool:
        """Return whether a day is a public holiday or part of the break around one."""
        ...

    def is_made_up_for(self, day: date) -> bool:
        """Return whether a weekend day is a working day that makes up for a holiday."""
        ...


class PublicHolidays:
    """The public holidays of a country by its ISO 3166 code, with make-up days; ValueError for an unknown country.

    A weekend day next to a holiday is part of its break; with this rule the result equals the calendar of the State
    Council.
    """

    def __init__(self, country: str) -> None:
        import holidays  # noqa: PLC0415 - takes a tenth of a second, only needed with the setting

        try:
            self._days = holidays.country_holidays(country)
        except NotImplementedError:
            raise ValueError(f"no calendar is known of {country}") from None

    def is_off(self, day: date) -> bool:
        """Return whether a day is a public holiday or part of the break around one."""
        if day in self._days:
            return True
        return self._free_weekend(day) and any(self._reaches_a_holiday(day, step) for step in (1, -1))

    def is_made_up_for(self, day: date) -> bool:
        """Return whether a weekend day is a working day that makes up for a holiday."""
        return self._days.is_working_day(day) and day.weekday() >= SATURDAY

    def _free_weekend(self, day: date) -> bool:
        return day.weekday() >= SATURDAY and not self.is_made_up_for(day)

    def _reaches_a_holiday(self, day: date, step: int) -> bool:
        while self._free_weekend(day) and day not in self._days:
            day += timedelta(days=step)
        return day in self._days


@dataclass(frozen=True, slots=True)
class Window:
    """A time span in which calls are placed: from `opens` until before `closes`, in epoch seconds."""

    opens: float
    closes: float


@dataclass(frozen=True, slots=True)
class CallingHours:
    """Calling hours from `opens` until before `closes`, in minutes of the day in `zone`, on `days` (0 is Monday)."""

    opens: int
    closes: int
    days: frozenset[int]
    zone: ZoneInfo
    calendar: Calendar | None = None

    def window(self, now: float) -> Window:
        """Return the window that contains `now` (epoch seconds), else the next one."""
        day = datetime.fromtimestamp(now, self.zone).date()
        while not self._is_open(day) or now >= self._moment(day, self.closes):
            day += timedelta(days=1)
        return Window(self._moment(day, self.opens), self._moment(day, self.closes))

    def _is_open(self, day: date) -> bool:
        if self.calendar is not None and self.calendar.is_made_up_for(day):
            return True
        return day.weekday() in self.days and not (self.calendar is not None and self.calendar.is_off(day))

    def _moment(self, day: date, minutes: int) -> float:
        days, minutes = divmod(minutes, 24 * 60)
        day += timedelta(days=days)
        return datetime(day.year, day.month, day.day, *divmod(minutes, 60), tzinfo=self.zone).timestamp()


def parse_hours(text: str) -> tuple[int, int]:
    """Return opening and closing in minutes of the day, from a text like `09:00-21:00`; ValueError if it is invalid."""
    found = _HOURS.fullmatch(text.strip())
    if found is None:
        raise ValueError("is no span of a day, should be like 09:00-21:00")
    hour, minute, *end = (int(part) for part in found.groups() if part is not None)
    opens, closes = hour * 60 + minute, end[0] * 60 + end[1]
    if closes <= opens:
        raise ValueError("closes before it opens, should be a span within one day, like 09:00-21:00")
    return opens, closes


def parse_days(text: str) -> frozenset[int]:
    """Return days of the week (0 is Monday) from a text like `mon-sat` or `mon,wed-fri`; ValueError if invalid."""
    days: set[int] = set()
    for part in text.lower().split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if first not in DAYS or last not in DAYS:
            raise ValueError(f"names no days, should be like mon-sat, of {' '.join(DAYS)}")
        begin, end = DAYS.index(first), DAYS.index(last)
        days.update(number % 7 for number in range(begin, end + 1 if end >= begin else end + 8))
    return frozenset(days)


@functools.cache
def public_holidays(country: str) -> PublicHolidays:
    """Return the calendar of a country; ValueError if there is none."""
    return PublicHolidays(country)

"""When calls may be made: hours, days of the week, public holidays, in one time zone. Pure: the time is an argument."""

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
    """What a country's calendar says of a day."""

    def is_off(self, day: date) -> bool:
        """Tell whether a day is a public holiday or belongs to the break around one."""
        ...

    def is_made_up_for(self, day: date) -> bool:
        """Tell whether a day of a weekend is worked to make up for a holiday's."""
        ...


class PublicHolidays:
    """The public holidays of a country by its ISO 3166 code, make-up work days included; ValueError for an unknown one.

    A weekend day that touches a holiday is part of its break: by that the calendar of the State Council comes out.
    """

    def __init__(self, country: str) -> None:
        import holidays  # noqa: PLC0415 - takes a tenth of a second, which only those pay who ask for it

        try:
            self._days = holidays.country_holidays(country)
        except NotImplementedError:
            raise ValueError(f"no calendar is known of {country}") from None

    def is_off(self, day: date) -> bool:
        """Tell whether a day is a public holiday or belongs to the break around one."""
        if day in self._days:
            return True
        return self._free_weekend(day) and any(self._reaches_a_holiday(day, step) for step in (1, -1))

    def is_made_up_for(self, day: date) -> bool:
        """Tell whether a day of a weekend is worked to make up for a holiday's."""
        return self._days.is_working_day(day) and day.weekday() >= SATURDAY

    def _free_weekend(self, day: date) -> bool:
        return day.weekday() >= SATURDAY and not self.is_made_up_for(day)

    def _reaches_a_holiday(self, day: date, step: int) -> bool:
        while self._free_weekend(day) and day not in self._days:
            day += timedelta(days=step)
        return day in self._days


@dataclass(frozen=True, slots=True)
class Window:
    """A time in which calls may be made: from `opens` until before `closes`, in epoch seconds."""

    opens: float
    closes: float


@dataclass(frozen=True, slots=True)
class CallingHours:
    """From `opens` until before `closes`, minutes of the day in `zone`, on `days` of the week (0 is Monday)."""

    opens: int
    closes: int
    days: frozenset[int]
    zone: ZoneInfo
    calendar: Calendar | None = None

    def window(self, now: float) -> Window:
        """Return the window that `now` (epoch seconds) lies in, else the next one."""
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
    """Return opening and closing in minutes of the day, from a text like `09:00-21:00`; ValueError."""
    found = _HOURS.fullmatch(text.strip())
    if found is None:
        raise ValueError("is no span of a day, should be like 09:00-21:00")
    hour, minute, *end = (int(part) for part in found.groups() if part is not None)
    opens, closes = hour * 60 + minute, end[0] * 60 + end[1]
    if closes <= opens:
        raise ValueError("closes before it opens, should be a span within one day, like 09:00-21:00")
    return opens, closes


def parse_days(text: str) -> frozenset[int]:
    """Return days of the week, 0 for Monday, from a text like `mon-sat` or `mon,wed-fri`; ValueError."""
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
    """Return the calendar of a country; ValueError where none is known."""
    return PublicHolidays(country)

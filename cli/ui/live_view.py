"""Show changes of calls as a live table, or as one line per event without a terminal."""

from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from cli.connect import reason
from cli.ui.formatting import NOTICES, event_line
from cli.ui.output import printable
from cli.ui.table import page
from worker.core.interfaces import StoreUnavailable
from worker.core.model import Call, PairState
from worker.store import RedisStore

TICK = 1.0  # seconds between two refreshes without an event
PAUSE = 0.2  # seconds after a refresh with events: bounds the queries to a busy system
ENDED_KEPT = 50  # ended calls that stay in the table
NOTICES_KEPT = 5
ENDS = ("ended", "expired", "lost")


class LiveView:
    """The state of the live view: watched calls, calls that ended meanwhile, notices for the operator.

    `events` and `refresh` raise StoreUnavailable; the next call returns the events of the meantime.
    """

    def __init__(self, store: RedisStore, *, case_id: str | None = None) -> None:
        self._store = store
        self._case_id = case_id
        self._cursor = ""
        self._ended: dict[str, Call] = {}
        self._watched: dict[str, Call] = {}
        self.pairs: list[PairState] = []
        self.notices: list[str] = []
        self.now = 0.0

    @property
    def calls(self) -> list[Call]:
        """The calls, the oldest first."""
        calls = {**self._watched, **self._ended}.values()
        return sorted(calls, key=lambda call: (call.started_at, call.job_id))

    def events(self, *, wait: float) -> list[dict[str, Any]]:
        """Return the events since the last call, after at most `wait` seconds; none at the first call."""
        if not self._cursor:
            self._cursor = f"{int(self._store.now() * 1000)}"  # the stream's ids are the server's milliseconds
            return []
        entries = self._store.events(self._cursor, wait=wait)
        if entries:
            self._cursor = entries[-1][0]
        return [event for _, event in entries if self._case_id in (None, event.get("case_id", self._case_id))]

    def refresh(self, *, wait: float) -> list[dict[str, Any]]:
        """Read the calls again after the next event, at most after `wait` seconds; return the events."""
        events = self.events(wait=wait)
        self.notices += [event_line(event) for event in events if event.get("kind") in NOTICES]
        del self.notices[:-NOTICES_KEPT]
        over = {str(event["job_id"]) for event in events if event.get("kind") in ENDS and "job_id" in event}
        self._read_calls(over)
        return events

    def _read_calls(self, over: set[str]) -> None:
        watched = {call.job_id: call for call in self._store.calls(case_id=self._case_id)}
        for job_id in (over | self._watched.keys()) - watched.keys() - self._ended.keys():
            self._ended.update({call.job_id: call for call in self._store.calls(job_id=job_id)})
        for job_id in list(self._ended)[:-ENDED_KEPT]:
            del self._ended[job_id]
        self._watched = watched
        self.pairs = self._store.pairs(case_id=self._case_id)
        self.now = self._store.now()


class Screen:
    """A terminal with a live table, or lines without one; `failure_limit` failures in a row end a watch."""

    def __init__(self, *, failure_limit: int) -> None:
        self.console = Console(highlight=False, markup=False, emoji=False)
        self._failure_limit = failure_limit

    def say(self, line: str) -> None:
        """Write a line, above the table if one is shown."""
        self.console.print(Text(printable(line)), soft_wrap=True)

    def render(self, view: LiveView, last_failure: str = "", *, bounded: bool = True) -> RenderableType:
        """Return the page of the view; `bounded` limits it to the height of the terminal."""
        return page(
            view.calls,
            view.pairs,
            [*view.notices, last_failure] if last_failure else view.notices,
            now=view.now,
            width=self.console.width,
            height=self.console.height if bounded else None,
            failure_limit=self._failure_limit,
        )

    def follow(self, view: LiveView, *, until: Callable[[], bool], pause: Callable[[float], object]) -> None:
        """Show calls as a live table or events as lines until `until` returns True; `pause` waits for seconds."""
        if not self.console.is_terminal:
            self.print_events(view, until=until, pause=pause)
            return
        with Live(console=self.console, auto_refresh=False) as live:
            for events, last_failure in _updates(view.refresh, until, pause):
                live.update(self.render(view, last_failure), refresh=True)
                if events:
                    pause(PAUSE)

    def print_events(self, view: LiveView, *, until: Callable[[], bool], pause: Callable[[float], object]) -> None:
        """Write a line for each event until `until` returns True."""
        reported = ""
        for events, last_failure in _updates(view.events, until, pause):
            for event in events:
                self.say(event_line(event))
            if last_failure != reported:
                self.say(last_failure or "Redis answers again")
            reported = last_failure


def _updates(
    read: Callable[..., list[dict[str, Any]]], until: Callable[[], bool], pause: Callable[[float], object]
) -> Iterator[tuple[list[dict[str, Any]], str]]:
    """Yield the events about once a second, with the reason if Redis does not answer, else an empty text."""
    while not until():
        try:
            events, last_failure = read(wait=TICK), ""
        except StoreUnavailable as error:
            events, last_failure = [], f"Redis does not answer: {reason(error)}"
            pause(TICK)
        yield events, last_failure

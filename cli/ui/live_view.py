"""Looking on: what has changed since the last look, shown as a live table or as a line for each event."""

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

TICK = 1.0  # seconds between two pictures
BREATH = 0.2  # seconds after one with news: a busy system must not be asked all the time
ENDED_KEPT = 50  # calls that have ended while one looked on
NOTICES_KEPT = 5
ENDS = ("ended", "expired", "lost")


class LiveView:
    """What one who looks on has seen: the watched calls, those that ended meanwhile, what people must be told.

    Looking raises StoreUnavailable; what came meanwhile is seen by the next look.
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

    def news(self, *, wait: float) -> list[dict[str, Any]]:
        """Return the events since the last time, waiting up to `wait` seconds for one; none the first time."""
        if not self._cursor:
            self._cursor = f"{int(self._store.now() * 1000)}"  # the stream's ids are the server's milliseconds
            return []
        entries = self._store.events(self._cursor, wait=wait)
        if entries:
            self._cursor = entries[-1][0]
        return [event for _, event in entries if self._case_id in (None, event.get("case_id", self._case_id))]

    def look(self, *, wait: float) -> list[dict[str, Any]]:
        """Take a new picture once there is news, at the latest after `wait` seconds; return the news."""
        events = self.news(wait=wait)
        self.notices += [event_line(event) for event in events if event.get("kind") in NOTICES]
        del self.notices[:-NOTICES_KEPT]
        over = {str(event["job_id"]) for event in events if event.get("kind") in ENDS and "job_id" in event}
        self._see(over)
        return events

    def _see(self, over: set[str]) -> None:
        watched = {call.job_id: call for call in self._store.calls(case_id=self._case_id)}
        for job_id in (over | self._watched.keys()) - watched.keys() - self._ended.keys():
            self._ended.update({call.job_id: call for call in self._store.calls(job_id=job_id)})
        for job_id in list(self._ended)[:-ENDED_KEPT]:
            del self._ended[job_id]
        self._watched = watched
        self.pairs = self._store.pairs(case_id=self._case_id)
        self.now = self._store.now()


class Screen:
    """A terminal with a live table, or lines where there is none; `failure_limit` is what failures are counted to."""

    def __init__(self, *, failure_limit: int) -> None:
        self.console = Console(highlight=False, markup=False, emoji=False)
        self._failure_limit = failure_limit

    def say(self, line: str) -> None:
        """Write a line, above the table if there is one."""
        self.console.print(Text(printable(line)), soft_wrap=True)

    def picture(self, looker: LiveView, trouble: str = "", *, bounded: bool = True) -> RenderableType:
        """Return the table of what `looker` has seen; `bounded` by the terminal's height."""
        return page(
            looker.calls,
            looker.pairs,
            [*looker.notices, trouble] if trouble else looker.notices,
            now=looker.now,
            width=self.console.width,
            height=self.console.height if bounded else None,
            failure_limit=self._failure_limit,
        )

    def follow(self, looker: LiveView, *, until: Callable[[], bool], pause: Callable[[float], object]) -> None:
        """Show what happens, as a live table or as lines, until `until` says so; `pause` waits for some seconds."""
        if not self.console.is_terminal:
            self.tell(looker, until=until, pause=pause)
            return
        with Live(console=self.console, auto_refresh=False) as live:
            for events, trouble in _looks(looker.look, until, pause):
                live.update(self.picture(looker, trouble), refresh=True)
                if events:
                    pause(BREATH)

    def tell(self, looker: LiveView, *, until: Callable[[], bool], pause: Callable[[float], object]) -> None:
        """Write a line for each event until `until` says so."""
        silent = ""
        for events, trouble in _looks(looker.news, until, pause):
            for event in events:
                self.say(event_line(event))
            if trouble != silent:
                self.say(trouble or "Redis answers again")
            silent = trouble


def _looks(
    look: Callable[..., list[dict[str, Any]]], until: Callable[[], bool], pause: Callable[[float], object]
) -> Iterator[tuple[list[dict[str, Any]], str]]:
    """Yield the news about once a second, and why Redis does not answer where it does not."""
    while not until():
        try:
            events, trouble = look(wait=TICK), ""
        except StoreUnavailable as error:
            events, trouble = [], f"Redis does not answer: {reason(error)}"
            pause(TICK)
        yield events, trouble

"""Run processes one at a time, with stops, kills and lost replies at any effect; define their messages."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, NoReturn, TypeVar

T = TypeVar("T")

TOLERANCE = 0.01  # seconds by which a process may run late without having been stopped

Order = Literal["go", "die", "die after", "fail", "fail after", "twice", "stop"]
"""Fate of a process at its next effect.

`go`: the effect happens. `die`, `die after`: the process ends before or after it. `fail`, `fail after`: an error is
reported, before or after it happened. `twice`: its answer is lost and the client repeats it. `stop`: the
process stands still before it until it is resumed.
"""


@dataclass(order=True)
class Message:
    """A message on its way to a task; `expires` in epoch seconds."""

    at: float
    number: int
    task: str = field(compare=False)
    kwargs: dict[str, Any] = field(compare=False)
    task_id: str = field(default="", compare=False)
    expires: float | None = field(default=None, compare=False)


class Trap(NamedTuple):
    """A fault for the next process of a kind: `order` at its effect number `point`.

    If the fault stops the process, it continues when another process with the same subject reaches its effect number
    `meets`.
    """

    kind: str
    point: int
    order: Order
    meets: int


class Died(BaseException):
    """The process is dead; error handlers cannot catch this."""


class RuleBroken(BaseException):
    """A rule is broken, caused by the chained exception: no error handler of a process catches it."""


class Process:
    """One execution of a task, in a thread that runs only between `resume` and its next effect."""

    def __init__(self, kind: str, number: int, subject: str, task_id: str, body: Callable[["Process"], None]) -> None:
        self.kind, self.number, self.subject, self.task_id = kind, number, subject, task_id
        self.label, self.until = "begin", 0.0
        self.points = 0
        self.done = self.died = self.stopped = False
        self.trap: tuple[int, Order] | None = None
        self.meets = 0
        self.leases: list[tuple[str, int]] = []
        """Running polls, whose leases it renews while it is neither stopped nor dead."""
        self._error: BaseException | None = None
        self._body = body
        self._order: Order = "go"
        self._came_at, self._disturbed = 0.0, False
        self._mine, self._back = threading.Lock(), threading.Lock()
        self._mine.acquire()
        self._back.acquire()
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"{self.kind} {self.number}{f' ({self.task_id})' if self.task_id else ''}"

    @property
    def disturbed(self) -> bool:
        """Tell whether it has ever stood still at an effect, or received any other order than `go`."""
        stands = self._thread is not None and time.time() > max(self._came_at, self.until) + TOLERANCE
        return self._disturbed or (stands and not self.done)

    def delay(self, until: float) -> None:
        """Let the process stand still until then (epoch seconds)."""
        self.until, self._disturbed = max(self.until, until), True

    def resume(self, order: Order) -> None:
        """Continue the process up to its next effect; raise any error that its task does not expect."""
        assert not self.done, f"{self} has ended"  # it would never return control
        self._order = order
        self._disturbed = self.disturbed or order != "go"
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        else:
            self._mine.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error

    def next_order(self) -> Order:
        """Return the order of the trap for this process's next effect."""
        if self.trap is None or self.points < self.trap[0]:
            return "go"
        (_, order), self.trap = self.trap, None
        return order

    def point(self, label: str, until: float = 0) -> Order:
        """Return control before an effect, to be resumed at `until` (epoch seconds) at the earliest."""
        self.label, self.until, self._came_at = label, until, time.time()
        self.points += 1
        self._back.release()
        self._mine.acquire()
        if self._order == "die":
            self._die()
        return self._order

    def wait(self, label: str, until: float = 0) -> bool:
        """Return control for a wait without an effect; return False if the wait fails."""
        order = self.point(label, until)
        if order == "die after":
            raise Died
        return order not in ("fail", "fail after")

    def effect(self, label: str, act: Callable[[], T], failure: Callable[[], Exception]) -> T:
        """Run an effect as ordered; `failure` creates the error that the outside reports."""
        order = self.point(label)
        if order == "fail":
            raise failure()
        result = act()
        if order == "twice":
            self.wait(f"{label} once more")
            result = act()
        if order == "die after":
            raise Died
        if order == "fail after":
            raise failure()
        return result

    def end(self) -> None:
        """Kill the process if it still runs."""
        while self._thread is not None and not self.done:
            self._order = "die"
            self._mine.release()
            self._back.acquire()

    def _die(self) -> NoReturn:
        raise Died

    def _run(self) -> None:
        try:
            if self._order in ("die", "die after"):
                self._die()
            self._body(self)
        except Died:
            self.died = True
        except RuleBroken as broken:
            self._error = broken.__cause__
        except BaseException as error:  # noqa: BLE001 - the machine fails with it
            self._error = error
        self.done = True
        self._back.release()

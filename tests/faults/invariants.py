"""Check the rules that hold under all faults, at every effect; the figures come from docs/rules.md."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.faults.answers import Answers
from tests.faults.claims import Claims
from tests.faults.endpoints import Endpoint
from tests.faults.memory import Memory
from tests.faults.outages import Outages
from tests.faults.processes import Process, RuleBroken
from tests.faults.ringing import Ringing
from tests.faults.watching import Watching
from tests.faults.windows import Windows
from worker.core.model import Pair

if TYPE_CHECKING:
    from tests.faults.simulation import Machine


@contextmanager
def unstoppable() -> Iterator[None]:
    """Convert an AssertionError into an exception that no process handles."""
    try:
        yield
    except AssertionError as error:
        raise RuleBroken from error


class Invariants:
    """Follow a machine with groups of rules; every method raises RuleBroken from an AssertionError where one is broken.

    A group checks a method of the store before it runs in `before_{step}` and afterwards in `after_{step}`.
    """

    def __init__(self, machine: "Machine") -> None:
        self.memory = Memory(machine)
        self.claims, self.ringing = Claims(machine, self.memory), Ringing(machine, self.memory)
        self.answers = Answers(machine, self.memory, self.ringing)
        self.windows = Windows(machine, self.memory)
        self.watching, self.outages = Watching(machine, self.memory), Outages(machine, self.memory)
        self._groups = (self.claims, self.ringing, self.answers, self.windows, self.watching, self.outages)
        self._checks: dict[str, list[Callable[..., None]]] = {}

    def before(self, step: str, *args: Any, **kwargs: Any) -> None:
        """Check the state before a method of the store."""
        for check in self._of(f"before_{step}"):
            with unstoppable():
                check(*args, **kwargs)

    def after(self, step: str, process: Process, args: tuple[Any, ...], kwargs: dict[str, Any], reply: Any) -> None:
        """Check the effects of a method of the store."""
        for check in self._of(f"after_{step}"):
            with unstoppable():
                check(process, reply, *args, **kwargs)

    def on_connected(self, process: Process, began: float) -> None:
        """An attempt to connect that began then has ended."""
        with unstoppable():
            self.claims.on_connected(process, began)

    def on_request(self, process: Process, pair: Pair) -> None:
        """Upstream receives a request for calls."""
        with unstoppable():
            self.ringing.on_request(process, pair)

    def on_query(self, process: Process, job_id: str) -> None:
        """Upstream receives a poll's query."""
        with unstoppable():
            self.watching.on_query(process, job_id)

    def on_answer(self, process: Process, endpoint: Endpoint, statuses: Mapping[str, str], asked: str = "") -> None:
        """Upstream has answered a query; `statuses` by job are empty if the `asked` call does not exist."""
        self.ringing.on_answer(process, endpoint, statuses, asked)
        self.windows.on_answer(process, endpoint)

    def on_release(self, pair: Pair) -> None:
        """A person has released an unknown outcome."""
        self.answers.on_release(pair)

    def on_calm(self) -> None:
        """Time has passed since all faults ended; this method raises AssertionError itself."""
        self.windows.on_calm()

    def _of(self, name: str) -> list[Callable[..., None]]:
        if name not in self._checks:
            found = (getattr(group, name, None) for group in self._groups)
            self._checks[name] = [check for check in found if check is not None]
        return self._checks[name]

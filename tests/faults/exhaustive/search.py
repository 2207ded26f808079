"""Visit every reachable state, the nearest first, so that the trace to a broken rule is as short as possible."""

import time
from array import array
from dataclasses import dataclass, field

from tests.faults.exhaustive.rules import Judge, Violation
from tests.faults.exhaustive.state import Scope, State
from tests.faults.exhaustive.world import World


@dataclass
class Found:
    """Result of a search: `broken` is the broken rule, `trace` the steps that lead to it."""

    broken: str = ""
    trace: list[str] = field(default_factory=list)
    states: int = 0
    transitions: int = 0
    steps: int = 0
    """Number of scripts that ran on the store; all other outcomes were known."""
    seconds: float = 0


def search(scope: Scope) -> Found:
    """Visit all states of a scope until a rule is broken."""
    began = time.process_time()
    found, exploration = Found(), Exploration(scope)
    try:
        exploration.visit_all()
        exploration.judge_ends()
    except Violation as violation:
        found.broken = str(violation)
        found.trace = exploration.trace()
    found.states, found.transitions = len(exploration.states), exploration.transitions
    found.steps, found.seconds = len(exploration.world.steps), time.process_time() - began
    return found


class Exploration:
    """All states of a scope by number, with the steps that led to them."""

    def __init__(self, scope: Scope, *, plain: bool = True) -> None:
        self.world = World(scope, plain=plain)
        self.states = [self.world.begin()]
        self.transitions = 0
        self._judge = Judge(scope.left)
        self._known = {self.states[0]: 0}
        self._parents = array("i", [0])
        self._calm = (array("i"), array("i"))
        """The transitions without a fault: from and to."""
        self._at = 0

    def visit_all(self) -> None:
        """Visit every state; raise Violation where a rule is broken."""
        states, known, parents, (source, target) = self.states, self._known, self._parents, self._calm
        while self._at < len(states):
            state, at = states[self._at], self._at
            self._judge(state)
            for _, after in self.world.moves(state):
                self.transitions += 1
                number = known.setdefault(after, len(states))
                if number == len(states):
                    states.append(after)
                    parents.append(at)
                if after.left == state.left:
                    source.append(at)
                    target.append(number)
            self._at += 1

    def judge_ends(self) -> None:
        """Check that every state can reach an end without further faults; raise Violation otherwise."""
        before: list[list[int]] = [[] for _ in self.states]
        for source, target in zip(*self._calm, strict=True):
            before[target].append(source)
        ending = [state.at_rest for state in self.states]
        todo = [number for number, ends in enumerate(ending) if ends]
        while todo:
            for source in before[todo.pop()]:
                if not ending[source]:
                    ending[source] = True
                    todo.append(source)
        if not all(ending):
            self._at = ending.index(False)
            raise Violation("S18: this never ends")

    def trace(self) -> list[str]:
        """Return the steps to the last visited state."""
        lines: list[str] = []
        at = self._at
        while at:
            parent = self._parents[at]
            lines.append(
                next(_line(label) for label, after in self.world.moves(self.states[parent]) if self._is(after, at))
            )
            at = parent
        return lines[::-1]

    def _is(self, state: State, number: int) -> bool:
        return self._known.get(state) == number


def _line(label: tuple[object, ...]) -> str:
    return " ".join(map(str, label))

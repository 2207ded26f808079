"""Generate every step that can follow a state: of a worker, the sweep, a poll, a person, and time."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

from tests.fakes import START
from tests.faults.exhaustive.flows import SETTINGS, Cast, Effect, Message, Process, Raised
from tests.faults.exhaustive.known_steps import KnownSteps
from tests.faults.exhaustive.rules import DAY, judge_release, judge_step, judge_watch_end, require
from tests.faults.exhaustive.snapshots import Published, moved
from tests.faults.exhaustive.state import (
    CASE,
    Budget,
    Call,
    Scope,
    State,
    in_order,
    message_of,
    sorted_messages,
    without,
)
from tests.faults.exhaustive.upstream import Answer, Label, Upstream
from worker.core.decision import Finish
from worker.core.interfaces import ScheduleFailed, StoreUnavailable
from worker.core.model import Event, Pair
from worker.core.poll_model import PollEnd, Timing
from worker.store.keys import pair_of

WORKERS = 2
ANSWER_WITHIN = SETTINGS.call_timeout + SETTINGS.connect_timeout  # seconds from `sending` on
LOOK_UP_EXPIRES = 10 * SETTINGS.poll_interval  # seconds
HOUR = 3_600

Move = tuple[Label, State]


class World:
    """Run the steps of a scope on the real store."""

    def __init__(self, scope: Scope, *, plain: bool = True) -> None:
        self._scope = scope
        self.steps = KnownSteps(plain=plain)
        self._cast = Cast(hours=scope.opens is not None)
        self._upstream = Upstream(scope)

    def begin(self) -> State:
        """Return the initial state of the search."""
        store, later = self.steps.shelf.take()[0], sorted_messages(map(message_of, self._scope.triggers))
        opens = START + (self._scope.opens or 0.0)
        state = State(store, (), None, (), (), (), (), (), opens, Budget())
        for trigger in self._scope.before:
            state = self._alone(state, message_of(trigger))
        return state._replace(later=later, left=self._scope.left)

    def _alone(self, state: State, message: Message) -> State:
        """Run a trigger to its end in one way only: its call rings, and its answer is lost."""
        self._upstream = Upstream(self._scope._replace(rings=(1,), endings=("lost",)))
        ((_, state),) = self._begin(state, message)
        while state.processes:
            ((_, state),) = self._steps(state, state.processes[0])
        self._upstream = Upstream(self._scope)
        return state

    def moves(self, state: State) -> Iterator[Move]:
        """Yield each following state with the step that leads to it; raise Violation where a rule is broken."""
        yield from self._deliveries(state)
        for process in state.processes:
            yield from self._steps(state, process)
        yield from self._sweeps(state)
        yield from self._polls(state)
        yield from self._releases(state)
        yield from self._jumps(state)

    def _take(self, state: State, key: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, State, list[Published]]:
        """Run a script of the store; `key` stands for its name and arguments."""
        reply, store, events = self.steps.take(state.store, key, name, args, kwargs)
        return reply, state._replace(store=store), events

    # -- messages and processes ----------------------------------------------------------------------------------------

    def _deliveries(self, state: State) -> Iterator[Move]:
        """Let a free worker receive a message."""
        if not _has_free_worker(state):
            return
        for message in dict.fromkeys(state.queue):
            yield from self._begin(state._replace(queue=without(state.queue, message)), message)
        for message in dict.fromkeys(state.later):
            yield from self._begin(state._replace(later=without(state.later, message)), message)
            if (copied := state.spend("copy")) and message.task == "trigger":
                yield from self._begin(copied, message)

    def _begin(self, state: State, message: Message) -> Iterator[Move]:
        """Begin a process with its first effect; before that it touches nothing, so its start may be postponed."""
        used = state.store.tokens | {process.token for process in state.processes}
        # A token that is stored nowhere any more equals a new one, which keeps states alike.
        token = next(token for number in itertools.count(1) if (token := f"k{number}") not in used)
        process = self._cast.begin(message, token)
        yield from self._steps(state.with_process(process), process)

    def _steps(self, state: State, process: Process) -> Iterator[Move]:
        effect = process.next
        assert isinstance(effect, Effect)
        if crashed := state.spend("crash"):
            after = crashed.without_process(process)
            if process.message.task != "sweep":  # the broker redelivers an unacknowledged message
                after = after.with_message(process.message, later=True)
            yield (process, "dies before", effect.name), after
        for label, reply, after in self._replies(state, process, effect):
            yield (process, *label), self._replied(after, process, reply)

    def _replies(self, state: State, process: Process, effect: Effect) -> Iterator[Answer]:
        if effect.where == "store":
            return self._on_store(state, process, effect)
        return self._on_queue(state, effect) if effect.where == "queue" else self._upstream(state, effect)

    def _replied(self, state: State, process: Process, reply: Any) -> State:
        """Continue a process with a reply until its next effect."""
        after = self._cast.go_on(process, reply)
        while isinstance(after.next, Effect) and (plain := self._upstream.at_once(state, after.next)):
            after = self._cast.go_on(after, plain[0])
        state = state.without_process(process)
        if isinstance(after.next, Effect):
            return state.with_process(after)
        if after.next.again:
            return state.with_message(process.message, later=True)
        if after.next.outcome == "deferred" and process.message not in state.waiting:
            return state._replace(waiting=sorted_messages((*state.waiting, process.message)))
        return state

    def _on_store(self, state: State, process: Process, effect: Effect) -> Iterator[Answer]:
        """Run a script of the store; its reply may be lost, or the client may resend it."""
        reply, after, events = self._take(state, process.key, effect.name, effect.args, effect.kwargs)
        judge_step(state, effect, reply, after, events)
        yield (effect.name, "->", reply), reply, after
        lost = after.spend("lost")
        if lost:
            yield (effect.name, "-> reply lost:", reply), Raised(StoreUnavailable), lost
        if lost and after.store is not state.store:
            again, twice, events = self._take(lost, process.key, effect.name, effect.args, effect.kwargs)
            judge_step(lost, effect, again, twice, events)
            yield (effect.name, "twice ->", reply, again), again, twice

    def _on_queue(self, state: State, effect: Effect) -> Iterator[Answer]:
        """Publish a message; the broker may have accepted it without a confirmation."""
        (message,) = effect.args
        after = state.with_message(message)
        yield ("publishes", message), None, after
        if lost := after.spend("lost"):
            yield ("publishes", message, "-> reply lost"), Raised(ScheduleFailed), lost

    # -- the sweep, polls, a person ------------------------------------------------------------------------------------

    def _sweeps(self, state: State) -> Iterator[Move]:
        """Begin a sweep where it finds work; a second one only while the first one stands still."""
        if state.store.attended_at > START:
            return
        sweeps = [process for process in state.processes if process.message.task == "sweep"]
        if not sweeps or (len(sweeps) == 1 and sweeps[0] is state.stopped):
            yield from self._begin(state, Message("sweep", Pair(CASE, "")))

    def _polls(self, state: State) -> Iterator[Move]:
        """End the watch of a call."""
        for record in state.store.watched:
            call = next(call for call in state.calls if call.job_id == record["job_id"])
            require(not call.published, "S27: the end of a call is published twice:", call.number)
            yield self._poll(state, record, call._replace(ended=True, published=True), "ended")
            given_up = call._replace(given_up=START)
            if not call.ended and (unwatched := state.spend("unwatched")):
                yield self._poll(unwatched, record, given_up, "lost")
            if not call.ended and float(record["deadline"]) <= START:
                yield self._poll(state, record, given_up, "expired")

    def _poll(self, state: State, record: dict[str, str], call: Call, verdict: Any) -> Move:
        pair = Pair(record["case_id"], record["mediation_id"])
        end = PollEnd(
            pair,
            call.job_id,
            int(record["poll_no"]),
            Finish(verdict, 0),
            "answer" if call.ended else "nothing",
            call.status,
            Event(verdict, pair.case_id, pair.mediation_id, call.job_id),
            Timing(0, None),
        )
        _, after, _ = self._take(state, (call.job_id, verdict, call.ended), "write_polls", ([end],), {})
        judge_watch_end(state, after)
        return ("call", call.number, verdict), after.with_call(call)

    def _releases(self, state: State) -> Iterator[Move]:
        """Let a person release a pair with an unknown outcome."""
        if released := state.spend("release"):
            for name in state.store.ledgers:
                pair, why = pair_of(name), {"by": "a person", "why": ""}
                reply, after, _ = self._take(released, name, "release", (pair,), why)
                judge_release(state, name, after)
                if after.store is not state.store:
                    yield ("a person releases", name, reply), _given_up(after, pair)

    # -- time ----------------------------------------------------------------------------------------------------------

    def _jumps(self, state: State) -> Iterator[Move]:
        """Let time pass: days of standstill, or up to the moment of the sweep's next work.

        Between two such moments no script has a different outcome, so one moment stands for all of them.
        """
        if expired := state.spend("expiry"):
            for hours in self._scope.days:
                yield from self._pass(expired, hours * HOUR)
        due = min([state.store.attended_at, *(float(record["deadline"]) - 1 for record in state.store.watched)])
        if START < due < math.inf:
            yield from self._pass(state, int(due - START) + 1)

    def _pass(self, state: State, seconds: int) -> Iterator[Move]:
        """Let time pass; one process with work to do, or one message, may stand still meanwhile."""
        ready: list[Any] = [one for one in state.processes if one is not state.stopped and not _waits(one, seconds)]
        if _has_free_worker(state) and seconds < DAY:
            ready += state.queue
        label: Label = (seconds, "s pass")
        if ready:
            stopped = state.spend("stop")
            if len(ready) > 1 or state.stopped or stopped is None:
                return
            state, label = stopped, (ready[0], "is stopped;", *label)
            if isinstance(ready[0], Process):
                state = state._replace(stopped=ready[0])
            else:
                state = state._replace(queue=without(state.queue, ready[0])).with_message(ready[0], later=True)
        yield label, self._later(state, seconds)

    def _later(self, state: State, seconds: int) -> State:
        processes = {process: self._cast.later(process, seconds) for process in state.processes}
        queue = [message for message in state.queue if message.task != "lookup" or seconds <= LOOK_UP_EXPIRES]
        return State(
            store=self.steps.shelf.later(state.store, seconds),
            processes=in_order(processes.values()),
            stopped=None if state.stopped is None else processes[state.stopped],
            queue=sorted_messages(moved(message, seconds) for message in queue),
            later=sorted_messages(moved(message, seconds) for message in state.later),
            calls=tuple(
                moved(call, seconds)._replace(published=call.published and seconds < DAY) for call in state.calls
            ),
            requests=state.requests,
            waiting=moved(state.waiting, seconds),
            opens=max(START - HOUR, state.opens - seconds),
            left=state.left,
        )


def _has_free_worker(state: State) -> bool:
    return sum(process.message.task != "sweep" for process in state.processes) < WORKERS


def _waits(process: Process, seconds: int) -> bool:
    """Tell whether a process has nothing to do for `seconds`: it waits for the answer to its request."""
    effect = process.next
    return isinstance(effect, Effect) and effect.name == "answer" and START + seconds <= effect.args[1] + ANSWER_WITHIN


def _given_up(state: State, pair: Pair) -> State:
    """Record that calls of a pair were released with it before they were found."""
    for call in state.calls:
        if call.pair == pair and call.job_id not in state.store.records:
            state = state.with_call(call._replace(given_up=START))
    return state

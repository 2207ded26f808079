"""Simulate upstream: every possible reply to each query and each request."""

import itertools
from collections.abc import Iterator
from typing import Any

from api_client import NotSent, OutcomeUnknown, ProtocolError, Unavailable
from tests.fakes import START
from tests.faults.exhaustive.flows import Effect, Message, Raised
from tests.faults.exhaustive.rules import judge_request
from tests.faults.exhaustive.state import Call, Request, Scope, State

Label = tuple[Any, ...]
Answer = tuple[Label, Any, State]

LIMIT_REACHED = 1002


class Upstream:
    """Answer truthfully unless the status lags behind: the log holds every call, the status names the newest."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def at_once(self, state: State, effect: Effect) -> tuple[Any] | None:
        """Return the only possible reply to an effect on private state; None for all other effects.

        Such an effect commutes with all effects of other processes, so it may follow the process's last effect
        directly.
        """
        if effect.name == "connect" and not state.left.refused and not state.left.bypass:
            return (False,)
        return (state.opens,) if effect.name == "hours" else None

    def __call__(self, state: State, effect: Effect) -> Iterator[Answer]:
        """Yield every possible reply with the state that it leaves."""
        yield from getattr(self, f"_{effect.name}")(state, *effect.args)

    def _connect(self, state: State) -> Iterator[Answer]:
        yield ("connects",), False, state
        if refused := state.spend("refused"):
            yield ("is refused",), Raised(NotSent), refused
        if bypass := state.spend("bypass"):
            yield ("connects past the gate",), True, bypass

    def _send(self, state: State, message: Message, until: float) -> Iterator[Answer]:
        if until < START:
            yield ("is too late to send",), None, state
            return
        judge_request(state, message, denied=state.left.hidden < self._scope.left.hidden)
        after = state._replace(requests=tuple(sorted((*state.requests, Request(message.task_id)))))
        for number in self._scope.rings:
            first = len(state.calls) + 1
            calls = tuple(Call(one, message.pair, message.task_id, START) for one in range(first, first + number))
            numbers = tuple(call.number for call in calls)
            yield ("sends; calls:", numbers), numbers, after._replace(calls=(*state.calls, *calls))

    def _answer(self, state: State, sent: tuple[int, ...], _opened: float) -> Iterator[Answer]:
        if "lost" in self._scope.endings:
            yield ("gets no answer",), Raised(OutcomeUnknown), state
        if "answered" in self._scope.endings:
            started = tuple((state.calls[number - 1].job_id, 0) for number in sent)
            yield ("is answered:", sent or "refused"), started or ((None, LIMIT_REACHED),), state

    def _log(self, state: State) -> Iterator[Answer]:
        if silent := state.spend("silent"):
            yield ("gets no log",), Raised(Unavailable), silent
        if hidden := state.spend("hidden"):
            entries = tuple((call.job_id, call.status) for call in reversed(state.calls) if call.ended)
            yield ("reads a log that lags behind",), entries, hidden
        for calls in _fates(state.calls, range(len(state.calls))):
            entries = tuple((call.job_id, call.status) for call in reversed(calls))
            yield ("reads the log:", *(call.status for call in calls)), entries, state._replace(calls=calls)

    def _status(self, state: State, job_id: str | None) -> Iterator[Answer]:
        if silent := state.spend("silent"):
            yield ("gets no status",), Raised(Unavailable), silent
        if hidden := state.spend("hidden"):
            yield ("asks a status that lags behind",), Raised(ProtocolError), hidden
        asked = [number for number, call in enumerate(state.calls) if job_id in (None, call.job_id)][-1:]
        if not asked:
            yield ("asks: no such call",), Raised(ProtocolError), state
            return
        for calls in _fates(state.calls, asked):
            call = calls[asked[0]]
            yield ("asks: call", call.number, call.status), (call.job_id, call.status), state._replace(calls=calls)


def _fates(calls: tuple[Call, ...], seen: range | list[int]) -> Iterator[tuple[Call, ...]]:
    """Yield the possible states of the queried calls: running ones may have ended."""
    yield from itertools.product(
        *(
            (call, call._replace(ended=True)) if number in seen and not call.ended else (call,)
            for number, call in enumerate(calls)
        )
    )

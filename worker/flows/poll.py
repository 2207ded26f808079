"""The flow of a poll: pass the fence → query upstream → decide → write the next poll, or the verdict."""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from api_client import CallStatus, ProtocolError, Reason, Unavailable
from worker.core import texts
from worker.core.decision import Answer, Finish, Next, Policy, decide, may_query, read_status
from worker.core.interfaces import Clock, Notify, Store, SubmitPolls
from worker.core.messages import PollMessage
from worker.core.model import Event, EventKind
from worker.core.poll_model import OutageChange, PollEnd, PollInProgress, PollStarted, QueryResult, StatusUpdate, Timing

log = logging.getLogger(__name__)

FIRST = 1  # the number of a call's first poll


@dataclass(frozen=True, slots=True)
class QueryOutcome:
    """The outcome of a poll's query, or of a poll without a query.

    `answer` is the input of the decision, `result` that of the outage detection. In seconds: `retry_after` (upstream's
    `Retry-After`), `late` (from the due time to the query) and `took` (from the query to its answer; None: no query).
    `reason` is that of a failed query.
    """

    answer: Answer
    result: QueryResult
    call_status: str | None = None
    retry_after: float | None = None
    late: float = 0
    took: float | None = None
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class PollDecision:
    """A poll and its end, ready to be written."""

    current: PollInProgress
    end: PollEnd


@dataclass(frozen=True, slots=True)
class PollFlow:
    """Carry polls out in four steps: `begin`, `query`, `decide_end`, `write`.

    The task `outbound.poll` calls `begin`, which submits the polls to the poll executor; the executor calls the others,
    on a flow of its own: a flow has no state.
    """

    store: Store
    notify: Notify
    clock: Clock
    policy: Policy

    def begin(self, messages: Sequence[PollMessage], submit: SubmitPolls) -> str:
        """Check the polls of a message against the fence in one script, and submit those that pass.

        Returns one line for Flower.
        """
        starts = self.store.begin_polls([(one.job_id, one.poll_no) for one in messages])
        at = self.clock.monotonic()
        polls = [
            PollInProgress(_of_record(message, start), start, at)
            for message, start in zip(messages, starts, strict=True)
            if isinstance(start, PollStarted)
        ]
        if polls:
            submit(polls)
        dropped = Counter(start.why for start in starts if not isinstance(start, PollStarted))
        parts = [f"begun: {len(polls)}"] if polls else []
        parts += [f"dropped: {why}" + (f" {number}" if number > 1 else "") for why, number in dropped.items()]
        return ", ".join(parts) or "dropped: not a poll's kwargs"

    async def query(
        self,
        current: PollInProgress,
        status: Callable[..., Awaitable[CallStatus]],
        sleep: Callable[[float], Awaitable[None]],
    ) -> QueryOutcome:
        """Query upstream for the status of a call; send no request if the poll only ends the watch (S21, S25)."""
        message, start, poll = current.message, current.start, current.start.poll
        last_of_outage = start.outage and poll.due >= poll.deadline  # in an outage only probes query upstream
        if last_of_outage or not may_query(poll, self.policy, began=start.now, queried=start.queried):
            # `outage` also stands for a poll without a query: the failures in a row stay unchanged.
            return QueryOutcome("outage", "nothing", late=self._now(current) - poll.due)
        wait = message.not_before - self._now(current)
        if wait > 0:
            await sleep(wait)
        late, asked_at = self._now(current) - poll.due, self.clock.monotonic()
        if log.isEnabledFor(logging.DEBUG):
            log.debug(texts.polling(message.job_id), extra=_names(message))
        try:
            answer = await status(case_ref=message.case_id, job_id=message.job_id)
        except (Unavailable, ProtocolError) as error:
            log.info("status query: %s", error, extra=_names(message) | {"reason": error.reason})
            failure: Answer = "outage" if start.outage else "silent"  # during an outage a failure is not counted (S29)
            result: QueryResult = "unavailable" if isinstance(error, Unavailable) else "unreadable"
            pause = getattr(error, "retry_after", None)
            took = self.clock.monotonic() - asked_at
            return QueryOutcome(failure, result, None, pause, late, took, error.reason)
        took = self.clock.monotonic() - asked_at
        return QueryOutcome(read_status(answer.call_status), "answer", answer.call_status, None, late, took)

    def _now(self, current: PollInProgress) -> float:
        """Return the store's time: its time at the fence plus the seconds that this process has counted since."""
        return current.start.now + self.clock.monotonic() - current.begun_at

    def decide_end(self, current: PollInProgress, outcome: QueryOutcome) -> PollDecision:
        """Decide the next poll or the verdict after a poll's query (S20, S22-S25, S29)."""
        message, start = current.message, current.start
        now = self._now(current)
        not_before = now + outcome.retry_after if outcome.retry_after else 0
        began = start.poll.due + outcome.late
        decision = decide(outcome.answer, start.poll, self.policy, began=began, now=now, not_before=not_before)
        if outcome.answer == "silent":
            failures = decision.retry_count if isinstance(decision, Finish) else decision.poll.retry_count
            line = texts.query_failed(failures, self.policy.max_retry_count, message.job_id)
            log.warning(line, extra=_names(message) | {"reason": outcome.reason})
        return PollDecision(current, self._end(current, outcome, decision))

    def _end(self, current: PollInProgress, outcome: QueryOutcome, decision: Next | Finish) -> PollEnd:
        message, start, call_status = current.message, current.start, outcome.call_status
        event = None
        shown = call_status or start.call_status
        detail = {"call_status": shown, "label": texts.label(shown)}
        if isinstance(decision, Finish):
            lost = {"message": texts.WATCH_LOST} if decision.verdict == "lost" else {}
            event = _event(decision.verdict, current, **detail, **lost, **_reason(decision, outcome.reason))
        elif call_status not in (None, start.call_status):
            event = _event("status_changed", current, **detail)
        return PollEnd(
            start.pair,
            message.job_id,
            start.poll.poll_no + 1,
            decision,
            outcome.result,
            call_status,
            event,
            Timing(outcome.late, outcome.took),
            outcome.reason,
        )

    def write(self, decided: Sequence[PollDecision]) -> list[str]:
        """Write the ends of polls in one script, log and notify the changes; return one line for each call.

        StoreUnavailable if Redis is away; then the write may be retried, because the fence drops duplicates.
        """
        changes = self.store.write_polls([one.end for one in decided])
        return [self._written(one, change) for one, change in zip(decided, changes, strict=True)]

    def _written(self, decided: PollDecision, change: OutageChange | Exception | None) -> str:
        message, start, end = decided.current.message, decided.current.start, decided.end
        if change is None:
            return "overtaken: nothing written"
        if isinstance(change, Exception):
            log.error("poll not written: %s", change, extra=_names(message))
            return "not written"
        _log_change(change)
        label = texts.label(end.call_status or start.call_status)
        if isinstance(end.follows, Finish):
            _log_end(end.follows, message, end.reason)
            line = f"{label} · {end.follows.verdict} after poll {start.poll.poll_no}"
            self.notify(StatusUpdate(message, line, end.follows.verdict, start.poll.deadline, start.root))
            return line
        failed = end.follows.poll.retry_count
        failures = f"failures {failed}/{self.policy.max_retry_count}"
        if end.event or failed != start.poll.retry_count or start.poll.poll_no == FIRST:
            line = f"{label} · since poll {start.poll.poll_no} · {failures}"
            self.notify(StatusUpdate(message, line, None, start.poll.deadline, start.root))
        return f"{label} · poll {start.poll.poll_no} · {failures}"


def _of_record(message: PollMessage, start: PollStarted) -> PollMessage:
    """Return the message with the case and the mediation of the record, which take precedence (S20)."""
    if (message.case_id, message.mediation_id) == (start.pair.case_id, start.pair.mediation_id):
        return message
    return message.model_copy(update={"case_id": start.pair.case_id, "mediation_id": start.pair.mediation_id})


def _log_change(change: OutageChange) -> None:
    """Log the begin and the end of an outage once (S29)."""
    if change == "outage_began":
        log.error(texts.OUTAGE_BEGAN)
    elif change == "outage_ended":
        log.warning(texts.OUTAGE_ENDED)


def _reason(end: Finish, last_failure: Reason | None) -> dict[str, Reason]:
    """Return the field with the reason of a watch that ended before its call (S24, S25, S38)."""
    if end.verdict == "lost":  # without a query: queries that outlasted their leases counted as failures (S28)
        return {"reason": last_failure or "lease_ended"}
    return {"reason": "deadline"} if end.verdict == "expired" else {}


def _log_end(end: Finish, message: PollMessage, last_failure: Reason | None) -> None:
    job_id, names = message.job_id, {**_names(message), **_reason(end, last_failure)}
    if end.verdict == "ended":
        log.info(texts.terminal(job_id), extra=names)
    elif end.verdict == "expired":
        log.warning(texts.watch_expired(job_id), extra=names)
    else:
        log.error(texts.retries_exceeded(job_id), extra=names | {"notice": texts.WATCH_LOST})


def _event(kind: EventKind, current: PollInProgress, /, **detail: object) -> Event:
    message = current.message
    return Event(kind, message.case_id, message.mediation_id, message.job_id, detail, current.start.root)


def _names(message: PollMessage) -> dict[str, str]:
    return {"job_id": message.job_id, "case_id": message.case_id, "mediation_id": message.mediation_id}

"""The flow of a poll: pass the fence → ask → decide → record → schedule the next one."""

import logging
from dataclasses import dataclass

from api_client import ProtocolError, Unavailable
from worker import texts
from worker.decision import Answer, Finish, Next, Policy, Poll, decide, may_look, read_status
from worker.messages import PollMessage
from worker.ports import Begun, Clock, Dropped, Early, Event, EventKind, Schedule, ScheduleFailed, Store, Upstream

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Watch:
    """The flow with its surroundings."""

    store: Store
    upstream: Upstream
    schedule: Schedule
    clock: Clock
    policy: Policy

    def __call__(self, message: PollMessage) -> str:
        """Carry one poll out and return one line on how the call stands (it is what Flower shows)."""
        start = self.store.begin_poll(message.job_id, message.poll_no)
        match start:
            case Dropped():
                return f"dropped: {start.why}"
            case Early():
                self._schedule(message.follow(start.poll, countdown=start.poll.due - start.now))
                return f"early: put back for {start.poll.due - start.now:.0f} s"
            case Begun():
                pair = {"case_id": start.pair.case_id, "mediation_id": start.pair.mediation_id}
                return self._poll(message.model_copy(update=pair), start)

    def _poll(self, message: PollMessage, start: Begun) -> str:
        clock_start = self.clock.monotonic()
        answer, call_status = self._ask(message, start.poll)
        now = start.now + self.clock.monotonic() - clock_start
        decision = decide(answer, start.poll, self.policy, now=now)
        if answer == "silent" and may_look(start.poll):
            failures = decision.retry_count if isinstance(decision, Finish) else decision.poll.retry_count
            log.warning(
                texts.query_failed(failures, self.policy.max_retry_count, message.job_id), extra=_names(message)
            )
        if isinstance(decision, Next):
            return self._continue(message, start, decision.poll, call_status, now)
        return self._finish(message, start, decision, call_status)

    def _ask(self, message: PollMessage, poll: Poll) -> tuple[Answer, str | None]:
        """Ask how the call stands: one request, or none when the watch is over anyway (S21, S25)."""
        if not may_look(poll):
            return "silent", None
        if log.isEnabledFor(logging.DEBUG):
            log.debug(texts.polling(message.job_id), extra=_names(message))
        try:
            status = self.upstream.status(case_ref=message.case_id, job_id=message.job_id)
        except (Unavailable, ProtocolError) as error:
            log.info("status query: %s", error, extra=_names(message))
            return "silent", None
        return read_status(status.call_status), status.call_status

    def _continue(self, message: PollMessage, start: Begun, poll: Poll, call_status: str | None, now: float) -> str:
        event = None
        if call_status not in (None, start.call_status):
            event = _event("status_changed", message, call_status=call_status, label=texts.label(call_status))
        if not self.store.continue_poll(start.pair, message.job_id, poll, call_status=call_status, event=event):
            return "overtaken: nothing written"
        self._schedule(message.follow(poll, countdown=poll.due - now))
        label = texts.label(call_status or start.call_status)
        return f"{label} · poll {start.poll.poll_no} · failures {poll.retry_count}/{self.policy.max_retry_count}"

    def _finish(self, message: PollMessage, start: Begun, end: Finish, call_status: str | None) -> str:
        label = texts.label(call_status or start.call_status)
        detail = {"call_status": call_status or start.call_status, "label": label}
        if end.verdict == "lost":
            detail["message"] = texts.WATCH_LOST
        kept = self.store.finish_poll(
            start.pair,
            message.job_id,
            start.poll.poll_no,
            verdict=end.verdict,
            retry_count=end.retry_count,
            call_status=call_status,
            event=_event(end.verdict, message, **detail),
        )
        if not kept:
            return "overtaken: nothing written"
        _log_end(end, message)
        return f"{label} · {end.verdict} after poll {start.poll.poll_no}"

    def _schedule(self, message: PollMessage) -> None:
        try:
            self.schedule(message)
        except ScheduleFailed as error:
            log.warning("next poll not published, the store has it: %s", error, extra=_names(message))


def _log_end(end: Finish, message: PollMessage) -> None:
    job_id = message.job_id
    if end.verdict == "ended":
        log.info(texts.terminal(job_id), extra=_names(message))
    elif end.verdict == "expired":
        log.warning(texts.watch_expired(job_id), extra=_names(message))
    else:
        log.error(texts.retries_exceeded(job_id), extra=_names(message) | {"notice": texts.WATCH_LOST})


def _event(kind: EventKind, message: PollMessage, /, **detail: object) -> Event:
    return Event(kind, message.case_id, message.mediation_id, message.job_id, detail)


def _names(message: PollMessage) -> dict[str, str]:
    return {"job_id": message.job_id, "case_id": message.case_id, "mediation_id": message.mediation_id}

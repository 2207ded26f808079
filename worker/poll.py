"""The flow of a poll: pass the fence → ask → decide → record → schedule the next one."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from api_client import ProtocolError, Unavailable
from worker import texts
from worker.decision import Answer, Finish, Next, Policy, Poll, decide, may_look, read_status
from worker.messages import PollMessage
from worker.ports import Clock, Schedule, ScheduleFailed, Store, Tell, Upstream
from worker.values import Begun, Dropped, Early, Event, EventKind, Heard, News, Timing, Written

log = logging.getLogger(__name__)

FIRST = 1  # the number of a call's first poll
LONGEST_HELD = 60  # seconds for which a worker holds a poll in vain; beyond the visibility time-out copies arise


@dataclass(frozen=True, slots=True)
class Watch:
    """The flow with its surroundings; it waits for upstream, and for its turn to ask, within `waiting`."""

    store: Store
    upstream: Upstream
    schedule: Schedule
    tell: Tell
    clock: Clock
    policy: Policy
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext

    def __call__(self, message: PollMessage) -> str:
        """Carry one poll out and return one line on how the call stands (it is what Flower shows)."""
        start = self.store.begin_poll(message.job_id, message.poll_no)
        if isinstance(start, Dropped):
            return f"dropped: {start.why}"
        if isinstance(start, Early):
            wait = start.at - start.now
            self._schedule(message.follow(start.poll, countdown=wait))
            return f"early: put back for {wait:.0f} s"
        pair = {"case_id": start.pair.case_id, "mediation_id": start.pair.mediation_id}
        return self._poll(message.model_copy(update=pair), start)

    def _poll(self, message: PollMessage, start: Begun) -> str:
        clock_start = self.clock.monotonic()
        heard = self._ask(message, start)
        spent = self.clock.monotonic() - clock_start
        now = start.now + spent
        took = None if heard.heard == "nothing" else max(0.0, spent - start.seconds)
        timing = Timing(start.now + start.seconds - start.poll.due, took)
        not_before = now + heard.retry_after if heard.retry_after else 0
        decision = decide(heard.answer, start.poll, self.policy, began=start.now, now=now, not_before=not_before)
        if heard.answer == "silent":
            failures = decision.retry_count if isinstance(decision, Finish) else decision.poll.retry_count
            line = texts.query_failed(failures, self.policy.max_retry_count, message.job_id)
            log.warning(line, extra=_names(message))
        if isinstance(decision, Next):
            return self._continue(message, start, decision.poll, heard, timing, now)
        return self._finish(message, start, decision, heard, timing)

    def _ask(self, message: PollMessage, start: Begun) -> "Hearing":
        """Ask how the call stands: one request, or none when the watch is over or others ask (S21, S25, S29)."""
        if not may_look(start.poll, self.policy.interval, began=start.now) or start.outage == "wait":
            return Hearing("outage", "nothing")
        if log.isEnabledFor(logging.DEBUG):
            log.debug(texts.polling(message.job_id), extra=_names(message))
        try:
            with self.waiting():
                if start.seconds:
                    self.clock.sleep(start.seconds)
                status = self.upstream.status(case_ref=message.case_id, job_id=message.job_id)
        except (Unavailable, ProtocolError) as error:
            log.info("status query: %s", error, extra=_names(message))
            uncounted: Answer = "silent" if start.outage == "none" else "outage"
            heard: Heard = "unavailable" if isinstance(error, Unavailable) else "unreadable"
            return Hearing(uncounted, heard, retry_after=getattr(error, "retry_after", None))
        return Hearing(read_status(status.call_status), "answer", status.call_status)

    def _continue(
        self, message: PollMessage, start: Begun, poll: Poll, heard: "Hearing", timing: Timing, now: float
    ) -> str:
        event = None
        label = texts.label(heard.call_status or start.call_status)
        if heard.call_status not in (None, start.call_status):
            event = _event("status_changed", message, call_status=heard.call_status, label=label)
        written = self.store.continue_poll(
            start.pair,
            message.job_id,
            poll,
            heard=heard.heard,
            call_status=heard.call_status,
            event=event,
            timing=timing,
        )
        if written is None:
            return "overtaken: nothing written"
        _log_change(written)
        self._schedule(message.follow(poll, countdown=(written.turn or poll.due) - now))
        failures = f"failures {poll.retry_count}/{self.policy.max_retry_count}"
        if event or poll.retry_count != start.poll.retry_count or start.poll.poll_no == FIRST:
            line = f"{label} · since poll {start.poll.poll_no} · {failures}"
            self.tell(News(message, line, None, start.poll.deadline, start.root))
        return f"{label} · poll {start.poll.poll_no} · {failures}"

    def _finish(self, message: PollMessage, start: Begun, end: Finish, heard: "Hearing", timing: Timing) -> str:
        call_status = heard.call_status or start.call_status
        detail = {"call_status": call_status, "label": texts.label(call_status)}
        if end.verdict == "lost":
            detail["message"] = texts.WATCH_LOST
        written = self.store.finish_poll(
            start.pair,
            message.job_id,
            start.poll.poll_no,
            verdict=end.verdict,
            retry_count=end.retry_count,
            heard=heard.heard,
            call_status=heard.call_status,
            event=_event(end.verdict, message, **detail),
            timing=timing,
        )
        if written is None:
            return "overtaken: nothing written"
        _log_change(written)
        _log_end(end, message)
        line = f"{texts.label(call_status)} · {end.verdict} after poll {start.poll.poll_no}"
        self.tell(News(message, line, end.verdict, start.poll.deadline, start.root))
        return line

    def _schedule(self, message: PollMessage) -> None:
        if message.countdown > self.policy.interval + LONGEST_HELD:  # the sweep publishes it when its time has come
            return
        try:
            self.schedule(message)
        except ScheduleFailed as error:
            log.warning("next poll not published, the store has it: %s", error, extra=_names(message))


@dataclass(frozen=True, slots=True)
class Hearing:
    """What a poll heard: a word for the decision, one for the outage, the status, and seconds for which not to ask."""

    answer: Answer
    heard: Heard
    call_status: str | None = None
    retry_after: float | None = None


def _log_change(written: Written) -> None:
    """Tell an outage once, when it begins and when it ends (S29)."""
    if written.change == "outage_began":
        log.error(texts.OUTAGE_BEGAN)
    elif written.change == "outage_ended":
        log.warning(texts.OUTAGE_ENDED)


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

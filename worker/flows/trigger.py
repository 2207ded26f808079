"""The flow of a trigger: validate → claim → dial, or wait → judge → store; the first polls are due then."""

import functools
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from api_client import CallRecord, CallRequest, NotSent, OutcomeUnknown, ProtocolError, Rejected, Unavailable
from config.calling_hours import CallingHours
from worker.core import texts
from worker.core.decision import DIAL_BACKOFF, phase_after
from worker.core.dial_result import DialEnd, deferred, found_again, not_called, read_answer
from worker.core.interfaces import Clock, Store, StoreUnavailable, Upstream
from worker.core.messages import BadTrigger, TriggerRequest, TriggerResult, plain_id, read_trigger
from worker.core.model import ClaimAnswered, Claimed, DuplicateDelivery, Event, Pair, RetryAt, Settlement
from worker.flows.lookup import known_job, still_active
from worker.flows.retry import retry_while_away

T = TypeVar("T")

log = logging.getLogger(__name__)

DIAL_WITHIN = 28  # seconds for all attempts of one dial: the last ends before a sweep may replace the claim (S18)
TOKEN_PATIENCE = 10  # seconds of these for which a dial waits for a token of the limit
LOOK_PATIENCE = 60  # seconds after which a look before a new call asks no more: that it cannot be told is an answer too
CLAIM_PATIENCE = 60  # seconds a trigger waits for the store before it goes back to the queue
ANSWER_PATIENCE = 3600  # seconds: this process alone knows the answer, and an answer is never thrown away (S18)


class NotOurs(Exception):  # noqa: N818 - named for what it is
    """The claim has passed to another owner: this one must not send, and says nothing."""


class Stopped(Exception):  # noqa: N818
    """New calls were stopped between the claim and the request (S16)."""


class NotYet(Exception):  # noqa: N818
    """Calls may not be made before `until` (epoch seconds, the store's); `wait` are the seconds to it from now."""

    def __init__(self, until: float, wait: float = math.inf) -> None:
        super().__init__(until)
        self.until = until
        self.wait = wait


class Watched(Exception):  # noqa: N818
    """A call of the pair is being watched: an earlier owner's late answer has brought it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One trigger that wants its pair, under the owner token that it would hold it by; `expires` in epoch seconds."""

    request: TriggerRequest
    pair: Pair
    token: str
    task_id: str
    expires: float | None
    redelivered: bool = False

    @property
    def names(self) -> dict[str, str]:
        """The fields that every log line of this trigger carries."""
        return {"case_id": self.pair.case_id, "mediation_id": self.pair.mediation_id, "task_id": self.task_id}


@dataclass(frozen=True, slots=True)
class TriggerFlow:
    """The flow with its surroundings; `interval` in seconds, `new_token` gives owner tokens that nobody can guess.

    Calls are made within `hours` only, where there are any.
    """

    store: Store
    upstream: Upstream
    clock: Clock
    interval: float
    enabled: bool
    new_token: Callable[[], str]
    hours: CallingHours | None = None

    def __call__(
        self, kwargs: dict[str, Any], *, task_id: str, expires: float | None = None, redelivered: bool = False
    ) -> TriggerResult | None:
        """Carry a trigger out and return its result; None for a copy that must say nothing (S17)."""
        try:
            request = read_trigger(kwargs)
        except BadTrigger as bad:
            with suppress(StoreUnavailable):  # it is only counted there
                self.store.count("triggers:invalid")
            return _invalid(kwargs, bad, task_id)
        pair = Pair(request.case_id, request.mediation_id)
        claim = Claim(request, pair, self.new_token(), task_id, expires, redelivered)
        match retry_while_away(lambda: self._claim(claim), self.clock, limit=CLAIM_PATIENCE):
            case DuplicateDelivery():
                return None
            case ClaimAnswered(why, result):
                text = "redelivered: answered with its recorded result" if why == "handled" else result["message"]
                log.info(text, extra=claim.names | {"outcome": result["outcome"]})
                return result
            case claimed:
                return self._carry_out(claim, claimed)

    def _carry_out(self, claim: Claim, claimed: Claimed) -> TriggerResult | None:
        """Call for a pair that is ours, or put the trigger where it waits."""
        try:
            closes = self._closing_time()
            found = None if claimed.query_since is None else self._look_first(claim, claimed.query_since)
            return found or self._call(claim, closes)
        except NotYet as closed:
            return self._defer(claim, closed.until)
        except NotOurs:
            log.warning("the claim passed to another owner before the request: nothing sent", extra=claim.names)
            return None

    def _claim(self, claim: Claim) -> Claimed | ClaimAnswered | DuplicateDelivery:
        return self.store.claim(
            claim.pair,
            token=claim.token,
            task_id=claim.task_id,
            arguments=claim.request.model_dump_json(),
            expires=claim.expires,
            enabled=self.enabled,
            redelivered=claim.redelivered,
        )

    def _closing_time(self) -> float | None:
        """Return until when calls may be made, None for ever; NotYet where they may not be made now."""
        if self.hours is None:
            return None
        now = retry_while_away(self.store.now, self.clock, limit=CLAIM_PATIENCE)
        window = self.hours.window(now)
        if now < window.opens:
            raise NotYet(window.opens)
        return window.closes

    def _defer(self, claim: Claim, until: float) -> TriggerResult | None:
        """Put the trigger where it waits, and let the pair's lock go."""
        detail = {"message": texts.DEFERRED, "until": until}
        event = Event("deferred", claim.pair.case_id, claim.pair.mediation_id, detail=detail)
        waits = retry_while_away(
            lambda: self.store.defer(claim.pair, claim.token, until=until, event=event),
            self.clock,
            limit=CLAIM_PATIENCE,
        )
        if not waits:
            log.warning("the claim passed to another owner before the request: nothing sent", extra=claim.names)
            return None
        log.info(texts.DEFERRED, extra=claim.names | {"until": until})
        return deferred(claim.pair, until)

    def _look_first(self, claim: Claim, since: float) -> TriggerResult | None:
        """Look upstream before a new call after a bad end; None where nothing is under way any more (S5)."""
        until = self.clock.monotonic() + LOOK_PATIENCE

        def go_on() -> None:  # a slow look must not pass for the end of its owner
            if self.clock.monotonic() > until:
                raise Unavailable("the look takes too long")
            if not self.store.renew(claim.pair, claim.token):
                raise NotOurs

        try:
            jobs = still_active(self.store, self.upstream, claim.pair, since=since, interval=self.interval, go_on=go_on)
        except (Unavailable, ProtocolError) as error:
            log.error(texts.dial_failed(f"{texts.LOOK_FAILED}: {error}"), extra=claim.names)  # noqa: TRY400
            return self._settle(claim, not_called("failed", claim.pair, texts.DIAL_FAILED, "dial_failed"), None)
        if not jobs:
            return None
        log.info(texts.ALREADY_ACTIVE, extra=claim.names)
        return self._settle(claim, found_again(claim.pair, jobs), None)

    def _call(self, claim: Claim, closes: float | None) -> TriggerResult | None:
        """Dial, and store what came of it in one step, with the due times of the first polls."""
        log.info(texts.dialling(claim.pair.case_id, claim.pair.mediation_id), extra=claim.names)
        end, sent_at = self._dial(claim, closes)
        return self._settle(claim, end, sent_at)

    def _settle(self, claim: Claim, end: DialEnd, sent_at: float | None) -> TriggerResult | None:
        settlement = Settlement(
            pair=claim.pair,
            token=claim.token,
            task_id=claim.task_id,
            result=end.result,
            phase=phase_after(end.outcome),
            sent_at=sent_at,
            jobs=end.jobs,
            events=end.events,
            look_up=end.look_up,
        )
        settled = self._until_kept(lambda: self.store.settle(settlement))
        if settled is None:
            return None
        for warning in end.warnings:
            log.warning(warning, extra=claim.names | {"outcome": end.outcome})
        for job in end.jobs:
            log.info(texts.job_stored(job.job_id, job.call_status), extra=claim.names | {"job_id": job.job_id})
        return end.result

    def _dial(self, claim: Claim, closes: float | None) -> tuple[DialEnd, float | None]:
        """Request the calls and return the outcome, with the store's time at which the request left."""
        sent_at: list[float] = []
        until = self.clock.monotonic() + DIAL_WITHIN

        def write_sending() -> None:
            sent_at.append(self._begin_sending(claim, closes))

        try:
            records = self._dial_in_turn(claim, write_sending, until)
        except Stopped:
            return not_called("disabled", claim.pair, texts.DISABLED, "disabled"), None
        except Watched:
            read = functools.partial(self.store.calls, case_id=claim.pair.case_id)
            held = (call for call in self._until_kept(read) if call.holds(claim.pair))
            return found_again(claim.pair, [known_job(call, self.interval) for call in held]), None
        except (NotSent, Rejected) as error:
            log.error(texts.dial_failed(str(error)), extra=claim.names)  # noqa: TRY400 - expected, its trace says no more
            return not_called("failed", claim.pair, texts.DIAL_FAILED, "dial_failed"), None
        except OutcomeUnknown as error:
            log.error("%s: %s", texts.OUTCOME_UNKNOWN, error, extra=claim.names)  # noqa: TRY400
            return self._unknown(claim, error.records), sent_at[-1] if sent_at else None
        if not sent_at:
            log.error("%s: answered past the gate", texts.OUTCOME_UNKNOWN, extra=claim.names)
            return self._unknown(claim, records), None
        return read_answer(records, claim.pair, interval=self.interval), sent_at[-1]

    def _until_kept(self, step: Callable[[], T]) -> T:
        """Take a step after a request has left: what it came to is known to this process alone (S18)."""
        return retry_while_away(step, self.clock, limit=ANSWER_PATIENCE, though_refused=True)

    def _unknown(self, claim: Claim, records: list[CallRecord]) -> DialEnd:
        """Return the end of a dial that may be ringing; `records` of an answer that came past the gate (S18)."""
        return replace(
            not_called("unknown", claim.pair, texts.OUTCOME_UNKNOWN, "unknown"),
            jobs=read_answer(records, claim.pair, interval=self.interval).jobs,
        )

    def _dial_in_turn(self, claim: Claim, write_sending: Callable[[], None], until: float) -> list[CallRecord]:
        """Request the calls once the limit of requests lets this one through; NotYet where that takes long."""
        left = float(TOKEN_PATIENCE)
        while True:
            try:
                return self._dial_patiently(claim, write_sending, until)
            except NotYet as busy:
                if busy.wait > left:
                    raise
                left -= busy.wait
                self.clock.sleep(busy.wait)

    def _dial_patiently(self, claim: Claim, write_sending: Callable[[], None], until: float) -> list[CallRecord]:
        """Request the calls, with up to three retries of what provably was not sent (S12).

        Each attempt renews the claim, and all end by `until` on the monotonic clock (S18).
        """
        request = CallRequest(**claim.request.model_dump())
        pauses = iter(DIAL_BACKOFF)
        while True:
            try:
                self._renew(claim)
                return self.upstream.dial(request, before_send=write_sending, within=until - self.clock.monotonic())
            except NotSent as error:
                pause = next(pauses, math.inf)
                if self.clock.monotonic() + pause >= until:
                    raise
                log.warning("%s; next try in %s s", texts.dial_failed(str(error)), pause, extra=claim.names)
                self.clock.sleep(pause)

    def _renew(self, claim: Claim) -> None:
        """Renew the claim; NotOurs where another owner has it."""
        try:
            ours = self.store.renew(claim.pair, claim.token)
        except StoreUnavailable as error:
            raise NotSent(str(error)) from error
        if not ours:
            raise NotOurs

    def _begin_sending(self, claim: Claim, closes: float | None) -> float:
        try:
            answer = self.store.begin_sending(claim.pair, claim.token, closes=closes)
        except StoreUnavailable as error:
            raise NotSent(str(error)) from error
        if answer == "taken":
            raise NotOurs
        if answer == "paused":
            raise Stopped
        if answer == "watched":
            raise Watched
        if isinstance(answer, RetryAt):
            raise NotYet(answer.at, answer.at - answer.now)
        if answer == "closed":
            assert self.hours is not None and closes is not None  # noqa: S101, PT018 - for the type checker
            raise NotYet(self.hours.window(closes).opens)
        return answer


def _invalid(kwargs: dict[str, Any], bad: BadTrigger, task_id: str) -> TriggerResult:
    """Return the result of a trigger that cannot be carried out (S2)."""
    ids = {name: plain_id(kwargs.get(name)) for name in ("case_id", "mediation_id")}
    message = f"{texts.MISSING_PARAMETERS}: {bad}" if bad.missing else str(bad)
    text = texts.MISSING_PARAMETERS if bad.missing else texts.INVALID_PARAMETERS
    log.warning(text, extra=ids | {"task_id": task_id, "reason": str(bad)})
    return TriggerResult.of("invalid", ids["case_id"], ids["mediation_id"], message=message)

"""Dial: send one trigger's request, with retries, within its time limit, the rate limit and the calling hours."""

import functools
import logging
import math
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal

from api_client import CallRecord, CallRequest, NotSent, OutcomeUnknown, Reason, Rejected
from config.calling_hours import CallingHours
from worker.core import texts
from worker.core.decision import DIAL_BACKOFF
from worker.core.dial_result import DialEnd, found_again, not_called, read_answer
from worker.core.interfaces import Clock, Store, StoreUnavailable, StoreUnconfirmed, Upstream
from worker.core.messages import TriggerRequest
from worker.core.model import Pair
from worker.core.trigger_model import RetryAt
from worker.flows.lookup import known_job
from worker.flows.retry import keep_answer

log = logging.getLogger(__name__)

DIAL_LIMIT = 28  # seconds for all attempts of one dial: the last ends before a sweep may replace the claim (S18)
THROTTLE_LIMIT = 10.0  # seconds of `DIAL_LIMIT` that a throttled dial may wait for the rate limit


@dataclass(frozen=True, slots=True)
class Claim:
    """A trigger and the owner token under which it claims its pair; `expires` in epoch seconds."""

    request: TriggerRequest
    pair: Pair
    token: str
    task_id: str
    expires: float | None

    @property
    def names(self) -> dict[str, str]:
        """The fields that every log line of this trigger carries."""
        return {"case_id": self.pair.case_id, "mediation_id": self.pair.mediation_id, "task_id": self.task_id}


@dataclass(frozen=True, slots=True)
class Dialled:
    """The end of a trigger, with or without a request.

    `sent_at` is the store's time of the request, None if `sending` was never written.
    """

    end: DialEnd
    sent_at: float | None = None


@dataclass(frozen=True, slots=True)
class CallLater:
    """No request was sent; for this `reason` the trigger may call at `at` (epoch seconds) or later."""

    at: float
    reason: Reason


@dataclass(frozen=True, slots=True)
class ClaimLost:
    """No request was sent, because the claim has passed to another owner."""


class Withheld(Exception):  # noqa: N818 - the name states the condition
    """The store refuses to let the request leave; `why` is the reason it gave."""

    def __init__(self, why: RetryAt | Literal["paused", "taken", "watched", "closed"]) -> None:
        super().__init__(why)
        self.why = why


@dataclass(slots=True)
class BeforeSend:
    """Write `sending` to the ledger: `api_client.gate` calls it right before the first byte of a request (S18)."""

    store: Store
    claim: Claim
    closes: float | None
    sent_at: float | None = field(default=None, init=False)

    def __call__(self) -> None:
        """Write `sending`; raise NotSent or Withheld if the request must not leave."""
        try:
            answer = self.store.begin_sending(self.claim.pair, self.claim.token, closes=self.closes)
        except StoreUnavailable as error:
            if isinstance(error, StoreUnconfirmed):
                with suppress(StoreUnavailable):  # only a counter of the metrics
                    self.store.count("requests_held_back")
            raise NotSent(str(error), reason="not_confirmed") from error
        if not isinstance(answer, float):
            raise Withheld(answer)
        self.sent_at = answer


@dataclass(frozen=True, slots=True)
class Dial:
    """Dial claimed pairs; `interval` in seconds spreads the first polls (S20)."""

    store: Store
    upstream: Upstream
    clock: Clock
    interval: float
    hours: CallingHours | None = None

    def __call__(self, claim: Claim, closes: float | None) -> Dialled | CallLater | ClaimLost:
        """Request the calls of a claimed pair, before the calling hours end at `closes` (epoch seconds)."""
        log.info(texts.dialling(claim.pair.case_id, claim.pair.mediation_id), extra=claim.names)
        before_send = BeforeSend(self.store, claim, closes)
        try:
            records = self._request(claim, before_send)
        except Withheld as withheld:
            return self._withheld(claim, withheld, closes)
        except (NotSent, Rejected) as error:
            names = claim.names | {"reason": error.reason}
            log.error(texts.dial_failed(str(error)), extra=names)  # noqa: TRY400 - an expected error
            return Dialled(not_called("failed", claim.pair, texts.DIAL_FAILED, "dial_failed", error.reason))
        except OutcomeUnknown as error:
            names = claim.names | {"reason": error.reason}
            log.error("%s: %s", texts.OUTCOME_UNKNOWN, error, extra=names)  # noqa: TRY400
            return Dialled(self._unknown(claim, error.reason, error.records), before_send.sent_at)
        if before_send.sent_at is None:  # the request left without passing the gate of `api_client`
            names = claim.names | {"reason": "past_gate"}
            log.error("%s: answered past the gate", texts.OUTCOME_UNKNOWN, extra=names)
            return Dialled(self._unknown(claim, "past_gate", records))
        return Dialled(read_answer(records, claim.pair, interval=self.interval), before_send.sent_at)

    def closing_time(self) -> float | CallLater | None:
        """Return when the current calling hours end (epoch seconds), None without a limit, CallLater outside them."""
        if self.hours is None:
            return None
        now = self.store.now()
        window = self.hours.window(now)
        return CallLater(window.opens, "calling_hours") if now < window.opens else window.closes

    def _request(self, claim: Claim, before_send: BeforeSend) -> list[CallRecord]:
        """Request the calls, with up to three retries of a request that was provably not sent (S12).

        Each attempt renews the claim; all attempts together end within `DIAL_LIMIT` (S18).
        """
        request = CallRequest(**claim.request.model_dump())
        until = self.clock.monotonic() + DIAL_LIMIT
        backoff, throttled = iter(DIAL_BACKOFF), 0.0
        while True:
            try:
                self._renew(claim)
                return self.upstream.dial(request, before_send=before_send, within=until - self.clock.monotonic())
            except Withheld as withheld:
                if not isinstance(withheld.why, RetryAt):
                    raise
                pause = withheld.why.at - withheld.why.now
                throttled += pause
                if throttled > THROTTLE_LIMIT:
                    raise
            except NotSent as error:
                pause = next(backoff, math.inf)
                if self.clock.monotonic() + pause >= until:
                    raise
                names = claim.names | {"reason": error.reason}
                log.warning("%s; next try in %s s", texts.dial_failed(str(error)), pause, extra=names)
            self.clock.sleep(pause)

    def _renew(self, claim: Claim) -> None:
        try:
            ours = self.store.renew(claim.pair, claim.token)
        except StoreUnavailable as error:
            raise NotSent(str(error), reason="not_confirmed") from error
        if not ours:
            raise Withheld("taken")

    def _withheld(self, claim: Claim, withheld: Withheld, closes: float | None) -> Dialled | CallLater | ClaimLost:
        """Return the result of a dial whose request the store refused to let leave."""
        match withheld.why:
            case RetryAt(at=at):
                return CallLater(at, "throttled")
            case "closed":
                assert self.hours is not None and closes is not None  # noqa: S101, PT018 - for the type checker
                return CallLater(self.hours.window(closes).opens, "calling_hours")
            case "taken":
                return ClaimLost()
            case "paused":
                return Dialled(not_called("disabled", claim.pair, texts.DISABLED, "disabled", "paused"))
            case _:  # "watched": meanwhile a late answer to an earlier owner's request started calls of this pair
                read = functools.partial(self.store.calls, case_id=claim.pair.case_id)
                held = (call for call in keep_answer(read, self.clock) if call.holds(claim.pair))
                return Dialled(found_again(claim.pair, [known_job(call, self.interval) for call in held]))

    def _unknown(self, claim: Claim, reason: Reason, records: list[CallRecord]) -> DialEnd:
        """Return the end of a dial that may have started calls; `records` are of an answer past the gate (S18)."""
        return replace(
            not_called("unknown", claim.pair, texts.OUTCOME_UNKNOWN, "unknown", reason),
            jobs=read_answer(records, claim.pair, interval=self.interval).jobs,
        )

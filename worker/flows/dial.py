"""Dial: every attempt of one trigger's request, within its time, the rate limit and the calling hours."""

import functools
import logging
import math
from dataclasses import dataclass, field, replace
from typing import Literal

from api_client import CallRecord, CallRequest, NotSent, OutcomeUnknown, Rejected
from config.calling_hours import CallingHours
from worker.core import texts
from worker.core.decision import DIAL_BACKOFF
from worker.core.dial_result import DialEnd, found_again, not_called, read_answer
from worker.core.interfaces import Clock, Store, StoreUnavailable, Upstream
from worker.core.messages import TriggerRequest
from worker.core.model import Pair, RetryAt
from worker.flows.lookup import known_job
from worker.flows.retry import keep_answer

log = logging.getLogger(__name__)

DIAL_LIMIT = 28  # seconds for all attempts of one dial: the last ends before a sweep may replace the claim (S18)
THROTTLE_LIMIT = 10.0  # seconds of these for which a dial waits for a token of the rate limit


@dataclass(frozen=True, slots=True)
class Claim:
    """A trigger that claims its pair under the owner token `token`; `expires` in epoch seconds."""

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
class Dialled:
    """A dial has ended; `sent_at` is the store's time of its request, None where `sending` was never written."""

    end: DialEnd
    sent_at: float | None = None


@dataclass(frozen=True, slots=True)
class CallLater:
    """Nothing was sent: the trigger may call from `at` on (epoch seconds)."""

    at: float


@dataclass(frozen=True, slots=True)
class ClaimLost:
    """Nothing was sent: another owner has the claim by now."""


class Withheld(Exception):  # noqa: N818 - named for what it is
    """The store allows no request; `why` is its answer."""

    def __init__(self, why: RetryAt | Literal["paused", "taken", "watched", "closed"]) -> None:
        super().__init__(why)
        self.why = why


@dataclass(slots=True)
class Gate:
    """Writes `sending` under a claim; the HTTP client calls it right before the first byte of a request (S18)."""

    store: Store
    claim: Claim
    closes: float | None
    sent_at: float | None = field(default=None, init=False)

    def __call__(self) -> None:
        """Write `sending`; NotSent or Withheld where the request must not leave."""
        try:
            answer = self.store.begin_sending(self.claim.pair, self.claim.token, closes=self.closes)
        except StoreUnavailable as error:
            raise NotSent(str(error)) from error
        if not isinstance(answer, float):
            raise Withheld(answer)
        self.sent_at = answer


@dataclass(frozen=True, slots=True)
class Dial:
    """The dial with its interfaces; `interval` in seconds spreads the first polls (S20)."""

    store: Store
    upstream: Upstream
    clock: Clock
    interval: float
    hours: CallingHours | None = None

    def __call__(self, claim: Claim, closes: float | None) -> Dialled | CallLater | ClaimLost:
        """Request the calls of a claimed pair, before the calling hours end at `closes` (epoch seconds)."""
        log.info(texts.dialling(claim.pair.case_id, claim.pair.mediation_id), extra=claim.names)
        gate = Gate(self.store, claim, closes)
        try:
            records = self._request(claim, gate)
        except Withheld as withheld:
            return self._withheld(claim, withheld, closes)
        except (NotSent, Rejected) as error:
            log.error(texts.dial_failed(str(error)), extra=claim.names)  # noqa: TRY400 - expected, its trace says no more
            return Dialled(not_called("failed", claim.pair, texts.DIAL_FAILED, "dial_failed"))
        except OutcomeUnknown as error:
            log.error("%s: %s", texts.OUTCOME_UNKNOWN, error, extra=claim.names)  # noqa: TRY400
            return Dialled(self._unknown(claim, error.records), gate.sent_at)
        if gate.sent_at is None:
            log.error("%s: answered past the gate", texts.OUTCOME_UNKNOWN, extra=claim.names)
            return Dialled(self._unknown(claim, records))
        return Dialled(read_answer(records, claim.pair, interval=self.interval), gate.sent_at)

    def closing_time(self) -> float | CallLater | None:
        """Return when the calling hours end (epoch seconds), None for never, CallLater outside them."""
        if self.hours is None:
            return None
        now = self.store.now()
        window = self.hours.window(now)
        return CallLater(window.opens) if now < window.opens else window.closes

    def _request(self, claim: Claim, gate: Gate) -> list[CallRecord]:
        """Request the calls, with up to three retries of what was provably not sent (S12).

        Each attempt renews the claim, and all together end within `DIAL_LIMIT` (S18).
        """
        request = CallRequest(**claim.request.model_dump())
        until = self.clock.monotonic() + DIAL_LIMIT
        backoff, throttled = iter(DIAL_BACKOFF), 0.0
        while True:
            try:
                self._renew(claim)
                return self.upstream.dial(request, before_send=gate, within=until - self.clock.monotonic())
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
                log.warning("%s; next try in %s s", texts.dial_failed(str(error)), pause, extra=claim.names)
            self.clock.sleep(pause)

    def _renew(self, claim: Claim) -> None:
        try:
            ours = self.store.renew(claim.pair, claim.token)
        except StoreUnavailable as error:
            raise NotSent(str(error)) from error
        if not ours:
            raise Withheld("taken")

    def _withheld(self, claim: Claim, withheld: Withheld, closes: float | None) -> Dialled | CallLater | ClaimLost:
        """Return the result of a dial whose request the store did not allow."""
        match withheld.why:
            case RetryAt(at=at):
                return CallLater(at)
            case "closed":
                assert self.hours is not None and closes is not None  # noqa: S101, PT018 - for the type checker
                return CallLater(self.hours.window(closes).opens)
            case "taken":
                return ClaimLost()
            case "paused":
                return Dialled(not_called("disabled", claim.pair, texts.DISABLED, "disabled"))
            case "watched":  # an earlier owner's late answer has brought calls
                read = functools.partial(self.store.calls, case_id=claim.pair.case_id)
                held = (call for call in keep_answer(read, self.clock) if call.holds(claim.pair))
                return Dialled(found_again(claim.pair, [known_job(call, self.interval) for call in held]))

    def _unknown(self, claim: Claim, records: list[CallRecord]) -> DialEnd:
        """Return the end of a dial that may be ringing; `records` are those of an answer past the gate (S18)."""
        return replace(
            not_called("unknown", claim.pair, texts.OUTCOME_UNKNOWN, "unknown"),
            jobs=read_answer(records, claim.pair, interval=self.interval).jobs,
        )

"""The flow of a trigger: read → claim → query upstream if the last trigger ended badly → dial → store, or defer."""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from api_client import ProtocolError, Unavailable
from worker.core import texts
from worker.core.decision import phase_after
from worker.core.dial_result import DialEnd, deferred, found_again, not_called
from worker.core.interfaces import StoreUnavailable
from worker.core.messages import BadTrigger, TriggerResult, plain_id, read_trigger
from worker.core.model import Event, Pair
from worker.core.trigger_model import ClaimAnswered, Claimed, DuplicateDelivery, Settlement
from worker.flows.dial import CallLater, Claim, ClaimLost, Dial, Dialled, Withheld
from worker.flows.lookup import still_active
from worker.flows.retry import keep_answer, retry_while_away

T = TypeVar("T")

log = logging.getLogger(__name__)

CLAIM_LOST = "the claim passed to another owner before the request: nothing sent"
OTHER_PAIR = BadTrigger(
    "task id: used before for another pair, should be a new one", missing=False, reason="task_id_reused"
)
QUERY_LIMIT = 60  # seconds for all queries before a new call; later ones count as unanswered
CLAIM_LIMIT = 60  # seconds of retries while the store is away; then the trigger is rejected to the queue


@dataclass(frozen=True, slots=True)
class TriggerFlow:
    """Carry triggers out; `dial` brings the store, upstream and the clock, `new_token` returns owner tokens."""

    dial: Dial
    enabled: bool
    new_token: Callable[[], str]

    def __call__(self, kwargs: dict[str, Any], *, task_id: str, expires: float | None = None) -> TriggerResult | None:
        """Carry a trigger out and return its result; None if the task must store no result.

        A duplicate delivery (S17) and a trigger whose claim passed to another owner (S18) end without a result.
        StoreUnavailable if the store stays away for `CLAIM_LIMIT`.
        """
        try:
            request = read_trigger(kwargs)
        except BadTrigger as bad:
            with suppress(StoreUnavailable):  # only counters of the metrics
                self.dial.store.count("triggers:invalid")
                self.dial.store.count(f"reasons:trigger:{bad.reason}")
            return _invalid(kwargs, bad, task_id)
        pair = Pair(request.case_id, request.mediation_id)
        claim = Claim(request, pair, self.new_token(), task_id, expires)
        match self._claim(claim):
            case DuplicateDelivery():
                return None
            case ClaimAnswered("handled", result) if _of_another_pair(result, pair):
                return _invalid(kwargs, OTHER_PAIR, task_id)
            case ClaimAnswered(why, result):
                text = "redelivered: answered with its recorded result" if why == "handled" else result["message"]
                log.info(text, extra=claim.names | _how(result))
                return result
            case claimed:
                return self._call(claim, claimed.query_since)

    def _claim(self, claim: Claim) -> Claimed | ClaimAnswered | DuplicateDelivery:
        return self._with_retry(
            lambda: self.dial.store.claim(
                claim.pair,
                token=claim.token,
                task_id=claim.task_id,
                arguments=claim.request.model_dump_json(),
                expires=claim.expires,
                enabled=self.enabled,
            )
        )

    def _call(self, claim: Claim, query_since: float | None) -> TriggerResult | None:
        """Query upstream if needed, dial, and store the outcome; outside the calling hours or throttled, defer."""
        closes = self._with_retry(self.dial.closing_time)
        if isinstance(closes, CallLater):
            return self._defer(claim, closes)
        match self._query_first(claim, query_since) or self.dial(claim, closes):
            case Dialled(end, sent_at):
                return self._settle(claim, end, sent_at)
            case CallLater() as later:
                return self._defer(claim, later)
            case _:  # ClaimLost
                log.warning(CLAIM_LOST, extra=claim.names)
                return None

    def _query_first(self, claim: Claim, since: float | None) -> Dialled | ClaimLost | None:
        """Query upstream before a new call after a bad end (S5); None if no call is active and the dial may follow.

        `since` is the store's time of the last trigger's request, None if no query is needed.
        """
        if since is None:
            return None
        dial, until = self.dial, self.dial.clock.monotonic() + QUERY_LIMIT

        def renew_claim() -> None:  # without it the sweep would replace the claim during slow queries
            if dial.clock.monotonic() > until:
                raise Unavailable("the queries take too long", reason="timeout")
            if not dial.store.renew(claim.pair, claim.token):
                raise Withheld("taken")  # caught below: it stops the queries

        try:
            jobs = still_active(
                dial.store, dial.upstream, claim.pair, since=since, interval=dial.interval, renew_claim=renew_claim
            )
        except Withheld:
            return ClaimLost()
        except (Unavailable, ProtocolError) as error:
            names = claim.names | {"reason": error.reason}
            log.error(texts.dial_failed(f"{texts.LOOK_FAILED}: {error}"), extra=names)  # noqa: TRY400
            return Dialled(not_called("failed", claim.pair, texts.DIAL_FAILED, "dial_failed", error.reason))
        if not jobs:
            return None
        log.info(texts.ALREADY_ACTIVE, extra=claim.names)
        return Dialled(found_again(claim.pair, jobs))

    def _settle(self, claim: Claim, end: DialEnd, sent_at: float | None) -> TriggerResult | None:
        """Store the end of a dial in one script, with the due times of the first polls."""
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
        if keep_answer(lambda: self.dial.store.settle(settlement), self.dial.clock) is None:
            return None
        for warning in end.warnings:
            log.warning(warning, extra=claim.names | _how(end.result))
        for job in end.jobs:
            log.info(texts.job_stored(job.job_id, job.call_status), extra=claim.names | {"job_id": job.job_id})
        return end.result

    def _defer(self, claim: Claim, later: CallLater) -> TriggerResult | None:
        """Store the trigger in its ledger until it may call, and release the lock."""
        detail = {"message": texts.DEFERRED, "until": later.at, "reason": later.reason}
        pair = claim.pair
        event = Event("deferred", pair.case_id, pair.mediation_id, detail=detail, task_id=claim.task_id)
        if not self._with_retry(lambda: self.dial.store.defer(pair, claim.token, until=later.at, event=event)):
            log.warning(CLAIM_LOST, extra=claim.names)
            return None
        log.info(texts.DEFERRED, extra=claim.names | {"until": later.at, "reason": later.reason})
        return deferred(pair, later.at, later.reason)

    def _with_retry(self, step: Callable[[], T]) -> T:
        return retry_while_away(step, self.dial.clock, limit=CLAIM_LIMIT)


def _of_another_pair(result: TriggerResult, pair: Pair) -> bool:
    """Tell whether the recorded result of a task id is that of another pair; one that was erased names none."""
    return result["case_id"] != "" and (result["case_id"], result["mediation_id"]) != (pair.case_id, pair.mediation_id)


def _how(result: TriggerResult) -> dict[str, str]:
    """Return the fields of a log line that tell how a trigger ended."""
    return {name: result[name] for name in ("outcome", "reason") if name in result}


def _invalid(kwargs: dict[str, Any], bad: BadTrigger, task_id: str) -> TriggerResult:
    """Log an invalid trigger and return its result (S2)."""
    ids = {name: plain_id(kwargs.get(name)) for name in ("case_id", "mediation_id")}
    message = f"{texts.MISSING_PARAMETERS}: {bad}" if bad.missing else str(bad)
    text = texts.MISSING_PARAMETERS if bad.missing else texts.INVALID_PARAMETERS
    log.warning(text, extra=ids | {"task_id": task_id, "reason": bad.reason, "fault": str(bad)})
    return TriggerResult.of("invalid", ids["case_id"], ids["mediation_id"], message=message, reason=bad.reason)

"""The flow of the sweep: take the leader lock → continue abandoned pairs → drop expired history (S18, S36)."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from worker.core.interfaces import Clock, Publish, ScheduleFailed, Store, StoreUnavailable
from worker.core.model import Pair
from worker.core.trigger_model import AbandonedClaim

log = logging.getLogger(__name__)

LOCK_TTL = 0.9  # of an interval: the lock has expired before its holder sweeps again
POSTPONED = 60  # seconds by which a pair that raised an error is moved back behind the others
BATCH = 500  # pairs in one sweep


@dataclass(frozen=True, slots=True)
class Sweep:
    """Sweep once per `interval` (seconds) over all workers; `owner` names this process in the leader lock."""

    store: Store
    publish: Publish
    owner: str
    interval: float
    new_token: Callable[[], str]

    def __call__(self) -> int:
        """Sweep once if this process gets the leader lock; return the number of published messages."""
        if not self.store.acquire_sweep_lock(self.owner, self.interval * LOCK_TTL):
            return 0
        published = 0
        failures: list[Exception] = []
        for part in (self._attend_to_pairs, self._trim):
            try:
                published += part()
            except Exception as error:  # noqa: BLE001 - a failure of one part must not stop the other
                failures.append(error)
        for failure in failures[1:]:
            _log(failure)
        if failures:
            raise failures[0]
        return published

    def _attend_to_pairs(self) -> int:
        published = 0
        for pair in self.store.pairs_due(limit=BATCH):
            try:
                published += self._attend(pair)
            except ScheduleFailed:  # the broker is away: end the sweep; pairs behind this one keep their order
                raise
            except Exception as error:  # noqa: BLE001 - one pair's error must not stop the pairs behind it
                names = {"case_id": pair.case_id, "mediation_id": pair.mediation_id}
                log.error("pair postponed: %s: %s", type(error).__name__, error, extra=names)  # noqa: TRY400
                self.store.postpone(pair, seconds=POSTPONED)
        return published

    def _attend(self, pair: Pair) -> int:
        names = {"case_id": pair.case_id, "mediation_id": pair.mediation_id}
        match self.store.attend(pair, token=self.new_token()):
            case AbandonedClaim() as abandoned:
                log.warning("claim abandoned by its owner: trigger published again", extra=names)
                self.publish.trigger(abandoned)
            case "look":
                self.publish.look_up(pair, expires=self.interval * 10)
            case _:
                return 0
        return 1

    def _trim(self) -> int:
        self.store.trim()
        return 0


def sweep_forever(
    sweep: Sweep, wait: Callable[[float], bool], clock: Clock, done: Callable[[], None] = lambda: None
) -> None:
    """Start a sweep every interval until `wait(seconds)` returns True; call `done` after each success.

    No error ends the loop, and a long sweep does not delay the next one. An outage of Redis is one warning when it
    begins and one when it ends.
    """
    spent, is_away = 0.0, False
    while not wait(max(sweep.interval - spent, sweep.interval * (1 - LOCK_TTL))):
        began = clock.monotonic()
        try:
            sweep()
        except StoreUnavailable as error:
            if not is_away:
                log.warning("sweeps fail, retrying: %s: %s", type(error).__name__, error)
            is_away = True
        except Exception as error:  # noqa: BLE001 - no error may end the sweep's thread
            _log(error)
        else:
            if is_away:
                log.warning("sweeps succeed again")
            is_away = False
            done()
        spent = clock.monotonic() - began


def _log(error: Exception) -> None:
    if isinstance(error, ScheduleFailed):
        log.warning("sweep could not publish, a later sweep tries again: %s", error)
    else:
        log.error("sweep failed: %s: %s", type(error).__name__, error)

"""The flow of the sweep: take the turn → attend to pairs → drop what is old (S18, S36)."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from worker.core.interfaces import Clock, Publish, ScheduleFailed, Store
from worker.core.model import AbandonedClaim, Pair

log = logging.getLogger(__name__)

TURN = 0.9  # of an interval: a turn is over when its owner comes again, so that it never waits for its own key
POSTPONED = 60  # seconds for which a pair that could not be attended to stands back behind the others
BATCH = 500  # pairs in one sweep


@dataclass(frozen=True, slots=True)
class Sweep:
    """The flow with its surroundings.

    `owner` names the process; `interval` is how many seconds a turn lasts.
    """

    store: Store
    publish: Publish
    owner: str
    interval: float
    new_token: Callable[[], str]

    def __call__(self) -> int:
        """Sweep once, if it is this process's turn; returns how many messages were published."""
        if not self.store.acquire_sweep_lock(self.owner, self.interval * TURN):
            return 0
        published = 0
        failures: list[Exception] = []
        for part in (self._attend_to_pairs, self._trim):
            try:
                published += part()
            except Exception as error:  # noqa: BLE001 - one part that cannot go on must not stop the others
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
            except ScheduleFailed:  # the broker is away: the pairs behind this one keep their places
                raise
            except Exception as error:  # noqa: BLE001 - whatever is wrong with this pair, those behind it come next
                names = {"case_id": pair.case_id, "mediation_id": pair.mediation_id}
                log.error("pair postponed: %s: %s", type(error).__name__, error, extra=names)  # noqa: TRY400
                self.store.postpone(pair, seconds=POSTPONED)
        return published

    def _attend(self, pair: Pair) -> int:
        names = {"case_id": pair.case_id, "mediation_id": pair.mediation_id}
        match self.store.attend(pair, token=self.new_token()):
            case AbandonedClaim() as abandoned:
                log.warning("claim without an owner: trigger published again", extra=names)
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
    """Begin a sweep every interval until `wait`, given seconds, returns true. No error ends it; `done` follows success.

    A sweep that takes long does not put off the next one.
    """
    spent = 0.0
    while not wait(max(sweep.interval - spent, sweep.interval * (1 - TURN))):
        began = clock.monotonic()
        try:
            sweep()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next sweep must come
            _log(error)
        else:
            done()
        spent = clock.monotonic() - began


def _log(error: Exception) -> None:
    if isinstance(error, ScheduleFailed):
        log.warning("sweep could not publish, the store has it: %s", error)
    else:
        log.error("sweep failed: %s: %s", type(error).__name__, error)

"""The flow of the sweep: take the turn → reissue overdue polls → attend to pairs → drop what is old (S28)."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from worker.ports import Clock, Publish, ScheduleFailed, Store
from worker.values import Abandoned

log = logging.getLogger(__name__)

TURN = 0.9  # of an interval: a turn is over when its owner comes again, so that it never waits for its own key
BATCH = 500  # polls or pairs in one step of the store: a few milliseconds of its time


@dataclass(frozen=True, slots=True)
class Sweep:
    """The flow with its surroundings.

    `owner` names the process; `interval` and `grace` are seconds: how long a turn lasts, and how late a poll may be.
    """

    store: Store
    publish: Publish
    owner: str
    interval: float
    grace: float
    new_token: Callable[[], str]

    def __call__(self) -> int:
        """Sweep once, if it is this process's turn; returns how many messages were published."""
        if not self.store.take_sweep(self.owner, self.interval * TURN):
            return 0
        published = self._reissue_polls() + self._attend_to_pairs()
        self.store.trim()
        return published

    def _reissue_polls(self) -> int:
        overdue = self.store.overdue(grace=self.grace, limit=BATCH)
        if overdue:
            self.publish.polls(overdue)
            log.warning("reissued %s overdue polls", len(overdue), extra={"oldest_due": overdue[0].due})
        return len(overdue)

    def _attend_to_pairs(self) -> int:
        published = 0
        for pair in self.store.pairs_to_attend(limit=BATCH):
            names = {"case_id": pair.case_id, "mediation_id": pair.mediation_id}
            match self.store.attend(pair, token=self.new_token()):
                case Abandoned() as abandoned:
                    log.warning("claim without an owner: trigger published again", extra=names)
                    self.publish.trigger(abandoned)
                    published += 1
                case "look":
                    self.publish.look_up(pair, expires=self.interval * 10)
                    published += 1
                case _:
                    pass
        return published


def sweep_forever(sweep: Sweep, wait: Callable[[float], bool], clock: Clock) -> None:
    """Begin a sweep every interval until `wait`, given seconds, says so. Nothing that goes wrong ends it."""
    spent = 0.0  # in a busy process a sweep takes as long as an interval, and what is overdue must not wait for two
    while not wait(max(sweep.interval - spent, sweep.interval * (1 - TURN))):
        began = clock.monotonic()
        try:
            sweep()
        except ScheduleFailed as error:
            log.warning("sweep could not publish, the store has it: %s", error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next sweep must come
            log.error("sweep failed: %s: %s", type(error).__name__, error)  # noqa: TRY400 - its trace is the store's
        spent = clock.monotonic() - began

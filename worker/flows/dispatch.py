"""Dispatch due polls to Celery: take them under a lease → publish them in batches (S20, S28)."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from worker.core.interfaces import PublishPolls, ScheduleFailed, Store, StoreUnavailable

log = logging.getLogger(__name__)

TICK = 0.15  # seconds between two rounds: a poll is late by at most that, and each round costs CPU time
WAITING = 600  # polls, not messages, in the queue at which none is taken: a backlog stays in Redis, ordered by due time
PAUSES = (0.2, 0.5, 1.0)  # seconds of back-off while Redis or the broker is away; the last one repeats


@dataclass(slots=True)
class Dispatcher:
    """Dispatch due polls.

    `free` returns for how many polls this process has room; `batch` is the maximum number of polls in a message.
    """

    store: Store
    publish: PublishPolls
    free: Callable[[], int]
    batch: int
    _waiting: int = field(default=WAITING, init=False)  # polls in the queue when its length was read, and later ones

    def __call__(self) -> int:
        """Take due polls and publish them; return their number.

        The length of the queue is read only when it may be half full; most rounds send one command.
        """
        if self._waiting >= WAITING / 2:
            self._waiting = self.publish.waiting() * self.batch
        taken = self.store.take_due(limit=max(0, min(WAITING - self._waiting, self.free())))
        self._waiting += len(taken.polls)
        if taken.reissued:
            log.warning("reissued %s polls whose lease had expired", taken.reissued)
        for first in range(0, len(taken.polls), self.batch):
            self.publish(taken.polls[first : first + self.batch])
        return len(taken.polls)


def dispatch_forever(dispatch: Dispatcher, wait: Callable[[float], bool], done: Callable[[], None]) -> None:
    """Dispatch every `TICK` until `wait(seconds)` returns True; call `done` after each success.

    No error ends the loop. While Redis or the broker is away it backs off, and logs one warning.
    """
    failures = 0
    while not wait(PAUSES[min(failures, len(PAUSES)) - 1] if failures else TICK):
        try:
            dispatch()
        except Exception as error:  # noqa: BLE001 - no error may end the dispatcher
            expected = isinstance(error, ScheduleFailed | StoreUnavailable)
            if not failures:
                log.log(
                    logging.WARNING if expected else logging.ERROR,
                    "polls cannot be dispatched, retrying: %s: %s",
                    type(error).__name__,
                    error,
                )
            failures += 1
        else:
            if failures:
                log.warning("polls are dispatched again")
            failures = 0
            done()

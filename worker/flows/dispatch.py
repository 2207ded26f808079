"""Dispatch due polls to Celery: take what is due → publish it in batches (S20, S28)."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from worker.core.interfaces import PublishPolls, ScheduleFailed, Store, StoreUnavailable

log = logging.getLogger(__name__)

TICK = 0.1  # seconds between two turns
WAITING = 400  # polls in the queue, above which none is taken: a backlog stays in Redis, in the order of due times
PAUSES = (0.2, 0.5, 1.0)  # seconds between two turns while Redis or the broker is away: the last one again and again


@dataclass(slots=True)
class Dispatcher:
    """The flow with its surroundings.

    `free` returns how many polls this process has room for, `batch` is how many calls one message carries at the most.
    """

    store: Store
    publish: PublishPolls
    free: Callable[[], int]
    batch: int
    _busy: bool = field(default=True, init=False)

    def __call__(self) -> int:
        """Take what is due and publish it; returns how many polls that were.

        While there is nothing to do the length of the queue is not asked for: an idle worker sends one command a turn.
        """
        waiting = self.publish.waiting() if self._busy else 0
        taken = self.store.take_due(limit=max(0, min(WAITING - waiting * self.batch, self.free())))
        self._busy = bool(waiting or taken.polls)
        if taken.reissued:
            log.warning("reissued %s polls whose lease had ended", taken.reissued)
        for first in range(0, len(taken.polls), self.batch):
            self.publish(taken.polls[first : first + self.batch])
        return len(taken.polls)


def dispatch_forever(dispatch: Dispatcher, wait: Callable[[float], bool], done: Callable[[], None]) -> None:
    """Dispatch every `TICK` until `wait`, given seconds, returns true. No error ends it; `done` follows each success.

    While Redis or the broker is away it backs off, and logs so once.
    """
    failures = 0
    while not wait(PAUSES[min(failures, len(PAUSES)) - 1] if failures else TICK):
        try:
            dispatch()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next turn must come
            expected = isinstance(error, ScheduleFailed | StoreUnavailable)
            if not failures:
                log.log(
                    logging.WARNING if expected else logging.ERROR,
                    "no poll can be dispatched, trying again: %s: %s",
                    type(error).__name__,
                    error,
                )
            failures += 1
        else:
            if failures:
                log.warning("polls are dispatched again")
            failures = 0
            done()

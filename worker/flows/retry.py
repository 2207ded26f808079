"""Retry with back-off while the store is away: a restart of Redis must not lose the answer of a dial."""

import itertools
import logging
from collections.abc import Callable
from typing import TypeVar

from worker.core.interfaces import Clock, StoreRefused, StoreUnavailable

T = TypeVar("T")

log = logging.getLogger(__name__)

BACKOFF = (0.5, 1, 2, 4, 8)  # seconds; the last one repeats
ANSWER_LIMIT = 3600  # seconds: this process alone knows the answer, and an answer is never thrown away (S18)


def retry_while_away(step: Callable[[], T], clock: Clock, *, limit: float, though_refused: bool = False) -> T:
    """Return what `step` returns, with retries for `limit` seconds while the store is away; then StoreUnavailable.

    Only for steps that are idempotent for one token. A step that the store refused is tried again only
    `though_refused`: where an error would lose more than a thread that waits until the store is repaired.
    """
    end = clock.monotonic() + limit
    pauses = itertools.chain(BACKOFF, itertools.repeat(BACKOFF[-1]))
    while True:
        try:
            return step()
        except StoreUnavailable as error:
            if isinstance(error, StoreRefused) and not though_refused:
                raise
            pause = next(pauses)
            if clock.monotonic() + pause > end:
                raise
            log.warning("store away, next try in %s s: %s", pause, error)
            clock.sleep(pause)


def keep_answer(step: Callable[[], T], clock: Clock) -> T:
    """Take a step after a request has left, whose answer this process alone knows (S18)."""
    return retry_while_away(step, clock, limit=ANSWER_LIMIT, though_refused=True)

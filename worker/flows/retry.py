"""Retry with back-off while the store is away, so that a restart of Redis loses no answer of a dial."""

import itertools
import logging
from collections.abc import Callable
from typing import TypeVar

from worker.core.interfaces import Clock, StoreRefused, StoreUnavailable

T = TypeVar("T")

log = logging.getLogger(__name__)

BACKOFF = (0.5, 1, 2, 4, 8)  # seconds; the last one repeats
ANSWER_LIMIT = 3600  # seconds for which an answer is kept that no other process has (S18)


def retry_while_away(step: Callable[[], T], clock: Clock, *, limit: float, though_refused: bool = False) -> T:
    """Return the result of `step`, with retries for `limit` seconds while the store is away; then StoreUnavailable.

    `step` must be idempotent for one owner token. A step that the store refused (StoreRefused) is retried only with
    `though_refused`, for an answer whose loss is worse than a thread that waits until the store is repaired.
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
    """Retry a step that follows a sent request for up to `ANSWER_LIMIT`: no other process has the answer (S18)."""
    return retry_while_away(step, clock, limit=ANSWER_LIMIT, though_refused=True)

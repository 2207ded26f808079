"""Wait for a store that is away: what a dial came to must not be lost to a restart of Redis."""

import itertools
import logging
from collections.abc import Callable
from typing import TypeVar

from worker.core.interfaces import Clock, StoreRefused, StoreUnavailable

T = TypeVar("T")

log = logging.getLogger(__name__)

PAUSES = (0.5, 1, 2, 4, 8)  # seconds, then the last one again and again


def retry_while_away(step: Callable[[], T], clock: Clock, *, limit: float, though_refused: bool = False) -> T:
    """Return what `step` returns, trying again while the store is away, for `limit` seconds; then StoreUnavailable.

    Only for steps that may be taken twice with the same token. One that the store refused is tried again only
    `though_refused`: where more is lost by an end than by a thread that waits until the store is repaired.
    """
    end = clock.monotonic() + limit
    pauses = itertools.chain(PAUSES, itertools.repeat(PAUSES[-1]))
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

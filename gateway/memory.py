"""Return memory to the system after many streams have closed: the allocators alone would keep it."""

import ctypes
import gc
from dataclasses import dataclass

MANY = 100  # streams; fewer are not worth a collection
RISE = 500  # additional streams after which all open ones are frozen


@dataclass(slots=True)
class Tide:
    """Detects when many streams have opened, and when most of them have closed and the number is stable."""

    highest: int = 0
    before: int = 0
    settled: int = 0

    def has_risen(self, streams: int) -> bool:
        """Return whether to call `settle` now; called at intervals with the number of streams."""
        if streams < self.settled + RISE:
            return False
        self.settled = streams
        return True

    def is_out(self, streams: int) -> bool:
        """Return whether to call `give_back` now; called at intervals with the number of streams."""
        still, self.before = streams == self.before, streams
        self.highest = max(self.highest, streams)
        if self.highest < MANY or 2 * streams > self.highest or not still:
            return False
        self.highest = self.settled = streams
        return True


def settle() -> None:
    """Exclude existing objects from later garbage collections: they live long, and most need no collection.

    Scanning all streams repeatedly takes 25 % of the CPU time of opening many.
    """
    gc.freeze()


def give_back() -> None:
    """Collect garbage, including frozen objects, and return free pages if the C library supports it."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

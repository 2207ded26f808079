"""Give memory back to the system after many streams have left: the allocators alone would keep it for new ones."""

import ctypes
import gc
from dataclasses import dataclass

MANY = 100  # streams; fewer are not worth a collection
RISE = 500  # streams more, after which those that there are count as settled


@dataclass(slots=True)
class Tide:
    """Notices when many streams have come, and when most of them have left and no more are leaving."""

    highest: int = 0
    before: int = 0
    settled: int = 0

    def has_risen(self, streams: int) -> bool:
        """Return whether the streams that there are should count as settled; called like `is_out`."""
        if streams < self.settled + RISE:
            return False
        self.settled = streams
        return True

    def is_out(self, streams: int) -> bool:
        """Return whether memory should be given back now; called at intervals with the number of streams."""
        still, self.before = streams == self.before, streams
        self.highest = max(self.highest, streams)
        if self.highest < MANY or 2 * streams > self.highest or not still:
            return False
        self.highest = self.settled = streams
        return True


def settle() -> None:
    """Leave out of later garbage collections what there is: it stays for long, and most of it dies without them.

    To look through all streams again and again is a quarter of the CPU time of opening many.
    """
    gc.freeze()


def give_back() -> None:
    """Collect garbage, also what was settled, and return free pages to the system where the C library can."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

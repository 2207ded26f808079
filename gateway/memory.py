"""Give memory back to the system after many streams have left: the allocators alone would keep it for new ones."""

import ctypes
import gc
from dataclasses import dataclass

MANY = 100  # streams; fewer are not worth a collection


@dataclass(slots=True)
class Tide:
    """Notices when most of the streams that there were have left, and no more are leaving."""

    highest: int = 0
    before: int = 0

    def is_out(self, streams: int) -> bool:
        """Return whether memory should be given back now; called at intervals with the number of streams."""
        still, self.before = streams == self.before, streams
        self.highest = max(self.highest, streams)
        if self.highest < MANY or 2 * streams > self.highest or not still:
            return False
        self.highest = streams
        return True


def spare() -> None:
    """Leave out of later garbage collections what was loaded at the start: it stays for good."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Collect garbage, and return free pages to the system where the C library can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

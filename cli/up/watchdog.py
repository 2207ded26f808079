"""The last resort: a process that outlives `callwatch up` when that is killed, and ends what it left behind.

It is run by path, without the rest of the package, to start in hundredths of a second.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

GRACE = 3.0  # seconds between asking processes to end and ending them


class Watchdog:
    """Told of every process group that is started; ends those that are left when its owner is gone, however it went."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own program and no shell
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # whatever ends the terminal's processes must not end this one
        )

    def add(self, pid: int) -> None:
        """Take the group of this process into care."""
        self._tell(f"+{pid}\n")

    def drop(self, pid: int) -> None:
        """Forget the group of this process: it has ended."""
        self._tell(f"-{pid}\n")

    def close(self) -> None:
        """Let it end; what is in its care by now is ended with it."""
        with suppress(OSError):
            self._process.communicate()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None  # noqa: S101 - asked for above
        with suppress(OSError):  # without a guard all works as well, until somebody kills this process
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()


def keep_watch() -> None:
    """Read what is added and dropped until the owner is gone, then end what is left."""
    left: set[int] = set()
    for line in sys.stdin:
        pid = int(line[1:])
        left.add(pid) if line.startswith("+") else left.discard(pid)
    left = {pid for pid in left if _signal(pid, signal.SIGTERM)}
    give_up = time.monotonic() + GRACE
    while left and time.monotonic() < give_up:
        time.sleep(0.05)
        left = {pid for pid in left if _signal(pid, 0)}
    for pid in left:
        _signal(pid, signal.SIGKILL)


def _signal(group: int, number: int) -> bool:
    """Send a signal to a group; False where there is none any more."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    keep_watch()

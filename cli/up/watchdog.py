"""End the processes of `callwatch up` when that is killed: a process of its own, which outlives it.

It runs by path, without the rest of the package, to start within hundredths of a second.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

GRACE = 3.0  # seconds between SIGTERM and SIGKILL


class Watchdog:
    """Keep the ids of the started process groups; end those that are left when the owner has ended, for any reason."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - a known program, without a shell
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a signal to the terminal's processes must not end this one
        )

    def add(self, pid: int) -> None:
        """Add the group of this process."""
        self._send(f"+{pid}\n")

    def drop(self, pid: int) -> None:
        """Remove the group of this process: it has ended."""
        self._send(f"-{pid}\n")

    def close(self) -> None:
        """End the watchdog and the groups that are still added."""
        with suppress(OSError):
            self._process.communicate()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None  # noqa: S101 - a pipe, see above
        with suppress(OSError):  # without the watchdog all works, unless this process is killed
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()


def keep_watch() -> None:
    """Read additions and removals until the owner has ended, then end the groups that are left."""
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
    """Send a signal to a group; return False if the group no longer exists."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    keep_watch()

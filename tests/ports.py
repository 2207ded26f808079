"""Reserve TCP ports for the servers of tests, which run in several processes and sessions at once."""

import fcntl
import os
import socket
import tempfile
from pathlib import Path
from typing import IO

RANGE = range(10_000, 16_000)  # below the ephemeral ports, and not among those that `callwatch up` chooses itself
_reserved: list[IO[bytes]] = []


def free_port() -> int:
    """Return a port that no other test on this machine gets while this process runs, in use or not."""
    folder = Path(tempfile.gettempdir()) / f"callwatch-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for number in RANGE:
        lock = (folder / str(number)).open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        _reserved.append(lock)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", number)):
                return number
    raise AssertionError("no free port")

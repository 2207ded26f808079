"""Choose the TCP ports of `callwatch up` on loopback."""

import errno
import fcntl
import os
import socket
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from cli.ui.output import WRONG_USAGE, Failure
from config.listening import not_usable

HOST = "127.0.0.1"
# Below the ephemeral ports: an outgoing connection could take one of those at any moment.
PREFERRED = {"redis": 16379, "simulator": 19015, "flower": 5555, "metrics": 9464, "gateway": 8080}
TRIES = 200
_reserved: list[int] = []  # open lock files; the system releases them when this process ends, however it ends


def choose_ports(given: Mapping[str, int | None], say: Callable[[str], None]) -> dict[str, int]:
    """Return a port for each name of `given`: the given one, else the preferred one or the next that is free.

    The ports are reserved until this process ends, so that another `up` of this user does not choose them before their
    services listen. Raises Failure if a given port is taken or given twice, or no port is free; `say` receives a line
    for each change.
    """
    numbers = [number for number in given.values() if number is not None]
    if len(numbers) > len(set(numbers)):
        raise Failure("--port-…: a port is given twice, each should be different", exit_code=WRONG_USAGE)
    taken = set(numbers)
    chosen: dict[str, int] = {}
    for name, number in given.items():
        chosen[name] = _given(name, number) if number is not None else _next_free(name, taken, say)
        taken.add(chosen[name])
    return chosen


def _given(name: str, number: int) -> int:
    if problem := _problem(number):
        raise Failure(f"--port-{name}: {not_usable(HOST, number, problem)}")
    return number


def _next_free(name: str, taken: set[int], say: Callable[[str], None]) -> int:
    first = PREFERRED[name]
    for number in range(first, first + TRIES):
        if number not in taken and not _problem(number):
            if number != first:
                say(f"port {first} is taken: {name} gets {number}")
            return number
    raise Failure(f"no free port on {HOST} from {first} to {first + TRIES - 1}: give one with --port-{name}")


def _problem(number: int) -> OSError | None:
    """Return why a port cannot be used; None if it can: it is reserved then."""
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # like the servers, which can use a port in TIME_WAIT
        try:
            probe.bind((HOST, number))
            probe.listen()
            _reserved.append(_lock(number))
        except OSError as error:
            return error
    return None


def _lock(number: int) -> int:
    """Lock the file of a port and return its descriptor; OSError while another process holds it."""
    folder = Path(tempfile.gettempdir()) / f"callwatch-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(folder / str(number), os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None
    return lock

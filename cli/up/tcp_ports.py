"""Choose the TCP ports of `callwatch up` on loopback."""

import socket
from collections.abc import Callable, Mapping

from cli.ui.output import WRONG_USAGE, Failure
from config.listening import not_usable

HOST = "127.0.0.1"
# Below the ephemeral ports: an outgoing connection could take one of those at any moment.
PREFERRED = {"redis": 16379, "simulator": 19015, "flower": 5555, "metrics": 9464, "gateway": 8080}
TRIES = 200


def choose_ports(given: Mapping[str, int | None], say: Callable[[str], None]) -> dict[str, int]:
    """Return a port for each name of `given`: the given one, else the preferred one or the next that is free.

    Raises Failure if a given port is taken or given twice, or no port is free; `say` receives a line for each change.
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
    """Return why a port cannot be used; None if it can."""
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # like the servers, which can use a port in TIME_WAIT
        try:
            probe.bind((HOST, number))
            probe.listen()
        except OSError as error:
            return error
    return None

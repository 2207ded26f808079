"""Run the simulated upstream until a signal."""

import asyncio
import contextlib
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from simulator.server import serve
from simulator.state import SimConfig

_CONNECTIONS = 4096  # macOS allows 256 open files unless asked


def run(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    token: str | None = None,
    log_path: Path | None = None,
    speed: float = 1.0,
    dial_delay: float = 0.0,
    ready: Callable[[int], None] = lambda _port: None,
) -> None:
    """Serve until SIGINT or SIGTERM; call it from the main thread.

    Port 0 picks a free one; `ready` receives the port once the server answers. `speed` is the factor by which calls run
    faster, `dial_delay` the seconds between two records of one call-v2. OSError if the port or the log file is not
    available.
    """
    config = SimConfig(host=host, port=port, token=token, log_path=log_path, speed=speed, dial_delay=dial_delay)
    allow_connections(_CONNECTIONS)
    asyncio.run(_until_signalled(config, ready))


def allow_connections(wanted: int) -> None:
    """Raise the limit of open files of this process to `wanted`, as far as the system permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ceiling = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < ceiling:
        with contextlib.suppress(ValueError, OSError):  # then it serves fewer connections
            resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))


async def _until_signalled(config: SimConfig, ready: Callable[[int], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await serve(config, ready=ready, stop=stop)

"""Serve the simulated upstream: an aiohttp application and its port."""

import asyncio
import contextlib
from collections.abc import Callable

from aiohttp import web

from simulator import control, upstream
from simulator.state import SIM, SimConfig, Simulation

_BACKLOG = 1024
_GRACE = 0.2  # seconds for requests to end when the server stops; after it their connections are closed


def make_app(config: SimConfig) -> web.Application:
    """Return the application; OSError if its log cannot be opened.

    Run it with `handler_cancellation=True`, as `serve` does: else the loss of a client is not detected. Outages need
    `serve`.
    """
    app = web.Application()
    app[SIM] = Simulation.start(config)
    control.add_routes(app)
    app.router.add_route("*", "/{path:.*}", upstream.handle)
    app.on_shutdown.append(_stopping)
    app.on_cleanup.append(_cleanup)
    return app


async def _stopping(app: web.Application) -> None:
    app[SIM].stopping = True


async def _cleanup(app: web.Application) -> None:
    sim = app[SIM]
    for task in sim.tasks:
        task.cancel()
    await asyncio.gather(*sim.tasks, return_exceptions=True)
    sim.log.close()


async def serve(config: SimConfig, *, ready: Callable[[int], None], stop: asyncio.Event) -> None:
    """Listen until `stop` is set; `ready` receives the port once it answers. OSError if the port is not free."""
    app = make_app(config)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=_GRACE, access_log=None)
    await runner.setup()
    try:
        site = await _listen(runner, config.host, config.port)
        ready(site.port)
        outages = asyncio.create_task(_run_outages(runner, site, app[SIM], config.host))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({stopped, outages}, return_when=asyncio.FIRST_COMPLETED)
        outages.cancel()
        stopped.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await outages  # raises if the port was no longer free
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> web.TCPSite:
    site = web.TCPSite(runner, host, port, backlog=_BACKLOG)
    await site.start()
    return site


async def _run_outages(runner: web.AppRunner, site: web.TCPSite, sim: Simulation, host: str) -> None:
    """For each requested outage, close the port and every connection, then listen on the same port again."""
    port = site.port
    while True:
        seconds = await sim.outages.get()
        await asyncio.sleep(_GRACE)  # the answer to the request for the outage is sent first
        await site.stop()
        for connection in runner.server.connections if runner.server else ():
            if connection.transport:
                connection.transport.abort()
        await asyncio.sleep(seconds)
        site = await _listen(runner, host, port)

"""The simulated upstream as an aiohttp application, and the port that it listens on."""

import asyncio
import contextlib
from collections.abc import Callable

from aiohttp import web

from simulator import control, upstream
from simulator.state import SIM, SimConfig, Simulation

_BACKLOG = 1024
_GOODBYE = 0.2  # seconds that requests have to end when the server stops; what hangs is cut off then


def make_app(config: SimConfig) -> web.Application:
    """Return the application; OSError if its log cannot be opened.

    Run it with `handler_cancellation=True`, as `serve` does: else a client that has gone is not noticed. Outages need
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
    """Listen until `stop` is set; `ready` gets the port once it answers. OSError if the port cannot be had."""
    app = make_app(config)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=_GOODBYE, access_log=None)
    await runner.setup()
    try:
        site = await _listen(runner, config.host, config.port)
        ready(site.port)
        outages = asyncio.create_task(_have_outages(runner, site, app[SIM], config.host))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({stopped, outages}, return_when=asyncio.FIRST_COMPLETED)
        outages.cancel()
        stopped.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await outages  # raises if the port could not be had again
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> web.TCPSite:
    site = web.TCPSite(runner, host, port, backlog=_BACKLOG)
    await site.start()
    return site


async def _have_outages(runner: web.AppRunner, site: web.TCPSite, sim: Simulation, host: str) -> None:
    """Close the port and every connection as often and as long as asked, then listen on the same port again."""
    port = site.port
    while True:
        seconds = await sim.outages.get()
        await asyncio.sleep(_GOODBYE)  # the answer to whoever asked for it goes out first
        await site.stop()
        for connection in runner.server.connections if runner.server else ():
            if connection.transport:
                connection.transport.abort()
        await asyncio.sleep(seconds)
        site = await _listen(runner, host, port)

"""`callwatch simulate`: run the simulated upstream."""

from pathlib import Path
from typing import Annotated

import typer

from cli.commands.parameters import Host, PortOrFree


def simulate(
    port: PortOrFree,
    host: Host = "127.0.0.1",
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append one JSON line per request to this file.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Require the bearer token in this file. Default: the one in SIMULATOR_TOKEN, else no token.",
        ),
    ] = None,
    speed: Annotated[
        float, typer.Option(min=0.001, max=1_000_000, help="The factor by which simulated calls run faster.")
    ] = 1.0,
    dial_delay: Annotated[
        float,
        typer.Option(min=0, max=86_400, metavar="SECONDS", help="Time between two records of one call request."),
    ] = 0.0,
) -> None:
    """Run only the simulated upstream. No phone rings.

    The paths under /_sim script the calls and the faults; GET /_sim lists them, each with the fields of its JSON body.
    Without a token every user of this machine can use it.

    Example: callwatch simulate --port 9015 --speed 10
    """
    from cli.simulate import simulate  # noqa: PLC0415

    simulate(host, port, log=log, token_file=token_file, speed=speed, dial_delay=dial_delay)

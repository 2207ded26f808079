"""`callwatch up`: run a whole installation."""

from pathlib import Path
from typing import Annotated

import typer


def up(
    live: Annotated[
        bool, typer.Option("--live", help="Use the configured upstream and Redis; no simulator, no sample cases.")
    ] = False,
    notices: Annotated[
        bool, typer.Option("--notices", help="Send notices about the simulated calls to the configured receiver.")
    ] = False,
    port_redis: Annotated[
        int | None, typer.Option(min=1, max=65535, help="TCP port of Redis. Default: 16379, or the next free one.")
    ] = None,
    port_simulator: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="TCP port of the simulated upstream. Default: 19015, or the next free one."
        ),
    ] = None,
    port_flower: Annotated[
        int | None, typer.Option(min=1, max=65535, help="TCP port of Flower. Default: 5555, or the next free one.")
    ] = None,
    port_metrics: Annotated[
        int | None, typer.Option(min=1, max=65535, help="TCP port of the metrics. Default: 9464, or the next free one.")
    ] = None,
    port_gateway: Annotated[
        int | None, typer.Option(min=1, max=65535, help="TCP port of the gateway. Default: 8080, or the next free one.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep data and logs in this folder. Default: a temporary folder."),
    ] = None,
) -> None:
    """Start all processes and show three sample cases.

    Starts Redis, a simulated upstream, two workers, Flower, the metrics and the HTTP gateway. No phone rings. All
    processes listen on loopback only and stop at Ctrl-C. A second `callwatch up` chooses other ports. The command
    prints the addresses, the generated passwords and the variables that a second terminal needs for the other commands.
    Unless --live is given, it ignores the Redis and the upstream of the environment and of .env, and without --notices
    also the receiver of notices.

    Example: callwatch up --data ./callwatch-data
    """
    from cli.up.up import Options, up  # noqa: PLC0415

    up(Options(live, notices, port_redis, port_simulator, port_flower, port_metrics, port_gateway, data))

"""`callwatch doctor` and `callwatch healthcheck`: diagnose an installation, or one worker."""

from pathlib import Path
from typing import Annotated

import typer

from cli.commands.parameters import Json, leave


def doctor(json: Json = False) -> None:
    """Check every part of the installation within ten seconds. Changes nothing and places no call.

    Prints one line for each check: ok, warn (works, but needs attention) or FAIL, with the reason. Exit code 1 if any
    check is FAIL, else 0.

    Example: callwatch doctor
    """
    from cli.doctor import doctor  # noqa: PLC0415

    leave(doctor(as_json=json))


def healthcheck(
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The health file of the worker. Default: CALLWATCH_HEALTH_FILE."),
    ] = None,
) -> None:
    """Check this machine's worker: exit code 0 healthy, 1 not.

    Healthy means that within CALLWATCH_HEALTH_LIMIT seconds the sweep ran, the event loop ran, Redis answered, and the
    worker consumed from each queue in which messages wait. An idle worker is healthy. A worker that is stopped, blocked
    or does not consume is not healthy, nor is one without Redis. The command reads the health file only; it sends no
    request.

    Example: callwatch healthcheck --file /run/callwatch/health
    """
    from cli.healthcheck import healthcheck  # noqa: PLC0415

    leave(healthcheck(file))

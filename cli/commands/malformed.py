"""`callwatch malformed`: show the quarantined messages."""

from typing import Annotated

import typer

from cli.commands.parameters import Json, leave


def malformed(
    clear: Annotated[
        bool, typer.Option("--clear", help="Delete the listed messages, which ends the alert about them.")
    ] = False,
    json: Json = False,
) -> None:
    """List the messages that no worker could read.

    Each line names the wrong field. Such messages are not carried out and have no result. The newest 100 are kept for a
    day. Their contents are not shown, only the ids of case, mediation and task where they can be read.

    Example: callwatch malformed
    """
    from cli.malformed import malformed  # noqa: PLC0415

    leave(malformed(clear=clear, as_json=json))

"""`callwatch pause` and `callwatch resume`: stop and allow new calls."""

from typing import Annotated

import typer

from cli.commands.parameters import By, Json, leave


def pause(
    why: Annotated[
        str, typer.Option("--why", "--reason", metavar="TEXT", help="The reason; status and doctor show it.")
    ] = "",
    by: By = None,
    json: Json = False,
) -> None:
    """Stop new calls at once, on every worker.

    Name, reason and time are stored and shown; on a terminal the command asks for the reason.

    Calls already placed stay watched. A trigger that arrives during the pause ends with outcome `disabled` and is not
    kept for later.

    Example: callwatch pause --why "upstream maintenance until 18:00"
    """
    from cli.state import pause  # noqa: PLC0415

    leave(pause(why, by=by, as_json=json))


def resume(
    why: Annotated[
        str, typer.Option("--why", "--reason", metavar="TEXT", help="The reason; stored with name and time.")
    ] = "",
    by: By = None,
    json: Json = False,
) -> None:
    """Allow new calls again after `callwatch pause`.

    Example: callwatch resume --why "maintenance is over"
    """
    from cli.state import resume  # noqa: PLC0415

    leave(resume(why, by=by, as_json=json))

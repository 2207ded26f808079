"""`callwatch notices`: show undelivered notices and replay dead letters."""

from typing import Annotated

import typer

from cli.commands.parameters import Json, leave


def notices(
    dead: Annotated[bool, typer.Option("--dead", help="List the dead letters.")] = False,
    replay: Annotated[bool, typer.Option("--replay", help="Put the dead letters back into the outbox.")] = False,
    json: Json = False,
) -> None:
    """Show the notices that are not delivered yet.

    A notice that is not delivered within CALLWATCH_NOTICE_AGE seconds becomes a dead letter. A replayed notice keeps
    its id and can arrive after later notices of its call. Exit code 1 if the outbox had no room for every dead letter.

    Example: callwatch notices --dead
    """
    from cli.notices import notices  # noqa: PLC0415

    leave(notices(dead=dead, replay=replay, as_json=json))

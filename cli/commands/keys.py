"""`callwatch keys new`: make an API key of the HTTP gateway."""

from typing import Annotated

import typer

from cli.commands.parameters import leave

keys = typer.Typer(
    name="keys",
    help="Manage the API keys of the HTTP gateway.\n\nExample: callwatch keys new crm --scope trigger --scope read",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@keys.command("new")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The back end: 1 to 32 of a-z, 0-9 and -.")],
    scope: Annotated[
        list[str],
        typer.Option(
            metavar="SCOPE", help="A permission of the key: trigger, read or mint; can be given several times."
        ),
    ],
) -> None:
    """Make an API key and print it once.

    Appends the name, the scopes and the SHA-256 of the key to CALLWATCH_GATEWAY_KEYS_FILE; the key itself is not
    stored. A running gateway reads the file again within a second. A name can have two keys, for an exchange without an
    interruption.

    Example: callwatch keys new crm --scope trigger --scope read
    """
    from cli.serve import make_key  # noqa: PLC0415

    leave(make_key(name, scope))

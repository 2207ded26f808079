"""Arguments and options that several commands share, and the way from a command to its exit code."""

from typing import Annotated, NoReturn

import typer

CaseId = Annotated[str, typer.Argument(metavar="CASE_ID", help="The case: `case_id` in its data.")]
MediationId = Annotated[str, typer.Argument(metavar="MEDIATION_ID", help="The mediation: `id` in the case's data.")]
OneCase = Annotated[str | None, typer.Option("--case", metavar="ID", help="Only the calls of this case.")]
By = Annotated[str | None, typer.Option(metavar="NAME", help="The person who decides. Default: the login name.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
JsonWithPersons = Annotated[bool, typer.Option("--json", help="Print one JSON document, with whole person ids.")]
Host = Annotated[str, typer.Option(help="The address to listen on.")]
PortOrFree = Annotated[int, typer.Option(min=0, max=65535, help="The TCP port to listen on; 0 picks a free one.")]


def leave(code: int) -> NoReturn:
    """End the command with this exit code."""
    raise typer.Exit(code)

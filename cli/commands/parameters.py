"""Arguments and options that several commands share, and the way from a command to its exit code."""

import re
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

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}  # seconds


def duration(given: str | float) -> float:
    """Return a duration like 90, 90s, 15m, 1.5h or 2d in seconds; typer.BadParameter for any other text."""
    text = str(given)
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhd]?)", text.strip().lower(), re.ASCII)
    seconds = float(found[1]) * UNITS[found[2]] if found else 0.0
    if not seconds:
        raise typer.BadParameter(f"{text!r}, should be a duration above 0 in s, m, h or d, like 90s or 1h.")
    return seconds


def leave(code: int) -> NoReturn:
    """End the command with this exit code."""
    raise typer.Exit(code)

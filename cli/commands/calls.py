"""`callwatch status` and `callwatch watch`: show calls."""

from typing import Annotated

import typer

from cli.commands.parameters import JsonWithPersons, OneCase, leave


def status(
    case: OneCase = None,
    job: Annotated[str | None, typer.Option("--job", metavar="ID", help="Only this call, active or finished.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Include finished calls and pairs.")] = False,
    json: JsonWithPersons = False,
) -> None:
    """Show the status of calls and of their cases.

    Without options it shows the calls that are being watched, and the cases with a trigger in progress: its phase, and
    since and until when it lasts. Times in the JSON document are epoch seconds. Exit code 1 if --case or --job names
    what has no record.

    Examples: callwatch status, callwatch status --case C-1001 --all
    """
    from cli.state import Query, status  # noqa: PLC0415

    leave(status(Query(case, job, everything), as_json=json))


def watch(
    case: OneCase = None,
    once: Annotated[bool, typer.Option("--once", help="Print the table once and exit.")] = False,
) -> None:
    """Show a live table of the calls until Ctrl-C.

    Without a terminal it prints one line for each event. The command only observes: the workers watch the calls and
    continue after it ends. Exit code 1 if --once is given and the case has no record.

    Example: callwatch watch --case C-1001
    """
    from cli.state import watch  # noqa: PLC0415

    leave(watch(case_id=case, once=once))

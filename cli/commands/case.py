"""`callwatch history`, `conversation` and `erase`: the data of one case or call."""

from typing import Annotated

import typer

from cli.commands.parameters import CaseId, Json, leave


def history(case_id: CaseId, json: Json = False) -> None:
    """Show every event of a case with its time, the oldest first.

    Events are kept for CALLWATCH_HISTORY_TTL seconds after the last one and hold no personal data. Exit code 1 if the
    case has no event.

    Example: callwatch history C-1001
    """
    from cli.case import history  # noqa: PLC0415

    leave(history(case_id, as_json=json))


def conversation(
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID", help="The call: its jobId.")],
    links: Annotated[
        bool, typer.Option("--links", help="Show signed links. A signed link opens the recording without a password.")
    ] = False,
    json: Json = False,
) -> None:
    """Show the transcript of a call and its recording.

    Prints the lines by speaker, and the time at which the link to the recording expires, about a day after the call.
    Queries upstream and stores nothing. Exit code 1 if upstream has no conversation of the call.

    Example: callwatch conversation 1754042400000-4a7f-4c1e-9d7d0a1b2c3d
    """
    from cli.case import conversation  # noqa: PLC0415

    leave(conversation(job_id, links=links, as_json=json))


def erase(
    case_id: CaseId,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Erase even if the last outcome is unknown and the next trigger has to look up."),
    ] = False,
    json: Json = False,
) -> None:
    """Erase the data of a case and print the numbers.

    Removes history, records of calls, results and notices, and cancels a trigger that waits for calling hours. Refused
    with exit code 1 while a call of the case is being placed or watched, or may be ringing. The ids of handled tasks
    stay, without data of the case, so that a late duplicate delivery of a trigger places no call.

    Example: callwatch erase C-1001
    """
    from cli.case import erase  # noqa: PLC0415

    leave(erase(case_id, anyway=anyway, as_json=json))

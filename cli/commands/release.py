"""`callwatch release`: release a pair whose outcome is unknown."""

from typing import Annotated

import typer

from cli.commands.parameters import By, CaseId, Json, MediationId, leave


def release(
    case_id: CaseId,
    mediation_id: MediationId,
    why: Annotated[
        str, typer.Option(metavar="TEXT", help="The reason; stored in the history of the case. Required.")
    ] = "",
    now: Annotated[
        bool, typer.Option("--now", help="Release it although the look-up of its call is not over.")
    ] = False,
    by: By = None,
    json: Json = False,
) -> None:
    """Allow a new call after an outcome that is still unknown.

    The answer to a call request was lost: a phone may be ringing, and the pair of case and mediation stays locked for
    some minutes. Use this command only if upstream or the parties confirm that no phone will ring any more. It is
    refused while the look-up may still find the call, except with --now, and for a pair whose outcome is not unknown;
    the exit code is then 1. Calls that the look-up found stay watched and keep the pair locked until they end.

    Example: callwatch release C-1001 100017 --why "upstream confirms: no call"
    """
    from cli.release import read_release, release  # noqa: PLC0415

    leave(release(read_release(case_id, mediation_id, why=why, by=by, now=now), as_json=json))

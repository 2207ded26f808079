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
    by: By = None,
    json: Json = False,
) -> None:
    """Release a pair with an unknown outcome before its hold ends.

    Use it when upstream or the parties confirm that no phone will ring any more. Calls of the pair that the look-up
    found stay watched and keep the pair locked until they end. A pair in any other phase is refused with exit code 1.

    Example: callwatch release C-1001 100017 --why "upstream confirms: no call"
    """
    from cli.release import read_release, release  # noqa: PLC0415

    leave(release(read_release(case_id, mediation_id, why=why, by=by), as_json=json))

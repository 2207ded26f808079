"""`callwatch trigger`: enqueue one trigger."""

from typing import Annotated

import typer

from cli.commands.parameters import CaseId, JsonWithPersons, MediationId, duration, leave
from cli.ui.output import WRONG_USAGE, Failure


def trigger(  # noqa: PLR0913, PLR0917 - one parameter for each option
    case_id: CaseId,
    mediation_id: MediationId,
    person: Annotated[
        str | None, typer.Option(metavar="ID", help="Call only this person. Default: every party of the case.")
    ] = None,
    manual: Annotated[bool, typer.Option("--manual", help="Send callAuto 1 (manual) instead of 0.")] = False,
    task_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The task id; a second trigger with the same id places no call.")
    ] = None,
    expires: Annotated[
        float,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            show_default=False,
            help="Drop the trigger if no worker takes it within this time. Default: 1h.",
        ),
    ] = 3600,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the outcome and print it.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="With --wait: how long to wait. Default: CALLWATCH_CALL_TIMEOUT and 30s.",
        ),
    ] = None,
    json: JsonWithPersons = False,
) -> None:
    """Trigger the calls to the parties of a case, once.

    While the pair of case and mediation is locked by an earlier trigger or by its calls, a further trigger places no
    call.

    Prints the task id. With --wait it prints the outcome, the calls and the refusals, and the exit code is 0 for
    started, skipped and deferred, 1 for any other outcome or for no outcome in time. The end of the wait does not
    cancel the trigger. A duration is a number with s, m, h or d; without a unit it is seconds.

    Example: callwatch trigger C-1001 100017 --wait
    """
    from cli.enqueue import Order, read_order, trigger  # noqa: PLC0415

    for name, text, empty in (("--person", person, "to call everyone"), ("--task-id", task_id, "to have one made")):
        if text is not None and not text.strip():  # an unset variable of a shell script must not call everyone
            raise Failure(f"{name}: an empty text, should be an id; leave it out {empty}", exit_code=WRONG_USAGE)
    request = read_order(case_id, mediation_id, person=person, manual=manual)
    leave(trigger(Order(request, task_id, expires, timeout), wait=wait, as_json=json))

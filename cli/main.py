"""The callwatch command: what can be typed, its help, and its exit codes. Each command imports what it needs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from cli.ui.output import DONE, WRONG_USAGE, Failure, complain, speak_utf8

app = typer.Typer(
    name="callwatch",
    help="Triggers AI outbound calls for mediation cases exactly once and watches every call to its end.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

keys_app = typer.Typer(
    help="The API keys by which the HTTP gateway knows back ends.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(keys_app, name="keys")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead, person ids whole.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (this process's own if None) and return its exit code: 0 done, 1 failed, 2 wrong usage."""
    speak_utf8()
    try:
        code = app(arguments, prog_name="callwatch", standalone_mode=False)
    except Failure as failure:
        complain(str(failure))
        return failure.exit_code
    except Exception as error:
        if not hasattr(error, "format_message"):  # Typer's wrong usages, whose base it does not export
            raise
        complain(_usage_line(error))
        return WRONG_USAGE
    return code if isinstance(code, int) else DONE


def _usage_line(error: Any) -> str:
    path = error.ctx.command_path if getattr(error, "ctx", None) else "callwatch"
    text = str(error.format_message())
    stop = "" if text.endswith((".", "?")) else "."
    return text if "\n" in text else f"{path}: {text}{stop} See {path} --help."  # the help itself: nothing was typed


@app.command()
def up(
    live: Annotated[
        bool, typer.Option("--live", help="Work for the configured upstream and Redis; no simulator, no samples.")
    ] = False,
    port_redis: Annotated[int | None, typer.Option(min=1, max=65535, help="Redis' port; 16379 if free.")] = None,
    port_simulator: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The simulated upstream's port; 19015 if free.")
    ] = None,
    port_flower: Annotated[int | None, typer.Option(min=1, max=65535, help="Flower's port; 5555 if free.")] = None,
    port_metrics: Annotated[int | None, typer.Option(min=1, max=65535, help="The metrics' port; 9464 if free.")] = None,
    port_gateway: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The gateway's port; 8080 if free.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep data and logs here, instead of in a folder that goes.")
    ] = None,
) -> None:
    """Start everything and show it, with three sample cases.

    Redis, a simulated upstream, two workers, Flower, the metrics and the HTTP gateway are started. Nobody's telephone
    rings. All of it listens on loopback only and stops at Ctrl-C. The addresses and the passwords that it makes for
    itself are printed, with what a second terminal needs for the other commands. It uses its own Redis and its own
    upstream whatever the environment or a .env says, unless --live is given.
    """
    from cli.up.up import Options, up  # noqa: PLC0415

    up(Options(live, port_redis, port_simulator, port_flower, port_metrics, port_gateway, data))


@app.command()
def trigger(  # noqa: PLR0913, PLR0917 - an argument for each thing that can be typed
    case_id: Annotated[str, typer.Argument(metavar="CASE_ID", help="The case: `case_id` in its data.")],
    mediation_id: Annotated[
        str, typer.Argument(metavar="MEDIATION_ID", help="The mediation: `id` in the case's data.")
    ],
    person: Annotated[
        str | None, typer.Option(metavar="ID", help="Call this person only, instead of everyone in the case.")
    ] = None,
    manual: Annotated[bool, typer.Option("--manual", help="Send callAuto 1 (manual) instead of 0.")] = False,
    task_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The task's id: the same id never calls twice.")
    ] = None,
    expires: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Drop the trigger if no worker has taken it by then.")
    ] = 3600,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for what came of it.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="S", help="Wait so many seconds; CALLWATCH_CALL_TIMEOUT and 30 if not given."),
    ] = None,
    json: Json = False,
) -> None:
    """Have the parties of a case called, once.

    While a call of the same case and mediation is being made or watched, a further trigger makes none.

    Prints the task's id. With --wait: the outcome, the calls and the refusals; exit code 0 for started, skipped and
    deferred, 1 for any other outcome or none in time. Not waiting any longer does not take the trigger back.
    """
    from cli.enqueue import Order, read_order, trigger  # noqa: PLC0415

    for name, text, empty in (("--person", person, "to call everyone"), ("--task-id", task_id, "to have one made")):
        if text is not None and not text.strip():  # an unset variable of a shell script must not call everyone
            raise Failure(f"{name}: an empty text, should be an id; leave it out {empty}", exit_code=WRONG_USAGE)
    request = read_order(case_id, mediation_id, person=person, manual=manual)
    _exit(trigger(Order(request, task_id, expires, timeout), wait=wait, as_json=json))


@app.command()
def status(
    case: Annotated[str | None, typer.Option("--case", metavar="ID", help="Only the calls of this case.")] = None,
    job: Annotated[str | None, typer.Option("--job", metavar="ID", help="Only this call, finished or not.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Finished calls and pairs too.")] = False,
    json: Json = False,
) -> None:
    """Show how calls and their cases stand.

    Without options: the calls that are being watched. Times in the JSON document are epoch seconds.
    """
    from cli.state import Query, status  # noqa: PLC0415

    _exit(status(Query(case, job, everything), as_json=json))


@app.command()
def watch(
    case: Annotated[str | None, typer.Option("--case", metavar="ID", help="Only the calls of this case.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Print the table as it stands now and leave.")] = False,
) -> None:
    """Show a live table of the calls until Ctrl-C.

    Without a terminal it is a line for each event. It only looks on: watching itself is done by the workers, and goes
    on when this ends.
    """
    from cli.state import watch  # noqa: PLC0415

    _exit(watch(case_id=case, once=once))


@app.command()
def pause(
    why: Annotated[
        str, typer.Option("--why", "--reason", metavar="TEXT", help="Why; shown by status and doctor.")
    ] = "",
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Who decides; the login name if not given.")] = None,
    json: Json = False,
) -> None:
    """Stop new calls at once, for every worker.

    Who did it, why and when is kept and shown; a terminal is asked for the reason.

    Calls already made stay watched. A trigger that arrives meanwhile ends as `disabled` and is not kept for later.
    """
    from cli.state import pause  # noqa: PLC0415

    _exit(pause(why, by=by, as_json=json))


@app.command()
def resume(
    why: Annotated[str, typer.Option("--why", "--reason", metavar="TEXT", help="Why; kept with who and when.")] = "",
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Who decides; the login name if not given.")] = None,
    json: Json = False,
) -> None:
    """Allow new calls again after `callwatch pause`."""
    from cli.state import resume  # noqa: PLC0415

    _exit(resume(why, by=by, as_json=json))


@app.command()
def release(
    case_id: Annotated[str, typer.Argument(metavar="CASE_ID", help="The case: `case_id` in its data.")],
    mediation_id: Annotated[
        str, typer.Argument(metavar="MEDIATION_ID", help="The mediation: `id` in the case's data.")
    ],
    why: Annotated[str, typer.Option(metavar="TEXT", help="Why; kept in the case's history. Required.")] = "",
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Who decides; the login name if not given.")] = None,
    json: Json = False,
) -> None:
    """Let an unknown outcome go, before its time is over.

    For a person who knows, from upstream or from the parties, that no telephone will ring any more. Calls of the pair
    that were found stay watched and hold it until they end. Whatever is no unknown outcome is refused.
    """
    from cli.release import read_release, release  # noqa: PLC0415

    _exit(release(read_release(case_id, mediation_id, why=why, by=by), as_json=json))


@app.command()
def history(
    case_id: Annotated[str, typer.Argument(metavar="CASE_ID", help="The case: `case_id` in its data.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """Show every event of a case with its time, the oldest first.

    Events are kept for CALLWATCH_HISTORY_TTL after the last one, and hold no personal data.
    """
    from cli.case import history  # noqa: PLC0415

    _exit(history(case_id, as_json=json))


@app.command()
def conversation(
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID", help="The call's jobId.")],
    links: Annotated[
        bool, typer.Option("--links", help="Show signed links: each opens a recording for anybody who has it.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """Show what was said in a call, by speaker, and where its recording lies until when.

    Both are asked of upstream now and kept nowhere. The link to a recording dies about a day after the call.
    """
    from cli.case import conversation  # noqa: PLC0415

    _exit(conversation(job_id, links=links, as_json=json))


@app.command()
def erase(
    case_id: Annotated[str, typer.Argument(metavar="CASE_ID", help="The case: `case_id` in its data.")],
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Also where the last outcome is not known and the next trigger has to look."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """Remove what is kept of a case, and say what that was.

    History, records of calls, results, notices. A trigger that waits for calling hours is taken back. Refused while a
    call of the case is being made or watched, or may be ringing. Handled task ids stay without anything of the case,
    so that a late copy of a trigger still calls nobody.
    """
    from cli.case import erase  # noqa: PLC0415

    _exit(erase(case_id, anyway=anyway, as_json=json))


@app.command()
def notices(
    dead: Annotated[bool, typer.Option("--dead", help="List the notices that were given up.")] = False,
    replay: Annotated[bool, typer.Option("--replay", help="Put them back, to be delivered once more.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """Show what back ends have still to be told.

    A notice that no back end takes for CALLWATCH_NOTICE_AGE becomes a dead letter. Replayed, it keeps its id, and may
    come after later ones of its call.
    """
    from cli.notices import notices  # noqa: PLC0415

    _exit(notices(dead=dead, replay=replay, as_json=json))


@app.command()
def doctor(json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False) -> None:
    """Say what is reachable, what is not, and why; within ten seconds, changing nothing, calling nobody.

    A line each: ok, warn (works, and somebody should know) or FAIL. Exit code 1 where anything is FAIL, else 0.
    """
    from cli.doctor import doctor  # noqa: PLC0415

    _exit(doctor(as_json=json))


@app.command()
def healthcheck(
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What the worker writes; CALLWATCH_HEALTH_FILE if not given.")
    ] = None,
) -> None:
    """Tell by the exit code whether this machine's worker did work lately: 0 healthy, 1 not.

    Healthy means that within CALLWATCH_HEALTH_LIMIT its sweep went round, its event loop turned, Redis answered, and
    it took of what waited in its queues. An idle worker is healthy; one that is stopped, stuck or deaf is not, nor is
    one whose Redis is away. It asks nobody: it reads the file that the worker writes.
    """
    from cli.healthcheck import healthcheck  # noqa: PLC0415

    _exit(healthcheck(file))


@app.command()
def flower(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 5555,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve Flower: tasks, watched calls and workers, for whoever knows CALLWATCH_FLOWER_AUTH.

    It only shows: nothing can be dialled, revoked or shut down from its pages. Arguments and results are masked.
    """
    from cli.flower import flower  # noqa: PLC0415

    flower(host, port)


@app.command()
def metrics(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 picks a free one.")] = 9464,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve the metrics of all workers in Prometheus' form under /metrics.

    They are counted in Redis: one such process is enough, and it may be started again at any time. With
    CALLWATCH_METRICS_TOKEN it asks for that bearer token; without one it listens on loopback only. /healthz is open
    and says nothing.
    """
    from cli.metrics import metrics  # noqa: PLC0415

    metrics(host, port)


@app.command()
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 picks a free one.")] = 8080,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve the HTTP API and the live stream, for back ends and for the pages that follow cases.

    Back ends show an API key of CALLWATCH_GATEWAY_KEYS_FILE, pages a token; without keys it listens on loopback only.
    It keeps nothing itself: any number of such processes agree. /healthz and /readyz are open and say nothing.
    """
    from cli.serve import serve  # noqa: PLC0415

    serve(host, port)


@keys_app.command("new")
def keys_new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The back end: 1 to 32 of a-z, 0-9 and -.")],
    scope: Annotated[
        list[str],
        typer.Option(metavar="SCOPE", help="What it may do: trigger, read, mint; may be given several times."),
    ],
) -> None:
    """Make an API key and print it, alone and once.

    Its name, scopes and SHA-256 are added to CALLWATCH_GATEWAY_KEYS_FILE; the key itself is kept nowhere. A gateway
    that runs takes notice within a second. A name may have two keys, for as long as they are exchanged.
    """
    from cli.serve import make_key  # noqa: PLC0415

    _exit(make_key(name, scope))


@app.command()
def simulate(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 picks a free one.")],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    log: Annotated[Path | None, typer.Option(metavar="FILE", help="Append a JSON line per request here.")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Ask for the bearer token in this file, else the one in SIMULATOR_TOKEN."),
    ] = None,
    speed: Annotated[float, typer.Option(min=0.001, max=1_000_000, help="How fast the lives of calls pass.")] = 1.0,
    dial_delay: Annotated[
        float, typer.Option(min=0, max=86_400, metavar="SECONDS", help="Time between two records of one call request.")
    ] = 0.0,
) -> None:
    """Run the simulated upstream alone. It rings nobody.

    Calls live as scripted under /_sim; see GET /_sim. Without a token anybody on this machine may use it.
    """
    from cli.simulate import simulate  # noqa: PLC0415

    simulate(host, port, log=log, token_file=token_file, speed=speed, dial_delay=dial_delay)


def _exit(code: int) -> NoReturn:
    raise typer.Exit(code)


if __name__ == "__main__":
    raise SystemExit(main())

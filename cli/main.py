"""Assemble the callwatch command from its parts, and run it."""

from collections.abc import Sequence
from importlib.metadata import version as version_of
from typing import Annotated, Any

import typer

from cli.commands.calls import status, watch
from cli.commands.case import conversation, erase, history
from cli.commands.health import doctor, healthcheck
from cli.commands.keys import keys
from cli.commands.malformed import malformed
from cli.commands.notices import notices
from cli.commands.release import release
from cli.commands.services import flower, metrics, serve
from cli.commands.simulate import simulate
from cli.commands.switch import pause, resume
from cli.commands.trigger import trigger
from cli.commands.up import up
from cli.ui.output import DONE, WRONG_USAGE, Failure, complain, say, speak_utf8, usage

app = typer.Typer(
    name="callwatch",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},  # the commands inherit them
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"callwatch {version_of('callwatch')}")
        raise typer.Exit(DONE)


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Place AI outbound calls for mediation cases exactly once, and watch every call to its end.

    Settings come from CALLWATCH_... variables and from .env in the current folder. Exit codes: 0 done, 1 failed, 2
    wrong usage.

    Examples: callwatch doctor, callwatch status --all, callwatch trigger --help
    """


for _command in (
    *(up, trigger, status, watch, pause, resume, release, history, conversation, erase, notices, malformed),
    *(doctor, healthcheck, flower, metrics, serve, simulate),
):
    app.command()(_command)
app.add_typer(keys)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (None: the arguments of this process); return 0 done, 1 failed or 2 wrong usage."""
    speak_utf8()
    try:
        code = app(arguments, prog_name="callwatch", standalone_mode=False)
    except Failure as failure:
        complain(str(failure))
        return failure.exit_code
    except Exception as error:
        if not hasattr(error, "format_message"):  # a usage error; Typer does not export their base class
            raise
        _explain_usage(error)
        return WRONG_USAGE
    return code if isinstance(code, int) else DONE


def _explain_usage(error: Any) -> None:
    """Write the line about a usage error; several lines are the help itself."""
    path = error.ctx.command_path if getattr(error, "ctx", None) else "callwatch"
    text = str(error.format_message())
    if "\n" in text:
        usage(text)
        return
    stop = "" if text.endswith((".", "?")) else "."
    complain(f"{text}{stop} See {path} --help.")


if __name__ == "__main__":
    raise SystemExit(main())

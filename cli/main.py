"""Assemble the callwatch command from its parts, and run it."""

from collections.abc import Sequence
from typing import Any

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
from cli.ui.output import DONE, WRONG_USAGE, Failure, complain, speak_utf8

app = typer.Typer(
    name="callwatch",
    help="Place AI outbound calls for mediation cases exactly once, and watch every call to its end.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
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
        complain(_usage_line(error))
        return WRONG_USAGE
    return code if isinstance(code, int) else DONE


def _usage_line(error: Any) -> str:
    path = error.ctx.command_path if getattr(error, "ctx", None) else "callwatch"
    text = str(error.format_message())
    stop = "" if text.endswith((".", "?")) else "."
    return text if "\n" in text else f"{path}: {text}{stop} See {path} --help."  # several lines: the help itself


if __name__ == "__main__":
    raise SystemExit(main())

"""`callwatch flower`: Celery's own window, with the columns an operator needs, and never open to anybody (S40)."""

import importlib.util
import logging

from cli.connect import read_settings
from cli.ui.output import WRONG_USAGE, Failure
from config.settings import Settings

MAX_TASKS = 20_000  # the least recently changed go first; at a kilobyte each, and a save of them takes a second
SAVE_EVERY = 60_000  # milliseconds: what a crash of Flower may cost of its memory, where it has a file
COLUMNS = "name,uuid,state,kwargs,result,received,worker"  # a call's uuid is its job id
A_CENTURY = 100 * 365 * 86_400  # seconds: who looks on puts no message back into a queue; workers do that
OPEN_PAGES = (r"/metrics",)  # Flower asks nobody for a credential there


def flower(host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM; Failure where there is no credential to ask for."""
    if importlib.util.find_spec("flower") is None:
        raise Failure("flower is not installed: pip install 'callwatch[ops]'")
    settings = read_settings()
    if settings.flower_auth is None:
        raise Failure(
            "CALLWATCH_FLOWER_AUTH or CALLWATCH_FLOWER_AUTH_FILE: missing, should give the user:password to ask for",
            exit_code=WRONG_USAGE,
        )
    from flower import urls  # noqa: PLC0415 - takes a second

    from worker.app import app  # noqa: PLC0415

    urls.handlers[:] = [handler for handler in urls.handlers if path_of(handler) not in OPEN_PAGES]
    app.conf.broker_transport_options["visibility_timeout"] = A_CENTURY
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    app.start(["flower", *options(settings, host, port)])


def options(settings: Settings, host: str, port: int) -> list[str]:
    """Return Flower's options. They stand on no command line: they hold the credential."""
    if settings.flower_auth is None:
        raise ValueError("no credential")
    chosen = {
        "address": host,
        "port": port,
        "basic_auth": settings.flower_auth.get_secret_value(),
        "url_prefix": settings.flower_url_prefix,
        "max_tasks": MAX_TASKS,
        "tasks_columns": COLUMNS,
        "natural_time": False,
        "read_only": True,  # else a page for looking on could dial, and shut workers down
    }
    if settings.flower_db:
        chosen |= {"persistent": True, "db": settings.flower_db, "state_save_interval": SAVE_EVERY}
    return [f"--{name}={value}" for name, value in chosen.items() if value != ""]


def path_of(handler: object) -> str:
    """Return the path of one of Flower's entries, which are tuples or URL specifications."""
    if isinstance(handler, tuple):
        return str(handler[0])
    return str(getattr(handler, "_path", "") or getattr(handler, "regex", ""))

"""Serve Flower, read-only and behind a credential (S40): `callwatch flower`."""

import importlib.util
import logging
import socket
import threading

from cli.connect import read_settings
from cli.ui.output import WRONG_USAGE, Failure
from config.listening import not_usable
from config.settings import Settings

MAX_TASKS = 20_000  # the least recently changed are dropped; a kilobyte each, and a save takes a second
SAVE_EVERY = 60_000  # milliseconds between two saves to the file of CALLWATCH_FLOWER_DB
COLUMNS = "name,uuid,state,kwargs,result,received,worker"  # the uuid of a call is its job id
A_CENTURY = 100 * 365 * 86_400  # seconds; as visibility time-out: only workers redeliver messages, never Flower
OPEN_PAGES = (r"/metrics",)  # Flower serves these pages without a credential


def flower(host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM; Failure if no credential is set or the port cannot be used."""
    if importlib.util.find_spec("flower") is None:
        raise Failure("flower is not installed: pip install 'callwatch[ops]'")
    settings = read_settings()
    if settings.flower_auth is None:
        raise Failure(
            "CALLWATCH_FLOWER_AUTH or CALLWATCH_FLOWER_AUTH_FILE: missing, should give the required user:password",
            exit_code=WRONG_USAGE,
        )
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:  # Flower would print a traceback
        raise Failure(not_usable(host, port, error)) from None
    from flower import urls  # noqa: PLC0415 - takes a second

    from worker.app import app  # noqa: PLC0415
    from worker.runtime.redis_check import report_tls_faults  # noqa: PLC0415

    urls.handlers[:] = [handler for handler in urls.handlers if path_of(handler) not in OPEN_PAGES]
    app.conf.broker_transport_options["visibility_timeout"] = A_CENTURY
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    threading.Thread(target=report_tls_faults, args=(settings,), name="tls", daemon=True).start()  # takes seconds
    app.start(["flower", *options(settings, host, port)])


def options(settings: Settings, host: str, port: int) -> list[str]:
    """Return the options of Flower. They contain the credential, so no command line may show them."""
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
        "read_only": True,  # else its pages could dial and shut workers down
    }
    if settings.flower_db:
        chosen |= {"persistent": True, "db": settings.flower_db, "state_save_interval": SAVE_EVERY}
    return [f"--{name}={value}" for name, value in chosen.items() if value != ""]


def path_of(handler: object) -> str:
    """Return the path of one of Flower's handlers, a tuple or a URL specification."""
    if isinstance(handler, tuple):
        return str(handler[0])
    return str(getattr(handler, "_path", "") or getattr(handler, "regex", ""))

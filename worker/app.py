"""The Celery application: create it, and start no worker that could place a call twice."""

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

import kombu
from celery import Celery, signals

from api_client import GateBrokenError, check_gate
from config.log import configure_logging
from config.printable import printable
from config.settings import Settings, SettingsError, load_settings
from worker.runtime import transport
from worker.runtime.celery_config import TASKS, celery_config
from worker.runtime.consumer import disable_commands
from worker.runtime.plain_output import suppress_plain_lines
from worker.runtime.redis_check import report_tls_faults

CELERY_VARIABLES = {
    *("BROKER_URL", "CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"),
    *("RESULT_BACKEND", "CELERY_RESULT_BACKEND", "CELERY_CONFIG_MODULE", "CELERY_LOADER"),
}


def create_app(settings: Settings) -> Celery:
    """Return the application.

    The environment variables in `CELERY_VARIABLES` are removed, because Celery would let them override its
    configuration. A worker whose broker is not the Redis of the locks could place a call twice.
    """
    transport.install()
    for name in CELERY_VARIABLES & os.environ.keys():
        logging.getLogger(__name__).warning(
            "%s is ignored: callwatch takes its addresses from its own settings only", name
        )
        del os.environ[name]
    application = Celery(
        "callwatch", include=["worker.tasks", "worker.bootsteps"], events=f"{transport.__name__}:Events"
    )
    application.conf.update(celery_config(settings))
    return application


def _load() -> Settings:
    try:
        return load_settings()
    except SettingsError as error:  # one line instead of the traceback that Celery's command line would print
        sys.exit(str(error))


_settings = _load()
app = create_app(_settings)
every_poll_is_shown = _settings.poll_events == "all"


@signals.setup_logging.connect
def _configure_logging(**_: object) -> None:
    configure_logging(_settings.log_level, _settings.log_format)
    if not logging.getLogger().isEnabledFor(logging.DEBUG):
        for name in ("celery.worker.strategy", "celery.app.trace"):  # two lines for each poll, without the call's ids
            logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("celery.pool").setLevel(
        max(logging.INFO, logging.getLogger().level)
    )  # at DEBUG this logger quotes message bodies (S37)


@signals.celeryd_init.connect
def _suppress_plain_lines(instance: Any = None, **_: object) -> None:
    suppress_plain_lines(instance)


@signals.celeryd_init.connect
def _disable_commands(**_: object) -> None:
    disable_commands()


@signals.celeryd_init.connect
def _check_kombu(**_: object) -> None:
    if not kombu.__version__.startswith(f"{transport.MADE_FOR_KOMBU}."):
        logging.getLogger(__name__).warning(
            "kombu %s is installed, but worker/runtime/transport.py corrects the Redis transport of %s: a worker may"
            " stop when it loses its connection",
            kombu.__version__,
            transport.MADE_FOR_KOMBU,
        )


@signals.celeryd_init.connect
def _require_known_queues(options: Mapping[str, Any] | None = None, **_: object) -> None:
    for name in (options or {}).get("queues") or ():
        if name not in TASKS:  # Celery would end in a traceback
            sys.exit(f"-Q {printable(name)}: is no queue, should be of {', '.join(TASKS)}")


@signals.celeryd_init.connect
def _require_upstream(**_: object) -> None:
    if _settings.api_base_url is None:
        sys.exit("CALLWATCH_API_BASE_URL: missing, should be the upstream's address, like http://127.0.0.1:9015")


@signals.celeryd_init.connect
def _require_gate(**_: object) -> None:
    """Refuse to start if a call request could leave before `sending` is written (S18)."""
    try:
        check_gate()
    except GateBrokenError as error:
        sys.exit(f"{error}: the worker does not start; install the versions that requirements.lock names")


@signals.celeryd_init.connect
def _report_tls_faults(**_: object) -> None:
    report_tls_faults(_settings)

"""Keep the output of a worker to log records: no banner, no plain lines among JSON lines."""

import logging
import os
import warnings
from typing import Any

from celery.apps import worker as celery_worker
from celery.exceptions import SecurityWarning

log = logging.getLogger(__name__)

ROOT = "the worker runs as root, should run as a user of its own"


def suppress_plain_lines(worker: Any) -> None:
    """Suppress the lines that Celery prints at the start and the stop of a worker.

    The warning about root, with its eight lines, becomes one record.
    """
    worker.quiet = True  # no banner
    celery_worker.safe_say = _say_nothing  # prints `worker: Warm shutdown` in a signal handler
    warnings.filterwarnings("ignore", category=SecurityWarning)
    if os.geteuid() == 0:
        log.warning(ROOT)


def _say_nothing(*_: object) -> None:
    """Print nothing: a signal handler must not log either. The sweep's step logs the stop."""

"""Run a worker with a wall clock that is SKEW seconds off: `celery -A tests.faults.skewed worker`."""

import os
from datetime import UTC, datetime, timedelta

import time_machine

time_machine.travel(datetime.now(UTC) + timedelta(seconds=float(os.environ["SKEW"])), tick=True).start()

from worker.app import app  # noqa: E402 - under the wrong clock from the first line on

__all__ = ["app"]

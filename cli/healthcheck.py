"""Check the heartbeat of this machine's worker: `callwatch healthcheck`. Imports little: it runs every few seconds."""

import os
import time
from pathlib import Path

from cli.ui.output import DONE, FAILED, complain, printable, say
from config.env_file import read_env_file
from config.settings_error import SettingsError

VARIABLE = "CALLWATCH_HEALTH_FILE"
LONGEST = 32  # characters to read from the file


def healthcheck(file: Path | None) -> int:
    """Print one line about the worker with health file `file` (None: from the settings); return the exit code."""
    try:
        path = file or _configured()
    except SettingsError as error:
        complain(str(error))
        return FAILED
    if path is None:
        complain(f"{VARIABLE}: empty, should be the health file of the worker, or give --file")
        return FAILED
    healthy, line = judge(path, now=time.time())
    say(line) if healthy else complain(line)
    return DONE if healthy else FAILED


def judge(file: Path, *, now: float) -> tuple[bool, str]:
    """Return whether the heartbeat in a file is recent at `now` (epoch seconds), and a line about it."""
    try:
        number = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(number, encoding="utf-8") as heartbeat:  # noqa: PTH123 - opened above
            age = now - os.fstat(number).st_mtime
            valid_for = float(heartbeat.read(LONGEST))
    except FileNotFoundError:
        why = "the worker has not started yet, or has stopped"
        return False, f"unhealthy: no heartbeat in {printable(str(file))}: {why}"
    except (OSError, ValueError) as error:
        return False, f"unhealthy: {printable(str(file))} cannot be read: {type(error).__name__}"
    if age > valid_for:
        return False, f"unhealthy: the last heartbeat is {age:.1f} s old, the limit is {valid_for:g} s"
    if age < -valid_for:
        return False, f"unhealthy: the last heartbeat is {-age:.1f} s ahead of the clock"
    return True, f"healthy: the last heartbeat is {max(0.0, age):.1f} s old, the limit is {valid_for:g} s"


def _configured() -> Path | None:
    """Return the path of the setting. Does not load the other settings: their checks take a second."""
    given = {name.upper(): value for name, value in {**read_env_file(), **os.environ}.items()}
    value = given.get(VARIABLE)
    return Path(value) if value else None

"""`callwatch healthcheck`: whether this machine's worker did work lately. Imports little: it is run all the time."""

import os
import time
from pathlib import Path

from dotenv import dotenv_values

from cli.ui.output import DONE, FAILED, complain, printable, say

VARIABLE = "CALLWATCH_HEALTH_FILE"
LONGEST = 32  # characters of the file that are read


def healthcheck(file: Path | None) -> int:
    """Say in one line how the worker that writes `file` (None: the one of the settings) does; return the exit code."""
    place = file or _configured()
    if place is None:
        complain(f"{VARIABLE}: empty, should be a file that the worker writes, or give --file")
        return FAILED
    healthy, line = judge(place, now=time.time())
    say(line) if healthy else complain(line)
    return DONE if healthy else FAILED


def judge(file: Path, *, now: float) -> tuple[bool, str]:
    """Return whether the sign in a file still holds at `now` (epoch seconds), and that as a line."""
    try:
        number = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(number, encoding="utf-8") as sign:  # noqa: PTH123 - it is open already
            age = now - os.fstat(number).st_mtime
            holds = float(sign.read(LONGEST))
    except FileNotFoundError:
        return False, f"unhealthy: no sign of work in {printable(str(file))}: none has worked yet, or it has left"
    except (OSError, ValueError) as error:
        return False, f"unhealthy: {printable(str(file))} cannot be read: {type(error).__name__}"
    if age > holds:
        return False, f"unhealthy: the last sign of work is {age:.1f} s old, at most {holds:g} s are well"
    if age < -holds:
        return False, f"unhealthy: the last sign of work is {-age:.1f} s ahead of the clock"
    return True, f"healthy: the last sign of work is {max(0.0, age):.1f} s old, at most {holds:g} s are well"


def _configured() -> Path | None:
    """Read the one setting without the others, whose checks take a second."""
    given = {name.upper(): value for name, value in (dotenv_values(".env") | dict(os.environ)).items()}
    value = given.get(VARIABLE)
    return Path(value) if value else None

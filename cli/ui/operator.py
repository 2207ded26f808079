"""Who decides: the name that is kept with what a person did."""

import getpass
from datetime import datetime

from cli.ui.output import WRONG_USAGE, Failure, printable
from config.redaction import redact
from worker.core.model import Pause


def operator_name(by: str | None) -> str:
    """Return the name given, else the login name, without phone numbers; Failure, wrong usage, where there is none."""
    who = _login() if by is None else by.strip()
    if not who:
        raise Failure("--by: empty, should say who decides", exit_code=WRONG_USAGE)
    return redact(who)


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise Failure("--by: this machine knows no login name, should say who decides", exit_code=WRONG_USAGE) from None


def stopped_by(stop: Pause) -> str:
    """Return who stopped new calls, when and why, as it goes on a sentence; phone numbers redacted (S37)."""
    by = f" by {printable(redact(stop.by))}" if stop.by else ""
    at = f" at {datetime.fromtimestamp(stop.at).astimezone():%Y-%m-%d %H:%M:%S}" if stop.at is not None else ""
    why = f": {printable(redact(stop.why))}" if stop.why else ""
    return by + at + why

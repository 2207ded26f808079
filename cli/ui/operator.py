"""The name of the operator that is stored with a decision."""

import getpass

from cli.ui.formatting import moment
from cli.ui.output import WRONG_USAGE, Failure, printable
from config.redaction import redact
from worker.core.model import Pause


def operator_name(by: str | None) -> str:
    """Return the given name, else the login name, without phone numbers; Failure (wrong usage) if there is none."""
    who = _login() if by is None else by.strip()
    if not who:
        raise Failure("--by: empty, should be the name of the person who decides", exit_code=WRONG_USAGE)
    return redact(who)


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise Failure(
            "--by: there is no login name, should be the name of the person who decides", exit_code=WRONG_USAGE
        ) from None


def stopped_by(stop: Pause) -> str:
    """Return the end of a sentence: by whom, when and why new calls were stopped; without phone numbers (S37)."""
    by = f" by {printable(redact(stop.by))}" if stop.by else ""
    at = f" at {moment(stop.at)}" if stop.at is not None else ""
    why = f": {printable(redact(stop.why))}" if stop.why else ""
    return by + at + why

"""Read secrets from files: `CALLWATCH_API_TOKEN_FILE` names a file that contains the API token."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FILE = "_FILE"

_read_from: dict[str, Path] = {}  # the file of each secret that this process has read, by the secret


def read_files(given: Mapping[str, str], names: Iterable[str], *, prefix: str) -> tuple[dict[str, Any], list[str]]:
    """Return the secrets read from files, and one line for each fault; no line quotes the content of a file.

    `given` holds the variables that are set, `names` the settings that may be in a file, in lower case.
    """
    secrets: dict[str, Any] = {}
    faults = []
    for name in names:
        variable = prefix + name.upper()
        if not (path := given.get(variable + FILE)):
            continue
        if given.get(variable):
            faults.append(f"{variable}: is given, and so is {variable}{FILE}, should be one of the two")
            continue
        try:
            secret = Path(path).read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "no UTF-8 text"
            faults.append(f"{variable}{FILE}: {path} cannot be read ({why}), should be a file with the secret alone")
            continue
        if secret:
            secrets[name] = secret
            _read_from[secret] = Path(path).absolute()
        else:
            faults.append(f"{variable}{FILE}: {path} is empty, should hold the secret alone")
    return secrets, faults


def read_again(secret: str) -> str | None:
    """Return the present content of the file of a secret; None if it came from no file, or the file cannot be read."""
    try:
        return _read_from[secret].read_text(encoding="utf-8-sig").strip()
    except (KeyError, OSError, UnicodeDecodeError):
        return None


def place_of(secret: str, variable: str) -> str:
    """Return where a secret stands, for a message: its variable, or the file that the variable with `_FILE` names."""
    return f"the file of {variable}{FILE}" if secret in _read_from else variable

"""Secrets from files: `CALLWATCH_API_TOKEN_FILE` names a file that holds what `CALLWATCH_API_TOKEN` would."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FILE = "_FILE"


def read_files(given: Mapping[str, str], names: Iterable[str], *, prefix: str) -> tuple[dict[str, Any], list[str]]:
    """Return the secrets that stand in files, and the faults of those files: a line each, never what they hold.

    `given` are the variables that are set, `names` the settings that may be in a file, in lower case.
    """
    secrets: dict[str, Any] = {}
    faults = []
    for name in names:
        variable = prefix + name.upper()
        if not (place := given.get(variable + FILE)):
            continue
        if given.get(variable):
            faults.append(f"{variable}: is given, and so is {variable}{FILE}, should be one of the two")
            continue
        try:
            secret = Path(place).read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "no UTF-8 text"
            faults.append(f"{variable}{FILE}: {place} cannot be read ({why}), should be a file with the secret alone")
            continue
        if secret:
            secrets[name] = secret
        else:
            faults.append(f"{variable}{FILE}: {place} is empty, should hold the secret alone")
    return secrets, faults

"""`callwatch serve` and `callwatch keys new`: the HTTP gateway, and the keys that it knows back ends by."""

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cli.connect import read_settings
from cli.ui.output import FAILED, WRONG_USAGE, Failure, say
from cli.up import programs
from config.api_keys import KeysError, append_key, new_key


def serve(host: str, port: int) -> NoReturn:
    """Become the gateway; Failure where it is not installed, or the settings cannot be used."""
    if importlib.util.find_spec("fastapi") is None:
        raise Failure("fastapi is not installed: pip install 'callwatch[gateway]'")
    read_settings()
    sys.stdout.flush()
    command = (sys.executable, "-m", *programs.GATEWAY, "--host", host, "--port", str(port))
    os.execv(sys.executable, command)  # noqa: S606 - our own program, in the place of this one


def make_key(name: str, scopes: Sequence[str]) -> int:
    """Make an API key, keep its SHA-256 in the file, and print the key, once; returns the exit code."""
    place = read_settings().gateway_keys_file
    if not place:
        raise Failure(
            "CALLWATCH_GATEWAY_KEYS_FILE: missing, should name the file that the gateway reads", exit_code=WRONG_USAGE
        )
    try:
        key, kept = new_key(name, scopes)
    except KeysError as error:
        raise Failure(str(error), exit_code=WRONG_USAGE) from None
    try:
        append_key(Path(place).expanduser(), kept)
    except KeysError as error:
        raise Failure(str(error), exit_code=FAILED) from None
    say(key)
    return 0

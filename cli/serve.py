"""Start the HTTP gateway and make its API keys: `callwatch serve` and `callwatch keys new`."""

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
    """Replace this process by the gateway; Failure if it is not installed or the settings are invalid."""
    if importlib.util.find_spec("fastapi") is None:
        raise Failure("fastapi is not installed: pip install 'callwatch[gateway]'")
    read_settings()
    sys.stdout.flush()
    command = (sys.executable, "-m", *programs.GATEWAY, "--host", host, "--port", str(port))
    os.execv(sys.executable, command)  # noqa: S606 - the gateway replaces this process


def make_key(name: str, scopes: Sequence[str]) -> int:
    """Make an API key, append its SHA-256 to the file, and print the key once; return the exit code."""
    path = read_settings().gateway_keys_file
    if not path:
        raise Failure(
            "CALLWATCH_GATEWAY_KEYS_FILE: missing, should name the file that the gateway reads", exit_code=WRONG_USAGE
        )
    try:
        key, kept = new_key(name, scopes)
    except KeysError as error:
        raise Failure(str(error), exit_code=WRONG_USAGE) from None
    try:
        append_key(Path(path).expanduser(), kept)
    except KeysError as error:
        raise Failure(str(error), exit_code=FAILED) from None
    say(key)
    return 0

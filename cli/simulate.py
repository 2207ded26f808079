"""Run the simulated upstream in this process: `callwatch simulate`."""

import os
from pathlib import Path

from cli.ui.output import Failure, say
from config.listening import not_usable
from simulator.main import run

TOKEN_VARIABLE = "SIMULATOR_TOKEN"  # noqa: S105 - the name of a variable


def simulate(
    host: str, port: int, *, log: Path | None, token_file: Path | None, speed: float, dial_delay: float
) -> None:
    """Serve until SIGINT or SIGTERM; Failure if the port or a file cannot be used."""
    address = f"[{host}]" if ":" in host else host
    try:
        run(
            host,
            port,
            token=_token(token_file),
            log_path=log,
            speed=speed,
            dial_delay=dial_delay,
            ready=lambda port: say(f"simulated upstream: http://{address}:{port}"),
        )
    except OSError as error:
        if error.filename:
            raise Failure(f"--log: {error.filename} cannot be written: {error.strerror}") from None
        raise Failure(not_usable(host, port, error)) from None


def _token(file: Path | None) -> str | None:
    """Return the bearer token that requests must carry; None for no token."""
    if file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        token = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"--token-file: {file} cannot be read: {error}") from None
    if not token:
        raise Failure(f"--token-file: {file} is empty, should hold the token")
    return token

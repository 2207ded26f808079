"""Run the simulated upstream as a program, with one line on stdout once it answers: `python -m simulator`."""

import argparse
import os
import sys
from pathlib import Path

from simulator.main import run


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1_000_000:  # noqa: PLR2004 - a higher speed has no use
        raise ValueError
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 86_400:  # noqa: PLR2004 - a day
        raise ValueError
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulator", description="Simulated outbound-bot upstream. No phone rings."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=0, help="TCP port to listen on; 0, the default, picks a free one")
    parser.add_argument("--log", type=Path, metavar="FILE", help="append one JSON line per request to this file")
    parser.add_argument("--token-env", metavar="NAME", help="environment variable with the required bearer token")
    parser.add_argument("--speed", type=_positive, default=1.0, help="factor by which simulated calls run faster")
    parser.add_argument("--dial-delay", type=_seconds, default=0.0, help="seconds between two records of one call-v2")
    return parser


def main() -> int:
    """Return the exit status: 0 stopped, 1 could not start; wrong usage exits with 2."""
    parser = _parser()
    arguments = parser.parse_args()
    token = os.environ.get(arguments.token_env) if arguments.token_env else None
    if arguments.token_env and not token:
        parser.error(f"--token-env: the environment variable {arguments.token_env} is not set or empty")

    def ready(port: int) -> None:
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        sys.stdout.write(f"simulated upstream: http://{host}:{port}\n")
        sys.stdout.flush()

    try:
        run(
            arguments.host,
            arguments.port,
            token=token,
            log_path=arguments.log,
            speed=arguments.speed,
            dial_delay=arguments.dial_delay,
            ready=ready,
        )
    except (OSError, OverflowError) as error:
        sys.stderr.write(f"the simulated upstream cannot start: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

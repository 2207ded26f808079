"""`python -m gateway --host H --port P`: what `callwatch serve` starts."""

import argparse
import ipaddress
import os
import sys

from config.api_keys import KeysError
from config.settings import SettingsError, load_settings

FAILED, WRONG_USAGE = 1, 2
ALLOCATOR = "PYTHONMALLOC"


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address to listen on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal comes; return the exit code: 0 done, 1 failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="callwatch serve")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    given = parser.parse_args(arguments)
    alone = is_loopback(given.host)
    try:
        settings = load_settings()
        from gateway.process import build_gateway, run  # noqa: PLC0415 - reads the settings when imported

        gateway = build_gateway(settings, given.host, alone=alone)
    except (SettingsError, KeysError) as error:
        return _complain(str(error), WRONG_USAGE)
    if not alone and not len(gateway.keys):
        return _complain(
            f"--host {given.host}: reachable from elsewhere, CALLWATCH_GATEWAY_KEYS_FILE should name a file with API"
            " keys, made by: callwatch keys new NAME --scope trigger",
            WRONG_USAGE,
        )
    try:
        run(settings, gateway, given.host, given.port)
    except OSError as error:
        return _complain(f"port {given.port} on {given.host} cannot be used: {error.strerror or error}", FAILED)
    return 0


def use_allocator_of_c() -> None:
    """Start this program anew under the C library's allocator, unless its variable is set already.

    Python's own gives memory back by the mebibyte, and something is always left in each: of the memory of streams that
    have ended it kept nine tenths. It costs a twentieth of the CPU time of a trigger.
    """
    if ALLOCATOR not in os.environ:
        os.environ[ALLOCATOR] = "malloc"
        os.execv(sys.executable, (sys.executable, "-m", "gateway", *sys.argv[1:]))  # noqa: S606 - this very program


def _complain(text: str, code: int) -> int:
    sys.stderr.write(text + "\n")
    return code


if __name__ == "__main__":
    use_allocator_of_c()
    raise SystemExit(main())

"""Entry point of the gateway: `python -m gateway --host H --port P`, started by `callwatch serve`."""

import argparse
import os
import sys

FAILED, WRONG_USAGE = 1, 2
ALLOCATOR = "PYTHONMALLOC"


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal arrives; return the exit code: 0 success, 1 failure, 2 wrong usage."""
    # Not imported above: `use_allocator_of_c` starts the program again, and both processes would import them.
    from config.api_keys import KeysError  # noqa: PLC0415
    from config.listening import is_loopback, not_usable  # noqa: PLC0415
    from config.settings import SettingsError, load_settings  # noqa: PLC0415

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
        return _complain(not_usable(given.host, given.port, error), FAILED)
    return 0


def use_allocator_of_c() -> None:
    """Restart this program with the C library's allocator, unless PYTHONMALLOC is already set.

    Python's allocator returns memory in arenas of 1 MiB, and live objects keep nearly every arena in use: after streams
    had closed, the process kept 90 % of their memory. The C allocator costs 5 % of the CPU time of a trigger.
    """
    if ALLOCATOR not in os.environ:
        os.environ[ALLOCATOR] = "malloc"
        os.execv(sys.executable, (sys.executable, "-m", "gateway", *sys.argv[1:]))  # noqa: S606 - the same program


def _complain(text: str, code: int) -> int:
    sys.stderr.writelines(f"callwatch: {line}\n" for line in text.splitlines())
    return code


if __name__ == "__main__":
    use_allocator_of_c()
    raise SystemExit(main())

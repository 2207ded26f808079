"""Write the output of commands: text or one JSON document to stdout, one line per failure to stderr."""

import io
import sys
from typing import Any

from config.printable import json_text, printable, printable_lines

__all__ = [
    "DONE",
    "FAILED",
    "WRONG_USAGE",
    "Failure",
    "complain",
    "no_record",
    "printable",
    "say",
    "say_json",
    "speak_utf8",
    "usage",
]

DONE, FAILED, WRONG_USAGE = 0, 1, 2
PREFIX = "callwatch: "  # of every line on stderr


class Failure(Exception):  # noqa: N818 - the command has failed; the program has no error
    """An expected failure: `str()` is the line for stderr, `exit_code` is 1 failed or 2 wrong usage."""

    def __init__(self, text: str, *, exit_code: int = FAILED) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def speak_utf8() -> None:
    """Set both streams to UTF-8, so that they carry Chinese in every locale."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def say(text: str) -> None:
    """Write a text to stdout; characters that are not printable are replaced."""
    _write(printable_lines(text))


def say_json(document: Any) -> None:
    """Write one JSON document to stdout."""
    _write(json_text(document, indent=2))


def ask(question: str, given: str, *, as_json: bool) -> str:
    """Return the given text, else the answer typed on the terminal; empty with --json or without a terminal."""
    if given.strip() or as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return given.strip()
    return input(question).strip()


def complain(text: str) -> None:
    """Write a text to stderr, each line with the prefix of the program; unprintable characters are replaced."""
    usage("\n".join(PREFIX + line for line in text.splitlines()))


def no_record(name: str) -> int:
    """Report that nothing of this name, like `case C-1`, is on record; return the exit code."""
    complain(f"no record of {printable(name)}; finished calls are kept for CALLWATCH_HISTORY_TTL")
    return FAILED


def usage(text: str) -> None:
    """Write the help of a command to stderr; unprintable characters are replaced."""
    sys.stderr.write(printable_lines(text) + "\n")
    sys.stderr.flush()


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()

"""How the command line speaks: one line or one JSON document on stdout, one line on stderr for each failure."""

import io
import json
import sys
from typing import Any

DONE, FAILED, WRONG_USAGE = 0, 1, 2


class Failure(Exception):  # noqa: N818 - named for what it is
    """An expected fault: the text is what stderr gets, `exit_code` 1 failed or 2 wrong usage."""

    def __init__(self, text: str, *, exit_code: int = FAILED) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def speak_utf8() -> None:
    """Let both streams carry Chinese whatever the locale says."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def say(text: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say_json(document: Any) -> None:
    """Write one JSON document to stdout."""
    say(json.dumps(document, ensure_ascii=False, indent=2))


def complain(text: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def printable(text: str) -> str:
    """Return a text from outside as it may stand in a line: nothing in it moves the cursor or begins a new line."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)

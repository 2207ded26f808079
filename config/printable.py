"""Make foreign texts safe to print: no character moves the cursor, reorders a line or starts a new one. Pure."""

import json
import re
from collections.abc import Mapping

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Characters that JSON does not escape and that a terminal or a viewer obeys: DEL and C1, marks of direction and of
# width, line and paragraph separators, tags; and lone surrogates, which no stream can encode.
_CONTROLS = re.compile(
    "[\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_encoders = {indent: json.JSONEncoder(ensure_ascii=False, indent=indent) for indent in (None, 2)}


def printable(text: str) -> str:
    """Return a text for one line: each character that is not printable is replaced."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _REPLACEMENT for character in text)


def printable_lines(text: str, *, indent: str = "") -> str:
    """Return a text of several lines, each printable and indented by `indent`."""
    return "\n".join(indent + printable(line) for line in text.split("\n"))


def printable_value(value: object) -> object:
    """Return a value in which each text is printable."""
    match value:
        case str():
            return printable(value)
        case Mapping():
            return {printable(str(key)): printable_value(one) for key, one in value.items()}
        case list():
            return [printable_value(one) for one in value]
        case _:
            return value


def json_text(document: object, *, indent: int | None = None) -> str:
    """Return a document as JSON with readable texts and escaped control and format characters."""
    return _CONTROLS.sub(lambda found: json.dumps(found[0])[1:-1], _encoders[indent].encode(document))

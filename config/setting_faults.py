"""Error messages about the settings: one line per fault, with the variable and the right form, without a secret."""

import difflib
import math
from collections.abc import Iterable

from pydantic_core import ErrorDetails

from config.redaction import redact
from config.setting_types import PREFIX

_LONGEST_QUOTE = 60  # characters of a wrong value that a message quotes


def unknown_variable(name: str, known: Iterable[str]) -> str:
    """Return the line about a variable that is not in `known`, with the most similar one."""
    words = [one.removeprefix(PREFIX) for one in sorted(known)]  # the prefix alone would make any two names similar
    nearest = difflib.get_close_matches(name.removeprefix(PREFIX), words, n=1, cutoff=0.7)
    return f"{name}: is no setting, " + (f"did you mean {PREFIX}{nearest[0]}?" if nearest else "should be taken away")


def wrong_value(details: ErrorDetails, should_be: str | None) -> str:
    """Return the line about a value that pydantic refused; `should_be` is the right form of a value of its type."""
    variable = f"{PREFIX}{str(details['loc'][0]).upper()}"
    text = str(details["input"]).strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":  # as `docker run --env-file` passes them
        return f"{variable}: stands in quotation marks, should stand without them"
    if details["type"] == "value_error":  # raised by a check of config.setting_types, which quotes no secret
        return f"{variable}: {details['ctx']['error']}"
    quoted = redact(repr(text))
    if len(quoted) > _LONGEST_QUOTE:
        quoted = quoted[:_LONGEST_QUOTE] + "…'"
    return f"{variable}: {quoted} is {_kind(text)}, should be {should_be}"


def _kind(text: str) -> str:
    if not text:
        return "empty"
    try:
        number = float(text)
    except ValueError:
        return "a text"
    if math.isnan(number) or math.isinf(number):
        return "no finite number"
    if number <= 0:
        return "not positive"
    return "a whole number" if number.is_integer() else "a fraction"

"""Read `.env`, the file of settings in the current folder. A line that cannot be read is a fault, never a default."""

import io
import re
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import Binding, parse_stream

from config.settings_error import SettingsError

NAME, ENCODING = ".env", "utf-8-sig"  # editors may put a byte order mark first
_SETTING = re.compile(r"^\s*(?:export\s+)?CALLWATCH_", re.IGNORECASE | re.MULTILINE)
_LINE_BREAK = re.compile(r"\r\n|\r|\n")


def read_env_file() -> Mapping[str, str | None]:
    """Return the variables of `.env`; none without such a file. Raises SettingsError.

    python-dotenv passes over a line that it cannot read, and a process would go on with the default of that setting.
    """
    path = Path(NAME)
    if not (path.is_file() or path.is_fifo()):  # some password managers provide it as a named pipe
        return {}
    try:
        text = path.read_text(encoding=ENCODING)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{NAME}: cannot be read ({type(error).__name__}), should be UTF-8 text"]) from None
    if faults := [fault for binding in parse_stream(io.StringIO(text)) if (fault := _fault(binding))]:
        raise SettingsError(faults)
    return dotenv_values(stream=io.StringIO(text))


def _fault(binding: Binding) -> str | None:
    """Return the line about a statement that is broken; None for a sound one."""
    statement = binding.original.string.lstrip()
    blank = binding.original.string.removesuffix(statement)
    line = binding.original.line + len(_LINE_BREAK.findall(blank))
    value = statement.partition("=")[2]
    should_be = "should be NAME=value, the value with a quote at both ends or at none"
    if binding.error:
        quoted = value.lstrip().startswith(("'", '"'))
        kind = "a quote at one end of its value, or text after the quote" if quoted else "no NAME=value"
        return f"{NAME}, line {line}: {kind}, {should_be}"
    if binding.key is not None and binding.value is None:
        return f"{NAME}, line {line}: a name without =, {should_be}"
    if _swallows_a_setting(statement):
        return f"{NAME}, line {line}: an open quote, its value goes on in the lines below, {should_be}"
    return None


def _swallows_a_setting(statement: str) -> bool:
    """Return whether a value of several lines is a setting's own, or hides the line of a setting."""
    several = _LINE_BREAK.search(statement.rstrip())
    return several is not None and _SETTING.search(statement) is not None

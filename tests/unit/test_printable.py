"""No foreign text moves a cursor, reorders a line or starts a new one, in logs and on terminals."""

import io
import json
import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.ui.output import complain, say, say_json
from config.log import LogFormat, configure_logging
from config.printable import json_text, printable
from worker.core.messages import BadTrigger, plain_id, read_trigger

HOSTILE = {
    "an escape sequence": "\x1b[2J\x1b]0;x\x07",
    "a C1 control": "\x9b2J",
    "a bidirectional override": "\u202egnp.exe",
    "a bidirectional isolate": "\u2066x\u2069",
    "a line break": "\n{'level': 'info'}",
    "a carriage return": "\rforged",
    "a line separator": "\u2028x\u2029",
    "a next line": "\x85x",
    "a zero width space": "\u200bx",
    "a tag": "\U000e0041",
    "a delete": "\x7f",
}
hostile = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
CONTROLS = ("Cc", "Cf", "Zl", "Zp", "Cs")

pytestmark = pytest.mark.usefixtures("restored_logging")
log = logging.getLogger("worker.flows.trigger")


def harmless(text: str) -> bool:
    """Return whether a text has no control or format characters except line breaks."""
    return not any(unicodedata.category(one) in CONTROLS for one in text.replace("\n", ""))


def fail(text: str) -> None:
    raise ValueError(text)


@hostile
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_log_record_with_control_characters_is_one_line(text: str, log_format: LogFormat) -> None:
    stream = io.StringIO()
    configure_logging(log_format=log_format, stream=stream)
    log.warning("status %s", text, extra={"case_id": text, "why": {text: [text, 3]}})
    written = stream.getvalue()
    assert written.count("\n") == 1
    assert written.endswith("\n")
    assert harmless(written)


@hostile
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_lines_of_a_trace_are_indented(text: str, log_format: LogFormat) -> None:
    stream = io.StringIO()
    configure_logging(log_format=log_format, stream=stream)
    try:
        fail(text)
    except ValueError:
        log.exception("failed")
    lines = stream.getvalue().splitlines()
    assert harmless(stream.getvalue())
    assert all(line.startswith("    ") for line in lines[1:])
    assert "ValueError" in stream.getvalue()


@hostile
def test_command_prints_no_control_characters(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(f"case {text}")
    complain(f"case {text}")
    say_json({"case": text, text: 1})
    out, err = capsys.readouterr()
    assert harmless(out + err)
    assert json.loads(out[out.index("{\n") :]) == {"case": text, text: 1}


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_is_escaped_without_a_change_of_meaning(document: object) -> None:
    """Logs and commands both use it."""
    written = json_text(document)
    assert harmless(written)
    assert json.loads(written) == document
    assert "外呼" in json_text({"event": "发起外呼"})


@given(st.text())
def test_printable_text_is_unchanged(text: str) -> None:
    assert len(printable(text)) == len(text)
    assert printable(printable(text)) == printable(text)


@hostile
@pytest.mark.parametrize("name", ["case_id", "mediation_id", "call_person_id"])
def test_s38_an_id_has_no_control_character(name: str, text: str) -> None:
    kwargs = {"case_id": "C-1", "mediation_id": "20", "call_person_id": "", name: f"x{text}x"}
    with pytest.raises(BadTrigger, match=r"should be a text of (1 to|at most) 200 characters, all printable"):
        read_trigger(kwargs)
    assert plain_id(kwargs[name]) == ""

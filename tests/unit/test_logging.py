"""Every record of every logger becomes one redacted, readable line, with any content and in any locale."""

import io
import json
import logging
import os
import subprocess
import sys
import warnings
from datetime import datetime
from typing import Any

import pytest

from config.log import LogFormat, LogLevel, configure_logging
from tests.fakes import PHONE

JOB_ID = "1770463000471-447e-96ea-97523c61189b"

pytestmark = pytest.mark.usefixtures("restored_logging")
log = logging.getLogger("worker.flows.poll")


class Sink(io.StringIO):
    """A stream that can be a terminal."""

    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def sink() -> Sink:
    sink = Sink()
    configure_logging(stream=sink)
    return sink


def only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the handlers of pytest, which raise exceptions that logging suppresses."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [one for one in root.handlers if type(one).__module__ == "config.log"])


def test_a_record_is_one_json_line_in_the_order_of_the_contract(sink: Sink) -> None:
    ids = {"case_id": "C-1", "mediation_id": 4711, "job_id": JOB_ID, "task_id": "t-1"}
    log.info("检测到终态,移除 jobId: %s", JOB_ID, extra={**ids, "retry_count": 3, "person_id": "P00001234"})
    assert sink.getvalue().count("\n") == 1
    assert "检测到终态" in sink.getvalue()
    (line,) = sink.lines()
    at = datetime.fromisoformat(line.pop("ts"))
    assert at.utcoffset() is not None
    assert at.microsecond % 1000 == 0
    assert line == {
        "level": "info", "event": f"检测到终态,移除 jobId: {JOB_ID}", "logger": "worker.flows.poll",
        **ids, "retry_count": 3, "person_id": "***1234",
    }  # fmt: skip
    assert list(sink.lines()[0])[:4] == ["ts", "level", "event", "logger"]


def fail() -> None:
    raise ValueError(f"GET /status?phoneNumber={PHONE}") from OSError(f"of {PHONE}")


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_s37_logs_contain_nothing_personal(log_format: LogFormat) -> None:
    sink = Sink()
    configure_logging(log_format=log_format, stream=sink)
    try:
        fail()
    except ValueError:
        log.exception("Dial of %s failed", PHONE, extra={"party": {"name": "张三", "tel": 1}, "why": [PHONE]})
    log.warning("%(who)s", {"who": PHONE}, stack_info=True)
    logging.getLogger("urllib3.connectionpool").warning("Retrying: /x?phoneNumber=%s", PHONE)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"about {PHONE}", stacklevel=1)
    text = sink.getvalue()
    assert PHONE not in text
    assert "张三" not in text
    assert all(part in text for part in ("Dial of *** failed", "ValueError: GET /status?phoneNumber=***", "about ***"))
    assert all(part in text for part in ("OSError: of ***", "Stack (most recent call last)"))


def test_s37_only_the_ids_of_the_record_are_kept(sink: Sink) -> None:
    log.info("caseId: %s, tel %s", PHONE, PHONE[:-1] + "2", extra={"case_id": PHONE, "other": PHONE})
    log.info("caseId: %s", PHONE, extra={"case": PHONE, "job_id": [PHONE]})
    first, second = sink.lines()
    assert (first["event"], first["case_id"], first["other"]) == (f"caseId: {PHONE}, tel ***", PHONE, PHONE)
    assert (second["event"], second["case"], second["job_id"]) == ("caseId: ***", "***", ["***"])


class Broken:
    def __repr__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        pytest.param({"x": {1: {PHONE}}}, {"x": {"1": ["***"]}}, id="not JSON"),
        pytest.param({"x": object}, {"x": "<class 'object'>"}, id="an object"),
        pytest.param({"x": Broken()}, {"x": "<Broken whose repr raises ZeroDivisionError>"}, id="a broken object"),
        pytest.param({"x": float("nan")}, {"x": "nan"}, id="no number"),
        pytest.param(
            {"event": "y", "level": "y", "logger": "y", "ts": "y"}, {}, id="an extra does not replace a field"
        ),
        pytest.param({"data": 1, "context": 2, "kwargs": 3, "argsrepr": 4, "_x": 5}, {}, id="extras of Celery"),
    ],
)
def test_s37_extras_are_redacted(sink: Sink, extra: dict[str, object], expected: dict[str, object]) -> None:
    log.info("x", extra=extra)
    (line,) = sink.lines()
    del line["ts"]
    assert line == {"level": "info", "event": "x", "logger": "worker.flows.poll", **expected}


@pytest.mark.parametrize(
    ("message", "arguments"),
    [pytest.param("%d", (PHONE,), id="a wrong placeholder"), pytest.param("%s", (Broken(),), id="a broken argument")],
)
def test_s37_record_that_cannot_be_formatted_is_still_logged(
    sink: Sink,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    message: str,
    arguments: tuple[object, ...],
) -> None:
    only_ours(monkeypatch)
    log.info(message, *arguments)
    (line,) = sink.lines()
    assert line["event"].startswith("log record that cannot be formatted (")
    assert (line["level"], line["logger"]) == ("info", "worker.flows.poll")
    assert PHONE not in sink.getvalue() + capsys.readouterr().err


def test_s37_closed_stream_prints_no_error(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only_ours(monkeypatch)
    sink.close()
    log.info("tel %s", PHONE)
    assert capsys.readouterr().err == ""


def test_s37_celery_records_come_through_without_arguments_and_results(sink: Sink) -> None:
    context = {
        "id": "5f2b7c1e-6a3d-4b7e-9d7e-2f3a4b5c6d7e",
        "name": "outbound.trigger",
        "kwargs": f"{{'x': '{PHONE}'}}",
    }
    logging.getLogger("celery.worker.strategy").info("Task %(name)s[%(id)s] received", context, extra={"data": context})
    context["return_value"] = "{'outcome': 'started', 'jobs': [{'job_id': '" + JOB_ID + "', 'person_id': 'P00001234'}]}"
    logging.getLogger("celery.app.trace").info(
        "Task %(name)s[%(id)s] succeeded: %(return_value)s", context, extra={"data": context}
    )
    received, succeeded = sink.lines()
    assert received["event"] == f"Task outbound.trigger[{context['id']}] received"
    assert "'person_id': '***1234'" in succeeded["event"]
    assert JOB_ID in succeeded["event"]
    assert set(received) == {"ts", "level", "event", "logger"}
    assert PHONE not in sink.getvalue()


@pytest.mark.parametrize(
    ("log_format", "terminal", "is_json", "is_coloured"),
    [
        ("auto", False, True, False),
        ("auto", True, False, True),
        ("json", True, True, False),
        ("text", False, False, False),
        ("text", True, False, True),
    ],
)
def test_a_terminal_gets_readable_text(log_format: LogFormat, terminal: bool, is_json: bool, is_coloured: bool) -> None:
    sink = Sink(terminal=terminal)
    configure_logging(log_format=log_format, stream=sink)
    log.info("轮询查询", extra={"job_id": JOB_ID})
    text = sink.getvalue()
    assert text.startswith("{") is is_json
    assert ("\x1b[" in text) is is_coloured
    assert all(part in text for part in ("轮询查询", JOB_ID, "worker.flows.poll", "info"))


def test_second_configuration_replaces_only_its_own_handler(sink: Sink) -> None:
    root = logging.getLogger()
    others = logging.NullHandler()
    root.addHandler(others)
    root.addHandler(logging.StreamHandler(sink))  # as left by basicConfig: it would write without redaction
    configure_logging(stream=sink)
    configure_logging(stream=sink)
    log.info("x")
    assert len(sink.lines()) == 1
    assert others in root.handlers


@pytest.mark.parametrize(("level", "urllib3"), [("DEBUG", "WARNING"), ("INFO", "WARNING"), ("ERROR", "ERROR")])
def test_s37_the_http_libraries_are_quiet(level: LogLevel, urllib3: str) -> None:
    configure_logging(level, stream=Sink())
    for name in ("urllib3.connectionpool", "requests"):
        assert logging.getLogger(name).getEffectiveLevel() == getattr(logging, urllib3)
    assert log.getEffectiveLevel() == getattr(logging, level)


def test_s26_suppressed_debug_record_is_never_made(sink: Sink) -> None:
    def refuse(*_arguments: object, **_fields: object) -> logging.LogRecord:
        raise AssertionError("a record was made")

    factory = logging.getLogRecordFactory()
    logging.setLogRecordFactory(refuse)
    try:
        log.debug("轮询查询 jobId: %s", Broken(), extra={"job_id": Broken()})
    finally:
        logging.setLogRecordFactory(factory)
    assert sink.getvalue() == ""


def test_ascii_stream_is_switched_to_utf_8() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    configure_logging(stream=stream)
    log.info("拨号中")
    assert "拨号中".encode() in raw.getvalue()


# In ASCII: the command line passes it through the tested locale.
PROGRAM = """
import logging
from config.log import configure_logging
configure_logging()
phone = "138" + "00001111"
logging.getLogger("worker").warning("\\u62e8\\u53f7\\u4e2d \\udc80 %s", phone, extra={"case_id": "\\u6848-1"})
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1:strict", "utf-8"])
def test_log_is_utf_8_in_every_locale(encoding: str) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("CALLWATCH_", "LC_", "LANG"))}
    environment |= {"LC_ALL": "C", "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, timeout=60, check=True)
    line = json.loads(done.stderr.decode("utf-8"))
    assert "拨号中".encode() in done.stderr
    assert (line["event"], line["case_id"]) == ("拨号中 \udc80 ***", "案-1")
    assert done.stdout == b""

"""Configure logging: each record of each logger becomes one redacted JSON line, or readable text on a terminal."""

import io
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TextIO

from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.stdlib import ProcessorFormatter

from config.printable import json_text, printable_lines, printable_value
from config.redaction import redact, redact_fields, safe_repr

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
LogFormat = Literal["auto", "json", "text"]

_KEPT_FIELDS = ("case_id", "mediation_id", "job_id", "task_id")
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
# Celery attaches whole task arguments and results to its records (S37).
_DROPPED = frozenset({"data", "context", "kwargs", "argsrepr", "kwargsrepr"})
_SEVERAL_LINES = ("exception", "stack")
_CHATTY = ("urllib3", "requests")  # their records contain whole URLs


def configure_logging(
    level: LogLevel = "INFO", log_format: LogFormat = "auto", *, stream: TextIO | None = None
) -> None:
    """Send the redacted records of all loggers to the stream (default: standard error) (S37).

    `log_format` "auto" is text on a terminal and JSON lines otherwise. A second call replaces the handler of the first.
    """
    stream = stream or sys.stderr
    if isinstance(stream, io.TextIOWrapper):  # the locale may have chosen an encoding without Chinese
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    handler = _Handler(stream)
    handler.setFormatter(_Formatter(foreign_pre_chain=[_fields], processors=[_renderer(log_format, stream)]))
    root = logging.getLogger()
    # A plain stream handler (basicConfig) would write each record a second time, unredacted.
    root.handlers = [other for other in root.handlers if type(other) not in (_Handler, logging.StreamHandler)]
    root.addHandler(handler)
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(capture=True)


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the name is given by logging
        """Suppress the error report: it would print the arguments of the record without redaction."""


class _Formatter(ProcessorFormatter):
    def format(self, record: logging.LogRecord) -> str:
        try:
            return super().format(record)
        except Exception as error:  # noqa: BLE001  a wrong placeholder must not lose the record
            text = f"log record that cannot be formatted ({type(error).__name__}): "
            plain = {key: record.__dict__[key] for key in ("name", "levelname", "created")}
            plain["msg"] = text + safe_repr((record.msg, record.args))
            return super().format(logging.makeLogRecord(plain))


def _renderer(log_format: LogFormat, stream: TextIO) -> "Processor":
    terminal = stream.isatty()
    if log_format == "text" or (log_format == "auto" and terminal):
        renderer = ConsoleRenderer(
            colors=terminal, timestamp_key="ts", sort_keys=False, exception_formatter=plain_traceback
        )
        return lambda logger, method, fields: renderer(logger, method, _printable(fields))
    return _json


def _json(_logger: "WrappedLogger", _method: str, fields: "EventDict") -> str:
    return json_text(fields)


def _printable(fields: "EventDict") -> "EventDict":
    """Return the fields without control characters; each line of a trace is indented, unlike the start of a record."""
    return {
        name: printable_lines(value, indent="    ")
        if name in _SEVERAL_LINES and isinstance(value, str)
        else printable_value(value)
        for name, value in fields.items()
    }


def _fields(_logger: "WrappedLogger", _method: str, event: "EventDict") -> "EventDict":
    """Return the redacted fields of a record: time, level, text, logger, ids, extras, exception."""
    record: logging.LogRecord = event["_record"]
    extras = {
        key: value
        for key, value in record.__dict__.items()
        if key not in _STANDARD and key not in _DROPPED and not key.startswith("_")
    }
    ids = {key: extras.pop(key) for key in _KEPT_FIELDS if isinstance(extras.get(key), str | int)}
    keep = {str(value) for value in ids.values()}
    fields: EventDict = {
        "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "event": redact(event["event"], keep=keep),
        "logger": record.name,
    }
    if record.exc_info:
        extras["exception"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
    if record.stack_info:
        extras["stack"] = record.stack_info
    return {
        **fields,
        **ids,
        **redact_fields(extras, keep),
        **fields,
    }  # first in order, and an extra of the same name does not replace them

"""Logging: every record of every logger leaves as one redacted JSON line, or as readable text on a terminal."""

import io
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.stdlib import ProcessorFormatter

from config.printable import json_text, printable_lines, printable_value
from config.redaction import redact, redact_fields, safe_repr

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

    from config.settings import Settings

_KEPT_FIELDS = ("case_id", "mediation_id", "job_id", "task_id")
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
# Celery hangs whole task arguments and results on its records (S37).
_DROPPED = frozenset({"data", "context", "kwargs", "argsrepr", "kwargsrepr"})
_SEVERAL_LINES = ("exception", "stack")
_CHATTY = ("urllib3", "requests")  # they log whole URLs


def configure_logging(settings: "Settings", *, stream: TextIO | None = None) -> None:
    """Send the records of all loggers to the stream (standard error), redacted (S37). Calling it again replaces it."""
    stream = stream or sys.stderr
    if isinstance(stream, io.TextIOWrapper):  # whatever the locale says
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    handler = _Handler(stream)
    handler.setFormatter(_Formatter(foreign_pre_chain=[_fields], processors=[_renderer(settings, stream)]))
    root = logging.getLogger()
    # A plain stream handler (basicConfig) would write the same records again, unredacted.
    root.handlers = [other for other in root.handlers if type(other) not in (_Handler, logging.StreamHandler)]
    root.addHandler(handler)
    root.setLevel(settings.log_level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(capture=True)


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  its name is logging's
        """Say nothing: logging's own report would quote the record's arguments in clear."""


class _Formatter(ProcessorFormatter):
    def format(self, record: logging.LogRecord) -> str:
        try:
            return super().format(record)
        except Exception as error:  # noqa: BLE001  a wrong placeholder must not cost the record
            text = f"log record that cannot be formatted ({type(error).__name__}): "
            plain = {key: record.__dict__[key] for key in ("name", "levelname", "created")}
            plain["msg"] = text + safe_repr((record.msg, record.args))
            return super().format(logging.makeLogRecord(plain))


def _renderer(settings: "Settings", stream: TextIO) -> "Processor":
    terminal = stream.isatty()
    if settings.log_format == "text" or (settings.log_format == "auto" and terminal):
        renderer = ConsoleRenderer(
            colors=terminal, timestamp_key="ts", sort_keys=False, exception_formatter=plain_traceback
        )
        return lambda logger, method, fields: renderer(logger, method, _printable(fields))
    return _json


def _json(_logger: "WrappedLogger", _method: str, fields: "EventDict") -> str:
    return json_text(fields)


def _printable(fields: "EventDict") -> "EventDict":
    """Return the fields without controls; no line of a trace stands where a record begins."""
    return {
        name: printable_lines(value, indent="    ")
        if name in _SEVERAL_LINES and isinstance(value, str)
        else printable_value(value)
        for name, value in fields.items()
    }


def _fields(_logger: "WrappedLogger", _method: str, event: "EventDict") -> "EventDict":
    """Return what is logged of a record: time, level, text, logger, its extras, its exception; all redacted."""
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
    return {**fields, **ids, **redact_fields(extras, keep), **fields}  # first, and no extra takes their place

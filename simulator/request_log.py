"""The request log of the simulator: it survives a test whose process is killed.

Each request leaves JSON lines that share `run` and `no`: `arrived`, one `dialled` per call made for it, and `done`.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Line = dict[str, Any]
_OPEN: Line = {"job_ids": [], "done_at": None, "done_mono": None, "status": None, "bytes": 0, "ended": None}


def fold(entries: dict[tuple[int, int], Line], line: Mapping[str, Any]) -> None:
    """Merge one line of the log into the entries, one per request; lines of dropped requests are ignored."""
    key = (line["run"], line["no"])
    fields = {name: value for name, value in line.items() if name != "event"}
    if line["event"] == "arrived":
        entries[key] = {**_OPEN, **fields, "job_ids": []}
    elif key in entries and line["event"] == "dialled":
        entries[key]["job_ids"].append(line["job_id"])
    elif key in entries:
        entries[key].update(fields)


def merge(lines: Iterable[Mapping[str, Any]]) -> list[Line]:
    """Return one entry per request, in the order of arrival."""
    entries: dict[tuple[int, int], Line] = {}
    for line in lines:
        fold(entries, line)
    return list(entries.values())


class RequestLog:
    """Keep the latest `kept` requests in memory, and append every line to the file at `path`, if one is given."""

    def __init__(self, path: Path | None, kept: int) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1) if path else None
        self._kept = kept
        self._entries: OrderedDict[tuple[int, int], Line] = OrderedDict()
        self._run = os.getpid()
        self.count = 0

    def arrived(self, *, at: float, mono: float, **fields: Any) -> int:
        """Record a request that arrived at `at` (epoch seconds) and return its number."""
        self.count += 1
        self._write({"event": "arrived", "run": self._run, "no": self.count, "at": at, "mono": mono, **fields})
        if len(self._entries) > self._kept:
            self._entries.popitem(last=False)
        return self.count

    def dialled(self, no: int, *, at: float, job_id: str, person_id: str) -> None:
        """Record a call made for this request."""
        line = {"event": "dialled", "run": self._run, "no": no, "at": at, "job_id": job_id, "person_id": person_id}
        self._write(line)

    def done(self, no: int, *, at: float, mono: float, status: int | None, size: int, ended: str) -> None:
        """Record how a request ended: `answered`, `client gone`, `reset` or `stopped`; size in bytes of body sent."""
        line = {"done_at": at, "done_mono": mono, "status": status, "bytes": size, "ended": ended}
        self._write({"event": "done", "run": self._run, "no": no, **line})

    def entries(self) -> list[Line]:
        """Return one entry per kept request, oldest first."""
        return list(self._entries.values())

    def forget(self) -> None:
        """Clear the memory; the file and the numbering continue."""
        self._entries.clear()

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()
            self._file = None

    def _write(self, line: Line) -> None:
        fold(self._entries, line)
        if self._file:
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

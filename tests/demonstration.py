"""Run `callwatch up` without a terminal and read its output."""

import base64
import json
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any, Self

import psutil

from simulator.request_log import merge
from tests.deployment import LIMIT, ROOT
from tests.ports import free_port

SERVICES = ("redis", "simulator", "flower", "metrics", "gateway")
PROGRAMS = {  # a part of the command of each process that `callwatch up` starts
    "valkey-server",
    "cli.main simulate",
    "poll@",
    "trigger@",
    "cli.main flower",
    "cli.main metrics",
    "-m gateway",
    "watchdog.py",
}


class Up:
    """One `callwatch up` with its own ports, and its output up to now."""

    def __init__(self, folder: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in SERVICES}
        ports = [f"--port-{name}={number}" for name, number in self.ports.items()]
        path = {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            (sys.executable, "-m", "cli.main", "up", "--data", str(folder / "data"), *(options or ports)),
            cwd=folder,
            env={**os.environ, **(environment or {}), **path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(LIMIT)
        assert self.process.stdout
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout
        self.lines.extend(line.rstrip("\n") for line in self.process.stdout)

    def saw(self, text: str) -> bool:
        assert self.process.poll() is None, self.text
        return text in self.text

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def find(self, pattern: str) -> str:
        match = re.search(pattern, self.text)
        assert match, self.text
        return match[1]

    def children(self) -> dict[str, psutil.Process]:
        """The processes that it has started, by their command."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            command = " ".join(child.cmdline())
            for name in PROGRAMS:
                if name in command:
                    found[name] = child
        return found

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in a second terminal, with the printed variables."""
        exports = dict(re.findall(r"  export (\w+)=(\S+)", self.text))
        return subprocess.run(
            (sys.executable, "-m", "cli.main", *arguments),
            cwd=ROOT,
            env={**os.environ, **exports},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=LIMIT,
            check=False,
        )

    def status(self, *options: str) -> Any:
        return json.loads(self.run("status", *options, "--json").stdout)

    def dialled(self) -> Counter[tuple[str, str]]:
        """Return the call requests of each case, and the calls to each person."""
        log = (self.folder / "data" / "logs" / "simulator-requests.jsonl").read_text("utf-8")
        lines = [json.loads(line) for line in log.splitlines(keepends=True) if line.endswith("\n")]
        requests = Counter(("case", entry["case_id"]) for entry in merge(lines) if entry["endpoint"] == "call-v2")
        return requests + Counter(("person", line["person_id"]) for line in lines if line["event"] == "dialled")

    def tasks(self, credentials: str) -> Any:
        """Return the answer of Flower to these credentials."""
        secret = base64.b64encode(credentials.encode()).decode()
        return ask(self.ports["flower"], "/api/tasks", f"Basic {secret}")


def ask(port: int, path: str, authorization: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": authorization}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=LIMIT) as answer:
        return json.load(answer)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if runs(one)]


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two calls
        return False

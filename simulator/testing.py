"""Run the simulated upstream as a process for tests, with typed helpers; blocking, with http.client only."""

import contextlib
import http.client
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

from simulator.request_log import merge

_START_LIMIT = 30.0  # seconds; generous, because test machines are slow
_BARRIER = 1.0  # seconds; a stopped simulator or an outage must not delay the reading of the log
_ROOT = Path(__file__).resolve().parents[1]
_TOKEN_VARIABLE = "SIMULATOR_TOKEN"  # noqa: S105 - the name of a variable
_OK = 200

Json = dict[str, Any]


class SimulatorProcess:
    """Start `callwatch simulate` on a free loopback port and stop it at the end of the `with` block.

    `start` after `stop` or `kill` uses the same port again; its calls are lost, its log continues.
    """

    def __init__(
        self,
        *,
        speed: float = 1.0,
        dial_delay: float = 0.0,
        token: str | None = None,
        log_path: Path | None = None,
        port: int = 0,
    ) -> None:
        self._speed = speed
        self._dial_delay = dial_delay
        self._token = token
        self._directory = None if log_path else tempfile.TemporaryDirectory(prefix="simulator-")
        self.log_path = log_path or Path(self._directory.name if self._directory else ".") / "requests.jsonl"
        self.port = port
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Start the process and wait until it answers."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the process and delete its log, unless a path was given."""
        self.stop()
        if self._directory:
            self._directory.cleanup()

    @property
    def url(self) -> str:
        """The base address, e.g. `http://127.0.0.1:40123`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id; RuntimeError if the process does not run."""
        if self._process is None:
            raise RuntimeError("the simulator is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the process; RuntimeError if it does not answer in time."""
        command = [sys.executable, "-m", "cli.main", "simulate", "--port", str(self.port), "--log", str(self.log_path)]
        command += ["--speed", str(self._speed), "--dial-delay", str(self._dial_delay)]
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, _TOKEN_VARIABLE: self._token or ""}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)  # noqa: S603 - ours
        stdout = self._process.stdout
        line = stdout.readline() if stdout and select.select([stdout], [], [], _START_LIMIT)[0] else ""
        if "http://" not in line:
            self.kill()
            raise RuntimeError("the simulator did not start")
        self.port = int(line.rsplit(":", 1)[1])

    def stop(self) -> None:
        """Stop the process (SIGTERM)."""
        if self._process:
            self._process.terminate()
            self._reap()

    def kill(self) -> None:
        """Kill the process (SIGKILL)."""
        if self._process:
            self._process.kill()
            self._reap()

    def _reap(self) -> None:
        process, self._process = self._process, None
        if process:
            try:
                process.wait(_START_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()

    def request(self, method: str, path: str, body: Json | None = None, *, timeout: float = 30.0) -> tuple[int, Any]:
        """Return the HTTP status and the JSON of one request; OSError or ValueError if a fault prevents an answer."""
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"null")
        finally:
            connection.close()

    def _control(self, method: str, path: str, body: Json | None = None) -> Json:
        status, answer = self.request(method, f"/_sim{path}", body)
        if status != _OK or not isinstance(answer, dict):
            raise ValueError(f"{method} /_sim{path} answered {status}: {answer}")
        return answer

    def script(self, case_id: str, **script: Any) -> None:
        """Set the script of a case (`life`, `parties`, `dial_delay`; "*": every other case). ValueError if invalid."""
        self._control("POST", "/script", {"case_id": case_id, **script})

    def fault(self, kind: str, endpoint: str = "*", *, count: int | None = None, **more: Any) -> int:
        """Set a fault for the next `count` requests, or until it is cleared; return its id. ValueError if invalid."""
        counted = {} if count is None else {"count": count}
        return int(self._control("POST", "/faults", {"kind": kind, "endpoint": endpoint, **counted, **more})["id"])

    def clear(self, fault_id: int | None = None) -> None:
        """Clear one fault, or all."""
        self._control("DELETE", "/faults" if fault_id is None else f"/faults?id={fault_id}")

    def settings(self, **settings: float) -> None:
        """Change `speed` or `dial_delay`."""
        self._control("POST", "/settings", settings)

    def outage(self, seconds: float) -> None:
        """Refuse connections for that long; the calls live on."""
        self._control("POST", "/outage", {"seconds": seconds})

    def end(self, job_id: str, status: str = "Succeeded") -> None:
        """End a call now."""
        self._control("POST", "/end", {"job_id": job_id, "status": status})

    def reset(self) -> None:
        """Clear calls, scripts and faults; the log file continues."""
        self._control("POST", "/reset")

    def dial(self, case_id: str, mediation_id: str = "1", *, call_auto: int = 0, call_person_id: str = "") -> Json:
        """Send a call-v2 like the real client and return the whole envelope."""
        body = {"caseId": case_id, "mediationId": mediation_id, "callAuto": call_auto, "callPersonId": call_person_id}
        _, answer = self.request("POST", "/api/v1/outbound-bot/call-v2", body)
        return dict(answer)

    def status(self, **query: str) -> Json:
        """Send a status query (`caseRef`, `jobId`) like the real client and return the whole envelope."""
        _, answer = self.request("GET", f"/api/v1/outbound-bot/status?{urlencode(query)}")
        return dict(answer)

    def conversations(self, **query: str) -> Json:
        """Query a conversation log (`caseId`, `personId`, `jobId`) and return the whole envelope."""
        _, answer = self.request("GET", f"/api/v1/outbound-bot/conversation-log?{urlencode(query)}")
        return dict(answer)

    def jobs(self, case_id: str | None = None) -> list[Json]:
        """Return all calls, oldest first, including those whose answer never arrived."""
        path = "/calls" if case_id is None else f"/calls?case_id={quote(case_id, safe='')}"
        return list(self._control("GET", path)["calls"])

    def log(self, endpoint: str | None = None) -> list[Json]:
        """Return one entry per request in the log file, in order of arrival, also after the end of the process."""
        if self._process:
            with contextlib.suppress(OSError):  # after an answer, the lines of all earlier answers are written
                self.request("GET", "/_sim", timeout=_BARRIER)
        if not self.log_path.exists():
            return []
        lines = self.log_path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = (json.loads(line) for line in lines if line.endswith("\n"))
        return [entry for entry in merge(whole) if endpoint in (None, entry["endpoint"])]

    def calls_per_pair(self) -> Counter[tuple[str, str]]:
        """Return the number of call-v2 requests for each (case id, mediation id), answered or not."""
        return Counter((entry["case_id"], entry["mediation_id"]) for entry in self.log("call-v2"))

    def rings_per_person(self) -> Counter[tuple[str, str, str]]:
        """Return the number of calls to each (case id, mediation id, person id) since the process started."""
        return Counter((job["case_id"], job["mediation_id"], job["person_id"]) for job in self.jobs())

    def status_requests(self, job_id: str) -> list[Json]:
        """Return the log entries of the status requests for one job."""
        return [entry for entry in self.log("status") if entry["job_id"] == job_id]

    def wait(self, condition: Callable[[], object], *, limit: float = 30.0) -> None:
        """Return as soon as the condition holds; TimeoutError if it does not within `limit` seconds."""
        deadline = time.monotonic() + limit
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the condition did not hold within {limit} s")
            time.sleep(0.01)

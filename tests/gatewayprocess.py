"""Run the program of `callwatch serve` as a process and act as its clients: requests and event streams."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode

from config.api_keys import append_key, new_key
from tests.deployment import LIMIT, ROOT, Deployment, wait_until
from tests.leaksearch import leaks

SECRET = "a-secret-of-the-tests-with-32-chars"


@dataclass(frozen=True)
class Answer:
    """A complete HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The parsed JSON body."""
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """The last path segment of a problem's type."""
        assert self.headers["content-type"] == "application/problem+json", self
        return str(self.json["type"]).rpartition("/")[2]


class Gateway:
    """A gateway process with a key of all scopes; process and streams end with the `with` block.

    It starts as `callwatch serve` starts it, without waiting for that command.
    At the end its log is searched for secrets and personal data (S37), and so are those of its deployment's workers.
    """

    def __init__(self, environment: dict[str, str], *, module: str = "gateway", port: int = 0, **settings: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="callwatch-gateway-")
        folder = Path(self._folder.name)
        self.keys = Path(settings.get("gateway_keys_file", folder / "keys"))
        self._log = folder / "log"
        ours = {"CALLWATCH_GATEWAY_KEYS_FILE": str(self.keys), "CALLWATCH_GATEWAY_TOKEN_SECRET": SECRET}
        given = {f"CALLWATCH_{name.upper()}": value for name, value in settings.items()}
        self._environment = environment | ours | given
        self._command = (sys.executable, "-m", module)
        self.port = port
        self._started = False
        self._deployment: Deployment | None = None
        self._secrets = [SECRET]
        self.key = self.make_key("backend", "trigger", "read", "mint")

    @classmethod
    def of(cls, deployment: Deployment) -> Self:
        """Return the gateway of a deployment."""
        gateway = cls(deployment.environment)
        gateway._deployment = deployment
        return gateway

    def make_key(self, name: str, *scopes: str) -> str:
        """Add an API key to the gateway's key file and return it."""
        key, kept = new_key(name, scopes)
        append_key(self.keys, kept)
        self._secrets.append(key)
        return key

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Start the process, or restart it on the same port."""
        if self._started:
            self.kill()
        self._started = True
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                (*self._command, "--port", str(self.port)),
                cwd=ROOT, env=self._environment, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self.process.stdout
        line = self.process.stdout.readline()
        match = re.fullmatch(r"gateway: http://127\.0\.0\.1:(\d+)\n", line)
        assert match, (line, self.log)
        self.port = int(match[1])
        wait_until(lambda: self.get("/readyz").status == 200)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.kill()
        log = self.log + "".join(worker.log for worker in (self._deployment.workers if self._deployment else ()))
        self._folder.cleanup()
        if kind is None:
            assert leaks(log, self._secrets) == [], "in the logs"

    @property
    def log(self) -> str:
        """The text of the process's log file."""
        return self._log.read_text(encoding="utf-8")

    def kill(self) -> None:
        """Kill the process, as a crash does."""
        self.process.kill()
        self.process.wait(LIMIT)
        assert self.process.stdout
        self.process.stdout.close()

    def stop(self) -> int:
        """Stop the process by SIGTERM and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT)

    # -- requests ------------------------------------------------------------------------------------------------------

    def request(
        self, method: str, path: str, body: bytes | None = None, key: str | None = None, **headers: Any
    ) -> Answer:
        """Send a request with the all-scopes key, another key, or none if `key` is empty."""
        key = self.key if key is None else key
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key:
            sent["Authorization"] = f"Bearer {key}"
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)) as connection:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def get(self, path: str, key: str | None = None, **headers: Any) -> Answer:
        """Send a GET request."""
        return self.request("GET", path, key=key, **headers)

    def post(self, path: str, document: Any, key: str | None = None, **headers: Any) -> Answer:
        """Send a JSON document by POST."""
        kind = headers.pop("Content_Type", "application/json")
        return self.request("POST", path, json.dumps(document).encode(), key, Content_Type=kind, **headers)

    def trigger(self, idempotency_key: str, case_id: str = "C-1", mediation_id: Any = 20, **more: Any) -> Answer:
        """Send a trigger request."""
        headers = {name: more.pop(name) for name in ("Prefer",) if name in more}
        document = {"case_id": case_id, "mediation_id": mediation_id, **more}
        return self.post("/v1/triggers", document, Idempotency_Key=idempotency_key, **headers)

    def token(self, *cases: str) -> str:
        """Mint a token for the cases."""
        return str(self.post("/v1/tokens", {"cases": cases}).json["token"])

    def case(self, case_id: str) -> dict[str, Any]:
        """Return a case as the gateway presents it."""
        (case,) = self.get(f"/v1/cases/{quote(case_id, safe='')}").json["cases"]
        return dict(case)

    def follow(
        self,
        *cases: str,
        key: str | None = None,
        port: int = 0,
        prefix: str = "",
        shown: "Shown | None" = None,
        **headers: str,
    ) -> "Stream":
        """Open a stream, at `port` if a proxy is in front; `shown` continues the state of an earlier stream."""
        key = self.key if key is None else key
        return Stream(port or self.port, cases, headers | {"Authorization": f"Bearer {key}"}, prefix, shown)

    def metric(self, line: str) -> float:
        """Return a metric's value by the text that precedes it on its line."""
        (found,) = re.findall(rf"^{re.escape(line)} (\S+)$", self.get("/metrics").body.decode(), re.MULTILINE)
        return float(found)


@dataclass
class Shown:
    """The state that a page builds from a stream: calls by job, phases by mediation, notices by id."""

    calls: dict[str, dict[str, Any]] = field(default_factory=dict)
    pairs: dict[tuple[str, str], str] = field(default_factory=dict)
    notices: dict[str, dict[str, Any]] = field(default_factory=dict)
    states: list[dict[str, Any]] = field(default_factory=list)
    delivered: list[str] = field(default_factory=list)

    def take(self, kind: str, data: dict[str, Any]) -> None:
        """Apply one event to the state."""
        if kind == "snapshot":
            for case in data["cases"]:
                self.clear(case["case_id"])
                for call in case["calls"]:
                    self.calls[call["job_id"]] = {**call, "case_id": case["case_id"]}
                for pair in case["pairs"]:
                    self.pairs[case["case_id"], pair["mediation_id"]] = pair["phase"]
                self.notices |= {notice["id"]: notice for notice in case["notices"]}
                self.delivered += [notice["id"] for notice in case["notices"]]
        elif kind == "call":
            self.calls[data["call"]["job_id"]] = {**data["call"], "case_id": data["case_id"]}
        elif kind == "pair":
            self.pairs[data["case_id"], data["mediation_id"]] = data["phase"]
        elif kind == "notice":
            self.notices[data["id"]] = data
            self.delivered.append(data["id"])
        elif kind == "gone":
            self.clear(data["case_id"])
        elif kind == "state":
            self.states.append(data)

    def clear(self, case_id: str) -> None:
        """Remove the calls and pairs of a case."""
        for job_id in [job for job, call in self.calls.items() if call["case_id"] == case_id]:
            del self.calls[job_id]
        for key in [key for key in self.pairs if key[0] == case_id]:
            del self.pairs[key]


class Stream:
    """An event stream, read by a thread."""

    def __init__(
        self,
        port: int,
        cases: tuple[str, ...],
        headers: dict[str, str],
        prefix: str = "",
        shown: Shown | None = None,
    ) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        query = urlencode([("case", case) for case in cases])
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request("GET", f"{prefix}/v1/stream?{query}", headers=sent)
        self.response = self._connection.getresponse()
        self.status = self.response.status
        self.events: list[tuple[str, str, Any]] = []
        self.shown = Shown() if shown is None else shown
        self.last_id = ""
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        fields: dict[str, str] = {}
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, AttributeError):
            while line := self.response.readline():
                text = line.decode().rstrip("\n")
                if text:
                    name, _, value = text.partition(": ")
                    fields[name] = value
                    continue
                if "event" in fields:
                    self._take(fields)
                fields = {}
        self.ended.set()

    def _take(self, fields: dict[str, str]) -> None:
        data = json.loads(fields["data"])
        self.last_id = fields.get("id", self.last_id)
        self.shown.take(fields["event"], data)
        self.events.append((fields.get("id", ""), fields["event"], data))

    def kinds(self) -> list[str]:
        """Return the kinds of events received so far, without heartbeats."""
        return [kind for _, kind, _ in self.events if kind != "beat"]

    def wait(self, condition: Callable[[Shown], object], *, limit: float = LIMIT) -> None:
        """Wait until the state meets the condition."""
        wait_until(lambda: condition(self.shown), limit=limit)

    def close(self) -> None:
        """Close the connection and join the reading thread."""
        if self._connection.sock is not None:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(2)
        self._thread.join(LIMIT)
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def environment(redis_url: str, **settings: object) -> dict[str, str]:
    """Return the environment of a gateway with a Redis address and `settings`."""
    theirs = {name: value for name, value in os.environ.items() if not name.startswith("CALLWATCH_")}
    ours = {f"CALLWATCH_{name.upper()}": str(value) for name, value in settings.items()}
    return theirs | {"CALLWATCH_REDIS_URL": redis_url} | ours

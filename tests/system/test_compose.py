"""Run the services of docker-compose.yml as plain processes: the same commands, environment, users and secrets.

A server with the users that `ops/make-secrets` makes, one of each service and a second poll worker. Everything works
with the minimal rights of each user; test_redis_users.py tests these rights (S40).
"""

import base64
import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from cli.up.embedded_redis import find_binary
from simulator.testing import SimulatorProcess
from tests.deployment import LIMIT, ROOT, back_end, wait_until
from tests.ports import free_port
from tests.users import ADMIN, USERS, make_secrets

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


class Installation:
    """The services, started one by one."""

    def __init__(self, folder: Path, upstream: str) -> None:
        self.folder, self.upstream = folder, upstream
        self.ports = {name: free_port() for name in ("redis", "flower", "metrics", "gateway")}
        self.secrets = folder / "secrets"
        self.processes: list[subprocess.Popen[bytes]] = []

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text(encoding="utf-8").strip()

    def url(self, user: str) -> str:
        return (
            f"redis://admin@127.0.0.1:{self.ports['redis']}/0" if user == "admin" else self.secret(f"redis_url_{user}")
        )

    def client(self, user: str) -> "redis.Redis":
        return redis.Redis.from_url(self.url(user), decode_responses=True, socket_timeout=LIMIT)

    def environment(self, service: str) -> dict[str, str]:
        """Return the environment that compose would set: the file's settings, with paths and ports of this machine."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("CALLWATCH_", "FLOWER_"))}
        own["CALLWATCH_API_BASE_URL"] = self.upstream
        for name, value in SERVICES[service]["environment"].items():
            if isinstance(value, str) and "$" not in value:
                path = value.replace("/run/secrets", str(self.secrets)).replace("/var/lib/callwatch", str(self.folder))
                own[name] = path.replace("/tmp/callwatch", f"{self.folder}/{len(self.processes)}")  # noqa: S108
        return own | {"CALLWATCH_POLL_INTERVAL": "1", "CALLWATCH_DEMO": "true"}

    def start(self, service: str) -> "subprocess.Popen[bytes]":
        """Start a service's command."""
        words = [str(word) for word in SERVICES[service]["command"]]
        if service == "redis":
            words = [word.replace("/run/secrets/redis_acl", str(self.folder / "redis.acl")) for word in words]
            (self.folder / "data").mkdir()
            place = ("--bind", "127.0.0.1", "--port", str(self.ports["redis"]), "--dir", str(self.folder / "data"))
            durable = ("--appendfsync", "always")  # everysec is enough for the Redis 8 of the image only
            command: tuple[str, ...] = (str(find_binary()), *words[1:], *place, *durable)
        else:
            module = {"callwatch": "cli.main", "celery": "celery"}[words[0]]
            words = ["127.0.0.1" if word == "0.0.0.0" else word for word in words[1:]]  # noqa: S104
            port = ("--port", str(self.ports[service])) if service in self.ports else ()
            command = (
                sys.executable,
                "-m",
                module,
                *(w.replace("@%h", f"{len(self.processes)}@%h") for w in words),
                *port,
            )
        with (self.folder / f"{service}-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT if service != "redis" else self.folder,
                env=self.environment(service) if service != "redis" else None,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)
        return process

    def log(self, service: str) -> str:
        return "".join(path.read_text(encoding="utf-8") for path in sorted(self.folder.glob(f"{service}-*.log")))

    def command(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a command as `docker compose exec poll-worker callwatch …` would."""
        return subprocess.run(
            (sys.executable, "-m", "cli.main", *words),
            cwd=ROOT,
            env=self.environment("poll-worker"),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=LIMIT,
            check=False,
        )

    def get(self, service: str, path: str, authorization: str = "") -> tuple[int, str]:
        """Return the status and the body of an answer."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[service]}{path}")
        if authorization:
            request.add_header("Authorization", authorization)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=LIMIT) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read().decode()
        except urllib.error.URLError:
            return 0, ""

    @property
    def basic(self) -> str:
        return "Basic " + base64.b64encode(self.secret("flower_auth").encode()).decode()

    @property
    def bearer(self) -> str:
        return f"Bearer {self.secret('metrics_token')}"


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """All services, the poll worker twice."""
    with SimulatorProcess() as simulator:
        one = Installation(tmp_path_factory.mktemp("compose"), simulator.url)
        done = make_secrets(one.secrets, REDIS_HOST=f"127.0.0.1:{one.ports['redis']}")
        assert done.returncode == 0, done.stderr
        (one.folder / "redis.acl").write_text((one.secrets / "redis.acl").read_text() + ADMIN)
        simulator.script("*", life="talking")
        try:
            one.start("redis")
            wait_until(lambda: answers(one.client("admin")))
            for service in ("poll-worker", "poll-worker", "trigger-worker", "flower", "metrics", "gateway"):
                one.start(service)
            wait_until(lambda: one.log("poll-worker").count(" ready.") == 2 and " ready." in one.log("trigger-worker"))
            wait_until(lambda: one.get("flower", "/healthcheck")[0] == 200)
            wait_until(lambda: one.get("metrics", "/healthz")[0] == 200)
            wait_until(lambda: one.get("gateway", "/readyz")[0] == 200)
            yield one
        finally:
            for process in reversed(one.processes):
                process.terminate()
            for process in reversed(one.processes):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(LIMIT)
                process.kill()
                process.wait()


def answers(client: "redis.Redis") -> bool:
    with client, contextlib.suppress(redis.RedisError):
        return bool(client.ping())
    return False


def test_a_case_is_called_watched_and_shown(installation: Installation) -> None:
    """Each with its own user's rights: producer, workers, Flower, metrics; nothing was refused to any of them."""
    with back_end(installation.url("producer")) as producer:
        kwargs = {"case_id": "C-1", "mediation_id": 20}
        sent = producer.send_task("outbound.trigger", kwargs=kwargs, queue="outbound.trigger", expires=600)
        assert sent.get(timeout=LIMIT)["outcome"] == "started"
    wait_until(
        lambda: (
            "通话中"
            in installation.get("flower", "/api/tasks", installation.basic)[1].encode().decode("unicode_escape")
        )
    )
    wait_until(lambda: 'callwatch_polls_total{outcome="answer"} 0' not in scrape(installation))
    assert 'callwatch_triggers_total{outcome="started"} 1.0' in scrape(installation)
    doctor = installation.command("doctor")
    assert doctor.returncode == 0, doctor.stdout
    assert "warn" not in doctor.stdout
    assert [
        line
        for line in json.loads(installation.command("status", "--json").stdout)["cases"]
        if line["case_id"] == "C-1"
    ]
    for switch in ("pause", "resume"):
        assert installation.command(switch).returncode == 0
    with installation.client("admin") as admin:
        refused = [entry for entry in admin.acl_log() if entry["username"] in USERS]
    assert refused == []


def test_s42_a_trigger_over_http_is_followed_to_its_calls(installation: Installation) -> None:
    """With the first key, and the least rights: nothing was refused to the gateway."""
    key = f"Bearer {installation.secret('gateway_key')}"
    headers = {"Authorization": key, "Content-Type": "application/json", "Idempotency-Key": "load-1"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{installation.ports['gateway']}/v1/triggers",
        b'{"case_id": "C-http", "mediation_id": 20}',
        headers | {"Prefer": "wait=30"},
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=LIMIT) as answer:
        assert json.loads(answer.read())["result"]["outcome"] == "started"
    _, case = installation.get("gateway", "/v1/cases/C-http", key)
    assert len(json.loads(case)["cases"][0]["calls"]) == 2
    assert installation.get("gateway", "/v1/cases/C-http/history", key)[0] == 200
    assert installation.get("gateway", "/metrics")[0] == 401
    assert "callwatch_gateway_streams 0.0" in installation.get("gateway", "/metrics", installation.bearer)[1]
    with installation.client("admin") as admin:
        assert [entry for entry in admin.acl_log() if entry["username"] in USERS] == []


def scrape(installation: Installation) -> str:
    status, text = installation.get("metrics", "/metrics", installation.bearer)
    assert status == 200
    return text


def test_a_killed_poll_worker_leaves_its_calls_to_the_other(installation: Installation) -> None:
    """S28, with minimal rights: the polls of the killed worker are published again."""
    before = polls(installation)
    installation.processes[1].kill()
    wait_until(lambda: polls(installation) > before + 10)
    with installation.client("admin") as admin:
        assert [entry for entry in admin.acl_log() if entry["username"] in USERS] == []


def polls(installation: Installation) -> float:
    match = re.search(r'callwatch_polls_total\{outcome="answer"\} (\S+)', scrape(installation))
    assert match
    return float(match[1])


@pytest.mark.parametrize(
    ("service", "path"),
    [
        *(("flower", path) for path in ("/", "/workers", "/tasks", "/broker", "/task/x", "/worker/x", "/tasks?page=1")),
        *(("flower", f"/api/{path}") for path in ("tasks", "workers", "task/types", "task/info/x", "queues/length")),
        ("flower", "/tasks/datatable?draw=1&start=0&length=10"),
        ("metrics", "/metrics"),
        ("metrics", "/"),
    ],
)
def test_s40_nobody_sees_anything_without_a_credential(installation: Installation, service: str, path: str) -> None:
    status, text = installation.get(service, path)
    assert status in {401, 404}
    assert not re.search(r"outbound|C-1|callwatch_", text)


def test_s40_flowers_own_metrics_are_gone(installation: Installation) -> None:
    """Flower serves them without a credential; `callwatch metrics` serves all of them with one."""
    for authorization in ("", installation.basic):
        assert installation.get("flower", "/metrics", authorization)[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "task/async-apply/outbound.trigger",
        "task/send-task/outbound.trigger",
        "task/apply/outbound.trigger",
        "worker/shutdown/poll1@x",
        "task/revoke/x",
    ],
)
def test_s40_flower_cannot_dial_or_control_workers(installation: Installation, path: str) -> None:
    """Even with the credential: Flower is read-only."""
    body = json.dumps({"kwargs": {"case_id": "C-9", "mediation_id": "9"}}).encode()
    headers = {"Authorization": installation.basic}
    request = urllib.request.Request(f"http://127.0.0.1:{installation.ports['flower']}/api/{path}", body, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError, match="403") as refusal:
        opener.open(request, timeout=LIMIT)
    refusal.value.close()


def test_s40_without_a_password_one_may_ask_for_a_sign_of_life(installation: Installation) -> None:
    place = f"127.0.0.1:{installation.ports['redis']}"
    with redis.Redis.from_url(f"redis://{place}/0") as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    with redis.Redis.from_url(f"redis://health:health@{place}/0") as client:
        assert client.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.get("callwatch:paused")


def test_s37_secrets_are_their_owners_and_written_over_by_nobody(installation: Installation) -> None:
    assert installation.secrets.stat().st_mode & 0o777 == 0o700
    before = {path.name: path.read_bytes() for path in installation.secrets.iterdir()}
    again = make_secrets(installation.secrets)
    assert again.returncode == 1
    assert "exists already" in again.stderr
    assert {path.name: path.read_bytes() for path in installation.secrets.iterdir()} == before
    passwords = {re.sub(r".*:(\w+)(@.*)?$", r"\1", before[name].decode().strip()) for name in before if "url" in name}
    assert len(passwords) == len(USERS)
    assert not [password for password in passwords if password in before["redis.acl"].decode() + again.stdout]

"""Run the services of ops/sentinel.yml as plain processes: their commands, environment, users and secrets (S41)."""

import contextlib
import functools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from celery import Celery

from cli.up.embedded_redis import HOST, find_binary
from simulator.testing import SimulatorProcess
from tests.deployment import LIMIT, ROOT, back_end, wait_until
from tests.ports import free_port
from tests.users import ADMIN, make_secrets

BASE, OVERRIDE = (
    yaml.safe_load((ROOT / name).read_text(encoding="utf-8")) for name in ("docker-compose.yml", "ops/sentinel.yml")
)
SERVERS = ("redis", "redis-replica")
SENTINELS = ("sentinel-1", "sentinel-2", "sentinel-3")
WORKERS = ("poll-worker", "trigger-worker")
# Seconds. A Sentinel whose timer is late by 2 s does nothing for 30 s (TILT), on a busy machine more than once. Then it
# makes a primary that came back a replica after 8 s.
CHANGE_LIMIT = 150.0


def merged(service: str) -> dict[str, Any]:
    """Return a service as `docker compose -f docker-compose.yml -f ops/sentinel.yml` merges it."""
    base, over = (file["services"].get(service, {}) for file in (BASE, OVERRIDE))
    environment = {**base.get("environment", {}), **over.get("environment", {})}
    secrets = [*base.get("secrets", []), *over.get("secrets", [])]
    return {**base, **over, "environment": environment, "secrets": secrets}


class Example:
    """The services, started one by one, each with its own secrets and data."""

    def __init__(self, folder: Path, simulator: SimulatorProcess) -> None:
        self.folder, self.simulator = folder, simulator
        self.ports = {name: free_port() for name in (*SERVERS, *SENTINELS)}
        self.secrets = folder / "secrets"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, service: str) -> None:
        """Start a service's command."""
        mounted = self.folder / service / "secrets"
        mounted.mkdir(parents=True, exist_ok=True)
        for name in merged(service)["secrets"]:
            file = {**BASE["secrets"], **OVERRIDE["secrets"]}[name]["file"].rpartition("/")[2]
            with contextlib.suppress(FileExistsError):
                (mounted / name).symlink_to(self.secrets / file if "$" not in file else os.devnull)
        words = [str(word) for word in merged(service)["command"]]
        command, environment = (
            self._node(service, words) if words[0] == "redis-node" else self._worker(service, words, mounted)
        )
        with (self.folder / f"{service}.log").open("ab") as log:
            self.processes[service] = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def _node(self, service: str, words: list[str]) -> tuple[list[str], dict[str, str]]:
        hosts = [HOST if word in self.ports else word for word in words[2:]]
        binaries = self.folder / "bin"
        binaries.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (binaries / "redis-server").symlink_to(find_binary())
        environment = {
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "DATA": str(self.folder / service),
            "SECRETS": str(self.folder / service / "secrets"),
            "BIND": HOST,
            "PORT": str(self.ports[service]),
            "PRIMARY_PORT": str(self.ports["redis"]),
            "DOWN_AFTER": "1000",
        }
        return ["sh", str(ROOT / "ops" / "redis-node"), words[1], *hosts], environment

    def _worker(self, service: str, words: list[str], mounted: Path) -> tuple[list[str], dict[str, str]]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("CALLWATCH_")}
        for name, value in merged(service)["environment"].items():
            if value is not None and "$" not in str(value):
                path = str(value).replace("/run/secrets", str(mounted))
                own[name] = path.replace("/tmp/callwatch", f"{self.folder}/{service}/callwatch")  # noqa: S108
        own |= {"CALLWATCH_API_BASE_URL": self.simulator.url, "CALLWATCH_POLL_INTERVAL": "1"}
        return [sys.executable, "-m", *words], own

    def client(self, service: str) -> "redis.Redis":
        """Return a client with all rights of a Redis server."""
        url = f"redis://admin@{HOST}:{self.ports[service]}/0"
        return redis.Redis.from_url(url, decode_responses=True, socket_timeout=LIMIT)

    def role(self, service: str) -> str:
        """Return the role of a Redis server, empty while it does not answer."""
        with contextlib.suppress(redis.RedisError), self.client(service) as client:
            return str(client.role()[0])
        return ""

    def log(self, service: str) -> str:
        return (self.folder / f"{service}.log").read_text(encoding="utf-8")

    def back_end(self) -> Celery:
        """Return a back end with the rights of the user `producer`."""
        return back_end((self.secrets / "redis_url_producer").read_text(encoding="utf-8").strip())


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Example]:
    """All servers and workers of the example."""
    with SimulatorProcess() as simulator:
        one = Example(tmp_path, simulator)
        sentinels = ",".join(f"{HOST}:{one.ports[name]}" for name in SENTINELS)
        done = make_secrets(one.secrets, SENTINELS=sentinels)
        assert done.returncode == 0, done.stderr
        acl = one.secrets / "redis.acl"
        acl.chmod(0o600)
        acl.write_text(acl.read_text(encoding="utf-8") + ADMIN, encoding="utf-8")
        simulator.script("*", life="talking")
        try:
            one.start("redis")
            wait_until(lambda: one.role("redis") == "master")
            one.start("redis-replica")
            wait_until(lambda: one.role("redis-replica") == "slave")
            for service in (*SENTINELS, *WORKERS):
                one.start(service)
            wait_until(lambda: all(" ready." in one.log(name) for name in WORKERS))
            wait_until(lambda: all(one.log(name).count("+sentinel sentinel") == 2 for name in SENTINELS))
            yield one
        finally:
            for process in one.processes.values():
                process.kill()
                process.wait()
            for name in one.processes:
                print(f"== {name}\n{one.log(name)[-3000:]}")  # noqa: T201 - pytest shows it if the test fails


def test_s41_calls_stay_watched_when_the_first_primary_of_the_example_dies(example: Example) -> None:
    """S41: with the rights of each user; the servers keep their new roles in their own configuration."""
    with example.back_end() as producer:
        kwargs = {"case_id": "C-1", "mediation_id": 20}
        sent = producer.send_task("outbound.trigger", kwargs=kwargs, queue="outbound.trigger", expires=600)
        assert sent.get(timeout=LIMIT)["outcome"] == "started"
    jobs = {job["job_id"] for job in example.simulator.jobs()}
    wait_until(lambda: polled(example, 0) == jobs)

    example.processes["redis"].kill()
    example.processes["redis"].wait()
    killed_at = time.time()
    wait_until(lambda: example.role("redis-replica") == "master", limit=CHANGE_LIMIT)
    wait_until(lambda: polled(example, killed_at + 1) == jobs)
    assert example.simulator.calls_per_pair() == {("C-1", "20"): 1}
    assert "replicaof" not in (example.folder / "redis-replica" / "redis.conf").read_text(encoding="utf-8")
    example.start("redis")
    wait_until(lambda: example.role("redis") == "slave", limit=CHANGE_LIMIT)
    wait_until(lambda: "replicaof" in (example.folder / "redis" / "redis.conf").read_text(encoding="utf-8"))
    for service in SERVERS:
        with example.client(service) as admin:
            assert [entry for entry in admin.acl_log() if entry["username"] != "admin"] == []


def test_s41_sentinels_of_the_example_take_changed_passwords_at_a_restart(example: Example) -> None:
    """A Sentinel keeps its password as a user in its configuration, which would take precedence."""
    before = example.secrets.rename(example.folder / "before")
    sentinels = ",".join(f"{HOST}:{example.ports[name]}" for name in SENTINELS)
    done = make_secrets(example.secrets, SENTINELS=sentinels, OLD_SECRETS=str(before))
    assert done.returncode == 0, done.stderr
    password = (example.secrets / "sentinel_password").read_text(encoding="utf-8")
    for name in SENTINELS:
        example.processes[name].terminate()
        example.processes[name].wait(LIMIT)
        example.start(name)
    for name in SENTINELS:
        with redis.Redis(HOST, example.ports[name], password=password, socket_timeout=LIMIT) as client:
            wait_until(functools.partial(answers, client))


def answers(client: "redis.Redis") -> bool:
    """Return whether a server answers; AuthenticationError if it requires another password."""
    try:
        return bool(client.ping())
    except redis.AuthenticationError:
        raise
    except redis.ConnectionError:
        return False


def polled(example: Example, since: float) -> set[str]:
    """Return the jobs that have been polled after `since` (epoch seconds)."""
    return {entry["job_id"] for entry in example.simulator.log("status") if entry["at"] > since}


@pytest.mark.parametrize("service", ["redis-replica", *SENTINELS])
def test_s40_servers_of_the_example_are_confined_like_the_one_server(service: str) -> None:
    for key in ("restart", "init", "read_only", "cap_drop", "security_opt", "networks", "image", "user"):
        assert OVERRIDE["services"][service][key] == BASE["services"]["redis"][key]
    assert "ports" not in OVERRIDE["services"][service]

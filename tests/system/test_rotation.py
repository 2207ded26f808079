"""Change the passwords of Redis over TLS by the steps of docs/redis.md: no process and no back end is ever refused."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from simulator.testing import SimulatorProcess
from tests.deployment import LIMIT, ROOT, Worker, back_end
from tests.tls import TlsProxy, certificate_file
from tests.users import ADMIN, GuardedServer, guarded_server, make_secrets

PAGE = (ROOT / "docs" / "redis.md").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Installation:
    """A server with users behind TLS, and the folders of secrets in `folder`."""

    folder: Path
    server: GuardedServer
    place: str
    upstream: str

    def make(self, name: str, **given: str) -> None:
        """Make a folder of secrets whose addresses lead over TLS."""
        ca = str(certificate_file(self.folder))
        done = make_secrets(self.folder / name, REDIS_HOST=self.place, REDIS_TLS="yes", REDIS_CA=ca, **given)
        assert done.returncode == 0, done.stderr

    def load(self, name: str) -> None:
        """Load the users of a folder into the running server."""
        rules = (self.folder / name / "redis.acl").read_text(encoding="utf-8")
        (self.folder / "redis.acl").write_text(rules + ADMIN, encoding="utf-8")
        with self.server.client("admin") as admin:
            assert admin.acl_load()

    def replace(self, name: str, file: str, text: str) -> None:
        """Replace a file of a folder at once, as a tool for secrets does."""
        new = self.folder / name / f"{file}.new"
        new.write_text(text, encoding="utf-8")
        new.replace(self.folder / name / file)

    def worker(self, name: str) -> Worker:
        """Start a worker that reads its address from a folder."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CALLWATCH_")}
        address = {"CALLWATCH_REDIS_URL_FILE": str(self.folder / name / "redis_url_worker")}
        return Worker(environment | address | {"CALLWATCH_API_BASE_URL": self.upstream}, name=re.sub(r"\W", "-", name))

    def call(self, name: str, case_id: str) -> str:
        """Send a trigger with a folder's address for producers, and return its outcome."""
        url = (self.folder / name / "redis_url_producer").read_text(encoding="utf-8").strip()
        with back_end(url) as producer:
            producer.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 0}}
            kwargs = {"case_id": case_id, "mediation_id": "20"}
            sent = producer.send_task(
                "outbound.trigger", kwargs=kwargs, queue="outbound.trigger", expires=600, retry=False
            )
            return str(sent.get(timeout=LIMIT)["outcome"])


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    with ExitStack() as stack:
        server = stack.enter_context(guarded_server(tmp_path))
        proxy = stack.enter_context(TlsProxy(server.port))
        upstream = stack.enter_context(SimulatorProcess(speed=10))
        yield Installation(tmp_path, server, f"localhost:{proxy.port}", upstream.url)


def ping(url: str) -> bool:
    with redis.Redis.from_url(url, protocol=2) as client:
        return bool(client.execute_command("LLEN", "outbound.trigger") is not None)


def test_passwords_are_changed_without_a_gap(installation: Installation) -> None:
    installation.make("old")
    installation.load("old")
    with ExitStack() as stack:
        worker = installation.worker("old")
        stack.callback(worker.close)
        users = ("worker", "flower", "metrics", "gateway", "producer")
        old = {user: (installation.folder / "old" / f"redis_url_{user}").read_text(encoding="utf-8") for user in users}
        assert installation.call("old", "C-1") == "started"

        installation.make("secrets.new", OLD_SECRETS=str(installation.folder / "old"))
        installation.load("secrets.new")
        assert installation.call("old", "C-2") == "started", "the old worker and the old back end go on"

        address = installation.folder / "secrets.new" / "redis_url_worker"
        installation.replace("old", "redis_url_worker", address.read_text(encoding="utf-8"))
        assert installation.call("old", "C-3") == "started", "the back end changes its password when it likes"
        assert installation.call("secrets.new", "C-4") == "started"

        (command,) = re.findall(r"^sed -i .*$", PAGE, flags=re.MULTILINE)
        subprocess.run(("/bin/sh", "-euc", command), cwd=installation.folder, check=True, timeout=LIMIT)
        installation.load("secrets.new")
        for user in users:
            new = (installation.folder / "secrets.new" / f"redis_url_{user}").read_text(encoding="utf-8")
            with pytest.raises(redis.AuthenticationError):
                ping(old[user])
            assert ping(new)
        with installation.server.client("admin") as admin:  # a connection outlives the password of its login
            admin.execute_command("CLIENT KILL USER worker")
        assert installation.call("secrets.new", "C-5") == "started", "the worker has read its file again"
        assert worker.stop() == 0

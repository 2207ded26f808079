"""Run a real Redis with the users of `ops/make-secrets` and try commands with their rights."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

from cli.up.embedded_redis import find_binary
from tests.deployment import LIMIT, ROOT, wait_until
from tests.ports import free_port

USERS = ("worker", "flower", "metrics", "gateway", "producer")
ADMIN = "user admin on nopass ~* &* +@all\n"


@dataclass(frozen=True, slots=True)
class GuardedServer:
    """A running server: its port and the folder of secrets."""

    port: int
    secrets: Path

    def url(self, user: str) -> str:
        """Return the address for a user; the tests' own `admin` has all rights."""
        if user == "admin":
            return f"redis://admin@127.0.0.1:{self.port}/0"
        return (self.secrets / f"redis_url_{user}").read_text(encoding="utf-8").strip()

    def client(self, user: str) -> "redis.Redis":
        """Return a client with the rights of a user."""
        return redis.Redis.from_url(self.url(user), decode_responses=True, socket_timeout=10, protocol=2)


def make_secrets(folder: Path | str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `ops/make-secrets`, as docker-compose.yml requires before the first start."""
    return subprocess.run(
        (str(ROOT / "ops" / "make-secrets"), str(folder)),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


@contextlib.contextmanager
def guarded_server(folder: Path) -> Iterator[GuardedServer]:
    """Start a server with these users on a free port and yield it."""
    port = free_port()
    done = make_secrets(folder / "secrets", REDIS_HOST=f"127.0.0.1:{port}")
    assert done.returncode == 0, done.stderr
    rules = folder / "redis.acl"
    rules.write_text((folder / "secrets" / "redis.acl").read_text(encoding="utf-8") + ADMIN, encoding="utf-8")
    place = ("--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", "")
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            (os.environ.get("GUARDED_SERVER", str(find_binary())), *place, "--aclfile", str(rules)),
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    server = GuardedServer(port, folder / "secrets")
    try:
        wait_until(lambda: process.poll() is not None or _answers(server))
        assert process.poll() is None, (folder / "server.log").read_text(encoding="utf-8")
        yield server
    finally:
        process.terminate()
        process.wait(LIMIT)


def _answers(server: GuardedServer) -> bool:
    with contextlib.suppress(redis.RedisError), server.client("admin") as client:
        return bool(client.ping())
    return False


def allowed(server: GuardedServer, user: str, attempt: Callable[["redis.Redis"], object]) -> bool:
    """Try an operation as a user on a new connection; any error other than a missing right counts as allowed."""
    with server.client(user) as client:
        try:
            attempt(client)
        except redis.exceptions.NoPermissionError:
            return False
        except redis.ResponseError:
            return True
    return True

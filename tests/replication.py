"""Run a Redis primary with replicas, and Sentinels that watch them, from the binary of the embedded server."""

import contextlib
import os
import secrets
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Literal, Self, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cli.up.embedded_redis import HOST, EmbeddedServer, find_binary
from tests.deployment import LIMIT, wait_until
from tests.ports import free_port

SERVICE = "callwatch"
"""The name under which the Sentinels know the primary."""

AppendFsync = Literal["always", "everysec", "no"]


class Member(EmbeddedServer):
    """A server of a replica set: it shares the set's password, and starts as a replica if `follows` is a port.

    With `min_replicas` a primary refuses writes while fewer replicas have acknowledged within the last second or two.
    """

    def __init__(
        self, password: str, *, follows: int | None = None, min_replicas: int = 0, appendfsync: AppendFsync = "always"
    ) -> None:
        super().__init__(appendfsync=appendfsync)
        self._password = password
        self.follows = follows
        self._min_replicas = min_replicas

    def _configuration(self) -> str:
        lines = [
            f"masterauth {self.password}",
            "repl-diskless-sync-delay 0",
            f"min-replicas-to-write {self._min_replicas}",
            "min-replicas-max-lag 2",
        ]
        if self.follows is not None:
            lines.append(f"replicaof {HOST} {self.follows}")
        return super()._configuration() + "\n".join((*lines, ""))

    def client(self) -> "redis.Redis":
        """Return a client of this server alone, without retries."""
        retry = Retry(NoBackoff(), 0)
        return redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=5, retry=retry)

    def info(self) -> dict[str, Any]:
        """Return the replication section of INFO."""
        with self.client() as client:
            return cast("dict[str, Any]", client.info("replication"))

    def follow(self, port: int | None) -> None:
        """Replicate from the server on `port`, or become a primary (None)."""
        self.follows = port
        with self.client() as client:
            client.replicaof(*(("NO", "ONE") if port is None else (HOST, str(port))))

    def is_primary(self) -> bool:
        """Tell whether the server answers and is a primary."""
        with contextlib.suppress(redis.RedisError):
            return self.alive and self.info()["role"] == "master"
        return False

    def in_sync(self) -> bool:
        """Tell whether the replica has a link to its primary and the complete data."""
        with contextlib.suppress(redis.RedisError):
            return self.alive and self.info().get("master_link_status") == "up"
        return False

    def blocked_clients(self) -> int:
        """Return the number of clients that wait for a list or a confirmation."""
        with self.client() as client:
            return int(cast("dict[str, Any]", client.info("clients"))["blocked_clients"])

    def pause(self) -> None:
        """Suspend the process."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the process."""
        os.kill(self.pid, signal.SIGCONT)


class ReplicaSet:
    """A primary and its replicas, in sync; all of them end with the `with` block."""

    def __init__(self, replicas: int = 1, *, min_replicas: int = 0, appendfsync: AppendFsync = "always") -> None:
        self.password = secrets.token_urlsafe(24)
        self.members = [
            Member(self.password, min_replicas=min_replicas, appendfsync=appendfsync) for _ in range(1 + replicas)
        ]
        self.primary = self.members[0]

    def __enter__(self) -> Self:
        try:
            self.primary.start()
            for replica in self.replicas:
                replica.follows = self.primary.port
                replica.start()
            self.wait_until_in_sync()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill every server, also a suspended one, and remove the data."""
        for member in self.members:
            member.kill()
            member.close()

    @property
    def replicas(self) -> list[Member]:
        """All members but the primary."""
        return [member for member in self.members if member is not self.primary]

    @property
    def port(self) -> int:
        """The port of the primary."""
        return self.primary.port

    def url(self, port: int) -> str:
        """Return the URL for an address on this machine that leads to a member, such as a proxy's."""
        return f"redis://:{self.password}@{HOST}:{port}/0"

    def wait_until_in_sync(self) -> None:
        """Wait until the primary accepts writes and counts every running replica as connected and up to date."""
        running = [replica for replica in self.replicas if replica.alive]

        def in_sync() -> bool:
            if not all(replica.in_sync() for replica in running):
                return False
            info = self.primary.info()
            return info["role"] == "master" and [info[f"slave{n}"]["state"] for n in range(len(running))] == [
                "online"
            ] * len(running)

        wait_until(in_sync)

    def promote(self, replica: Member) -> None:
        """Make a replica the primary, as an operator does whose primary is lost; the other running ones follow it."""
        replica.follow(None)
        self.primary = replica
        for other in self.replicas:
            if other.alive and other.info()["role"] == "slave":
                other.follow(replica.port)

    def switch_over(self) -> None:
        """Exchange the roles of the primary and its first replica without losing a write: a planned switchover."""
        old, new = self.primary, self.replicas[0]
        with old.client() as client:
            client.execute_command("FAILOVER", "TO", HOST, new.port, "TIMEOUT", 5_000)
        wait_until(new.is_primary)
        wait_until(lambda: old.info()["role"] == "slave")
        old.follows, new.follows = new.port, None
        self.primary = new

    def restart(self, member: Member) -> None:
        """Start a killed member as a replica of the primary."""
        member.follows = self.primary.port
        member.start()


class Sentinels:
    """Three Sentinels with a quorum of two; they end with the `with` block.

    A primary without an answer for `down_after` seconds is down. `password` is the Sentinels' own.
    """

    def __init__(
        self, servers: ReplicaSet, *, number: int = 3, down_after: float = 3.0, password: str | None = None
    ) -> None:
        self._servers = servers
        self._down_after = down_after
        self._password = password
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.ports = [free_port() for _ in range(number)]
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._temporary = tempfile.TemporaryDirectory(prefix="callwatch-sentinel-")
        try:
            for port in self.ports:
                self._start(port)
            wait_until(self._complete)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        if self._temporary is not None:
            self._temporary.cleanup()

    @property
    def _folder(self) -> Path:
        assert self._temporary is not None, "the Sentinels have not been started"
        return Path(self._temporary.name)

    @property
    def url(self) -> str:
        """The URL of the service for callwatch; it contains the password."""
        options = f"service={SERVICE}" + (f"&sentinel_password={self._password}" if self._password else "")
        places = ",".join(f"{HOST}:{port}" for port in self.ports)
        return f"sentinel://:{self._servers.password}@{places}/0?{options}"

    def kill(self, number: int) -> None:
        """Kill a Sentinel, the first is 0."""
        self._processes[number].kill()
        self._processes[number].wait()

    def primary(self) -> Member:
        """Return the member that the Sentinels name as the primary."""
        for port, process in zip(self.ports, self._processes, strict=True):
            if process.poll() is None:
                with self._client(port) as client:
                    found = client.sentinel_get_master_addr_by_name(SERVICE)
                return next(member for member in self._servers.members if member.port == int(found[1]))
        raise AssertionError("no Sentinel is running")

    def wait_for_failover(self, old: Member) -> None:
        """Wait until the Sentinels have promoted another member than `old`."""

        def promoted() -> bool:
            new = self.primary()
            return new is not old and new.is_primary()

        wait_until(promoted)
        self._servers.primary = self.primary()
        self._servers.primary.follows = None

    def _complete(self) -> bool:
        """Tell whether each Sentinel knows the others and every replica, so that a failover can succeed."""
        others, replicas = len(self.ports) - 1, len(self._servers.replicas)
        for port, process in zip(self.ports, self._processes, strict=True):
            assert process.poll() is None, self._log(port)
            with contextlib.suppress(redis.RedisError), self._client(port) as client:
                state = cast("dict[str, Any]", client.sentinel_master(SERVICE))
                if (int(state["num-other-sentinels"]), int(state["num-slaves"])) == (others, replicas):
                    continue
            return False
        return True

    def _start(self, port: int) -> None:
        folder = self._folder
        own = [f"requirepass {self._password}", f"sentinel sentinel-pass {self._password}"] if self._password else []
        lines = [
            f"bind {HOST}",
            f"port {port}",
            f"dir {folder}",
            *own,
            f"sentinel monitor {SERVICE} {HOST} {self._servers.port} {len(self.ports) // 2 + 1}",
            f"sentinel auth-pass {SERVICE} {self._servers.password}",
            f"sentinel down-after-milliseconds {SERVICE} {self._down_after * 1_000:.0f}",
            f"sentinel failover-timeout {SERVICE} 10000",
        ]
        file = folder / f"{port}.conf"
        file.touch(mode=0o600)
        file.write_text("\n".join((*lines, "")), encoding="utf-8")
        with (folder / f"{port}.log").open("wb") as log:
            command = (str(find_binary()), str(file), "--sentinel")
            self._processes.append(
                subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
            )

    def _client(self, port: int) -> "redis.Redis":
        return redis.Redis(HOST, port, password=self._password, decode_responses=True, socket_timeout=LIMIT)

    def _log(self, port: int) -> str:
        return (self._folder / f"{port}.log").read_text(encoding="utf-8")

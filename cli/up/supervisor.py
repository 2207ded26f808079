"""Start the processes of an installation, restart those that die, and stop all in order."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cli.up.embedded_redis import EmbeddedServer, EmbeddedServerError
from cli.up.watchdog import Watchdog

CHECK_INTERVAL = 0.2  # seconds between two checks of the processes
BACKOFF = (0.5, 1.0, 2.0, 4.0)  # seconds before the first restarts of a process; later restarts use the last value
SETTLED = 20.0  # seconds after which the back-off of a process starts again from the beginning


class Child(Protocol):
    """A process that the supervisor keeps running."""

    name: str
    stop_limit: float  # seconds between SIGTERM and SIGKILL

    @property
    def pid(self) -> int:
        """The process id of the latest start."""
        ...

    def start(self) -> None:
        """Start the process; OSError or EmbeddedServerError if that is impossible."""
        ...

    def end(self) -> str | None:
        """Return how the process ended, None while it runs."""
        ...

    def terminate(self) -> None:
        """Ask the process to end."""
        ...


@dataclass
class Program:
    """A child that runs a command in a session of its own, so that Ctrl-C reaches only the supervisor.

    Its output is appended to the file `log`; `environment` is added to the environment of this process.
    """

    name: str
    command: Sequence[str]
    log: Path
    stop_limit: float
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        """The process id of the latest start."""
        return self._running.pid

    def start(self) -> None:
        """Start the process; OSError if that is impossible."""
        self.log.touch(mode=0o600)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - known programs, without a shell
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def end(self) -> str | None:
        """Return how the process ended, None while it runs."""
        code = self._running.poll()
        if code is None:
            return None
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{how}, see {self.log}"

    def terminate(self) -> None:
        """Ask the process to end."""
        self._running.terminate()

    @property
    def _running(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None  # noqa: S101 - called only after the start
        return self._process


class ServerProcess:
    """The embedded Redis server as a child."""

    name = "Redis"
    stop_limit = 10.0

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server

    @property
    def pid(self) -> int:
        """The process id of the latest start."""
        return self._server.pid

    def start(self) -> None:
        """Start the server with its port, password and data; EmbeddedServerError if that is impossible."""
        self._server.start()

    def end(self) -> str | None:
        """Return how the process ended, None while it runs."""
        return None if self._server.alive else f"see {self._server.data_dir / 'server.log'}"

    def terminate(self) -> None:
        """Ask the process to end."""
        os.kill(self._server.pid, signal.SIGTERM)


@dataclass
class _Life:
    child: Child
    started: float = 0.0  # monotonic seconds
    deaths: int = 0
    restart_at: float | None = None


class Supervisor:
    """Keep children running until `stop`; `say` receives a line for each death and each restart."""

    def __init__(self, watchdog: Watchdog, say: Callable[[str], None]) -> None:
        self._watchdog = watchdog
        self.say = say
        self._lives: list[_Life] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def add(self, child: Child) -> None:
        """Start a child; OSError or EmbeddedServerError if that is impossible."""
        self._lives.append(self._start(_Life(child)))

    def watch(self) -> None:
        """Begin to restart children that die."""
        self._thread.start()

    def stop(self) -> None:
        """Stop all children, the workers first; kill those that take longer than their limit."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        for children in _groups([life.child for life in self._lives if life.restart_at is None]):
            for child in children:
                self._ask(child)
            for child in children:
                self._await(child)

    def kill(self) -> None:
        """Kill all children at once."""
        self._stopping.set()
        for life in reversed(self._lives):
            if life.restart_at is None:
                self._force(life.child)

    def _start(self, life: _Life) -> _Life:
        life.child.start()
        life.started, life.restart_at = time.monotonic(), None
        self._watchdog.add(life.child.pid)
        return life

    def _watch(self) -> None:
        while not self._stopping.wait(CHECK_INTERVAL):
            for life in list(self._lives):
                self._check(life, time.monotonic())

    def _check(self, life: _Life, now: float) -> None:
        if life.restart_at is not None:
            if now >= life.restart_at:
                self._restart(life)
            return
        end = life.child.end()
        if end is None:
            return
        _kill_group(life.child.pid)  # its own children must not outlive it
        self._watchdog.drop(life.child.pid)
        life.deaths = 0 if now - life.started > SETTLED else life.deaths
        self._plan(life, f"{life.child.name} ended ({end})")

    def _restart(self, life: _Life) -> None:
        try:
            self._start(life)
        except (OSError, EmbeddedServerError) as error:
            self._plan(life, f"{life.child.name} cannot be started: {error}")
        else:
            self.say(f"{life.child.name} is running again")

    def _plan(self, life: _Life, event: str) -> None:
        pause = BACKOFF[min(life.deaths, len(BACKOFF) - 1)]
        life.deaths += 1
        life.restart_at = time.monotonic() + pause
        self.say(f"{event}; restart in {pause:g} s")

    def _ask(self, child: Child) -> None:
        if child.end() is None:
            with suppress(ProcessLookupError):
                child.terminate()

    def _await(self, child: Child) -> None:
        give_up = time.monotonic() + child.stop_limit
        while child.end() is None and time.monotonic() < give_up:
            time.sleep(0.02)
        if child.end() is None:
            self.say(f"{child.name} did not end within {child.stop_limit:g} s and is killed")
        self._force(child)

    def _force(self, child: Child) -> None:
        _kill_group(child.pid)
        while child.end() is None:  # wait until it is reaped
            time.sleep(0.01)
        self._watchdog.drop(child.pid)


def _groups(children: Sequence[Child]) -> list[list[Child]]:
    """Return the children in the order of stopping: the workers first, because they need the others to finish."""
    workers = [child for child in children if child.name.endswith("worker")]
    others = [[child] for child in reversed(children) if child not in workers]
    return [workers, *others]


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)

"""Starts the processes of an installation, starts again what dies, and stops all of it in order."""

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

LOOK = 0.2  # seconds between two looks at the processes
BACKOFF = (0.5, 1.0, 2.0, 4.0)  # seconds before a process is started again, then the last one again and again
SETTLED = 20.0  # seconds after which a process counts as having started well


class Child(Protocol):
    """A process that is kept running."""

    name: str
    stop_limit: float  # seconds that it has to end in order

    @property
    def pid(self) -> int:
        """The process id of the latest start."""
        ...

    def start(self) -> None:
        """Start it; OSError or EmbeddedServerError where that is impossible."""
        ...

    def end(self) -> str | None:
        """Return how it ended, None while it runs."""
        ...

    def terminate(self) -> None:
        """Ask it to end."""
        ...


@dataclass
class Program:
    """A child that is a command line: a session of its own, so that Ctrl-C reaches only the supervisor.

    Its output is appended to the file `log`; `environment` is added to this process's own.
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
        """Start it; OSError where that is impossible."""
        self.log.touch(mode=0o600)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own programs and no shell
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def end(self) -> str | None:
        """Return how it ended, None while it runs."""
        code = self._running.poll()
        if code is None:
            return None
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{how}, see {self.log}"

    def terminate(self) -> None:
        """Ask it to end."""
        self._running.terminate()

    @property
    def _running(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None  # noqa: S101 - nobody asks before the start
        return self._process


class ServerProcess:
    """The embedded server as a child."""

    name = "Redis"
    stop_limit = 10.0

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server

    @property
    def pid(self) -> int:
        """The process id of the latest start."""
        return self._server.pid

    def start(self) -> None:
        """Start it on its port, with its password and data; EmbeddedServerError where that is impossible."""
        self._server.start()

    def end(self) -> str | None:
        """Return how it ended, None while it runs."""
        return None if self._server.alive else f"see {self._server.data_dir / 'server.log'}"

    def terminate(self) -> None:
        """Ask it to end."""
        os.kill(self._server.pid, signal.SIGTERM)


@dataclass
class _Life:
    child: Child
    started: float = 0.0  # monotonic seconds
    deaths: int = 0
    restart_at: float | None = None


class Supervisor:
    """Keeps children running until `stop`; `say` gets a line for each one that died and was started again."""

    def __init__(self, guard: Watchdog, say: Callable[[str], None]) -> None:
        self._guard = guard
        self.say = say
        self._lives: list[_Life] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def add(self, child: Child) -> None:
        """Start a child; OSError or EmbeddedServerError where that is impossible."""
        self._lives.append(self._start(_Life(child)))

    def watch(self) -> None:
        """Begin to start again what dies."""
        self._thread.start()

    def stop(self) -> None:
        """Ask all to end, the workers first, and end by force what takes longer than its limit."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        for children in _groups([life.child for life in self._lives if life.restart_at is None]):
            for child in children:
                self._ask(child)
            for child in children:
                self._await(child)

    def kill(self) -> None:
        """End all children at once."""
        self._stopping.set()
        for life in reversed(self._lives):
            if life.restart_at is None:
                self._force(life.child)

    def _start(self, life: _Life) -> _Life:
        life.child.start()
        life.started, life.restart_at = time.monotonic(), None
        self._guard.add(life.child.pid)
        return life

    def _watch(self) -> None:
        while not self._stopping.wait(LOOK):
            for life in list(self._lives):
                self._look(life, time.monotonic())

    def _look(self, life: _Life, now: float) -> None:
        if life.restart_at is not None:
            if now >= life.restart_at:
                self._restart(life)
            return
        end = life.child.end()
        if end is None:
            return
        _kill_group(life.child.pid)  # what its children were doing is started anew with it
        self._guard.drop(life.child.pid)
        life.deaths = 0 if now - life.started > SETTLED else life.deaths
        self._plan(life, f"{life.child.name} ended ({end})")

    def _restart(self, life: _Life) -> None:
        try:
            self._start(life)
        except (OSError, EmbeddedServerError) as error:
            self._plan(life, f"{life.child.name} cannot be started: {error}")
        else:
            self.say(f"{life.child.name} runs again")

    def _plan(self, life: _Life, what: str) -> None:
        pause = BACKOFF[min(life.deaths, len(BACKOFF) - 1)]
        life.deaths += 1
        life.restart_at = time.monotonic() + pause
        self.say(f"{what}; started again in {pause:g} s")

    def _ask(self, child: Child) -> None:
        if child.end() is None:
            with suppress(ProcessLookupError):
                child.terminate()

    def _await(self, child: Child) -> None:
        give_up = time.monotonic() + child.stop_limit
        while child.end() is None and time.monotonic() < give_up:
            time.sleep(0.02)
        if child.end() is None:
            self.say(f"{child.name} did not end within {child.stop_limit:g} s and is ended by force")
        self._force(child)

    def _force(self, child: Child) -> None:
        _kill_group(child.pid)
        while child.end() is None:  # reaped, so that nothing of it is left
            time.sleep(0.01)
        self._guard.drop(child.pid)


def _groups(children: Sequence[Child]) -> list[list[Child]]:
    """Return what is stopped together, first the workers: they need all the others to finish what they are at."""
    workers = [child for child in children if child.name.endswith("worker")]
    others = [[child] for child in reversed(children) if child not in workers]
    return [workers, *others]


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)

"""The supervisor restarts dead processes, stops all in order, and leaves no process behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cli.signals import Signals
from cli.up.embedded_redis import EmbeddedServer
from cli.up.supervisor import Program, ServerProcess, Supervisor
from cli.up.watchdog import Watchdog
from tests.deployment import LIMIT, ROOT, wait_until

SLEEPER = "import signal; signal.pause()"
OBEDIENT = (
    "import signal, sys; signal.signal(15, lambda *_: (print('{name}', flush=True), sys.exit()));"
    "print('ready', flush=True); signal.pause()"
)
DEAF = "import signal; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
PARENT = (
    "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']);"
    "print('born', flush=True); sys.stdin.read(); import signal; signal.pause()"
)


class Bench:
    """A supervisor of small programs, with its messages."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.said: list[str] = []
        self.watchdog = Watchdog()
        self.supervisor = Supervisor(self.watchdog, self.said.append)
        self.pids: set[int] = set()

    def program(self, name: str, code: str, *, stop_limit: float = LIMIT) -> Program:
        program = Program(name, (sys.executable, "-S", "-c", code.format(name=name)), self.log, stop_limit)
        self.supervisor.add(program)
        self.pids.add(program.pid)
        return program

    def log_lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def close(self) -> None:
        self.supervisor.kill()
        self.watchdog.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def test_dead_process_is_restarted_and_reported(bench: Bench) -> None:
    program = bench.program("poll worker", SLEEPER)
    other = bench.program("Flower", SLEEPER)
    bench.supervisor.watch()
    first = program.pid
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: "poll worker is running again" in bench.said, limit=5)
    assert bench.said[0] == f"poll worker ended (killed by SIGKILL, see {bench.log}); restart in 0.5 s"
    assert program.pid != first
    assert program.end() is None
    assert other.end() is None


def test_repeated_deaths_are_restarted_with_back_off(bench: Bench) -> None:
    bench.program("poll worker", "raise SystemExit(3)")
    bench.supervisor.watch()
    wait_until(lambda: sum("exit code 3" in line for line in bench.said) == 3)
    assert [line.rpartition(" in ")[2] for line in bench.said if "exit code 3" in line] == ["0.5 s", "1 s", "2 s"]


def test_dead_server_is_restarted_with_its_data(tmp_path: Path, bench: Bench) -> None:
    embedded = EmbeddedServer(data_dir=tmp_path / "redis", appendfsync="always")
    server = ServerProcess(embedded)
    bench.supervisor.add(server)
    bench.supervisor.watch()
    first = server.pid
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: "Redis is running again" in bench.said)
    assert server.pid != first
    bench.supervisor.stop()
    assert not embedded.alive


def test_workers_stop_first_then_the_others_in_reverse_order(bench: Bench) -> None:
    for name in ("Redis", "simulator", "trigger worker", "Flower"):
        bench.program(name, OBEDIENT)
    wait_until(lambda: bench.log_lines().count("ready") == 4)
    bench.supervisor.watch()
    bench.supervisor.stop()
    assert bench.log_lines()[4:] == ["trigger worker", "Flower", "simulator", "Redis"]
    assert not [pid for pid in bench.pids if psutil.pid_exists(pid)]
    assert bench.said == []


def test_process_that_ignores_sigterm_is_killed(bench: Bench) -> None:
    program = bench.program("trigger worker", DEAF, stop_limit=0.1)
    wait_until(lambda: bench.log_lines() == ["deaf"])
    bench.supervisor.stop()
    assert program.end() == f"killed by SIGKILL, see {bench.log}"
    assert bench.said == ["trigger worker did not end within 0.1 s and is killed"]


def test_children_of_a_dead_worker_are_killed(bench: Bench) -> None:
    program = bench.program("poll worker", PARENT)
    wait_until(lambda: bench.log_lines() == ["born"])
    (grandchild,) = psutil.Process(program.pid).children()
    bench.supervisor.watch()
    os.kill(program.pid, signal.SIGKILL)
    psutil.wait_procs([grandchild], timeout=LIMIT)
    assert not grandchild.is_running()


@pytest.mark.parametrize("code", [SLEEPER, DEAF])
def test_watchdog_ends_the_processes_of_a_killed_owner(code: str) -> None:
    owner = (
        "import os, subprocess, sys; from cli.up.watchdog import Watchdog; watchdog = Watchdog();"
        f"child = subprocess.Popen([sys.executable, '-S', '-c', {code!r}], start_new_session=True);"
        "watchdog.add(child.pid); print(child.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    command = (sys.executable, "-c", owner)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        out, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == -signal.SIGKILL
    (pid,) = filter(str.isdigit, out.split())  # the child prints to the same pipe
    wait_until(lambda: gone(int(pid)))


def gone(pid: int) -> bool:
    """Return whether a process has ended; without a reaper of orphans it stays as a zombie."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def test_watchdog_spares_process_groups_that_have_ended() -> None:
    watchdog = Watchdog()
    command = (sys.executable, "-S", "-c", SLEEPER)
    with subprocess.Popen(command, start_new_session=True) as process:
        watchdog.add(process.pid)
        watchdog.drop(process.pid)
        watchdog.close()
        assert process.poll() is None
        process.kill()


def test_first_signal_stops_and_second_signal_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    with Signals() as signals:
        assert not signals.wait(0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.wait(LIMIT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert not signals.insisted, "an echo of the first one, as make passes it on"
        monkeypatch.setattr("cli.signals.ECHO", 0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.insisted

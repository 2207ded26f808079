"""Test addresses of wrong servers: a command names the kind of server and the variable in one line."""

import contextlib
import http.server
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import redis

from cli.main import main
from cli.up.embedded_redis import EmbeddedServer, _free_port, find_binary
from tests.deployment import LIMIT, ROOT, wait_until
from tests.oneline import SECRET, Wrong

STATUS, TRIGGER, PAUSE = ("status",), ("trigger", "C-1", "20"), ("pause", "--why", "a test", "--by", "tests")
SET = "set CALLWATCH_REDIS_URL"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("CALLWATCH_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def process_on(port: int) -> int | None:
    """Return the process id of the Redis on a port, None if none answers."""
    with contextlib.suppress(redis.RedisError), redis.Redis(port=port) as client:
        return int(client.info("server")["process_id"])
    return None


class Web(http.server.BaseHTTPRequestHandler):
    """An HTTP server that logs nothing and knows no method."""

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def server(folder: Path, *options: str, file: str = "") -> Iterator[int]:
    """Run the embedded server's program with other options; yield its port."""
    with contextlib.ExitStack() as stack:
        while True:  # another program may take the port meanwhile
            port = _free_port()
            command = (str(find_binary()), *filter(None, (file,)), "--port", str(port), "--dir", str(folder), *options)
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL))
            stack.callback(process.terminate)
            wait_until(lambda: process.poll() is not None or process_on(port) == process.pid)  # noqa: B023 - at once
            if process.poll() is None:
                break
        yield port


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedServer) -> Iterator[Mapping[str, str]]:
    """The addresses of wrong servers, and wrong addresses of a right one."""
    folders = [tmp_path_factory.mktemp("server") for _ in range(3)]
    (folders[2] / "sentinel.conf").touch()
    place = f"127.0.0.1:{redis_server.port}"
    with (
        contextlib.ExitStack() as stack,
        socket.create_server(("127.0.0.1", 0)) as silent,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web) as web,
        redis.Redis.from_url(redis_server.url) as client,
    ):
        threading.Thread(target=web.serve_forever, daemon=True).start()
        stack.callback(web.shutdown)
        client.acl_setuser("few", enabled=True, passwords=[f"+{SECRET}"], commands=["+ping"])
        stack.callback(client.acl_deluser, "few")
        cluster = stack.enter_context(server(folders[0], "--cluster-enabled", "yes"))
        replica = stack.enter_context(server(folders[1], "--replicaof", "127.0.0.1 1"))
        sentinel = stack.enter_context(server(folders[2], "--sentinel", file=str(folders[2] / "sentinel.conf")))
        yield {
            "closed": f"redis://:{SECRET}@127.0.0.1:1/0",
            "silent": f"redis://127.0.0.1:{silent.getsockname()[1]}/0",
            "no host": "redis://nowhere.invalid/0",
            "no socket": "unix:///nonexistent/redis.sock",
            "web": f"redis://:{SECRET}@127.0.0.1:{web.server_port}/0",
            "other password": f"redis://:{SECRET}@{place}/0",
            "no password": f"redis://{place}/0",
            "no user": f"redis://unknown:{SECRET}@{place}/0",
            "few rights": f"redis://few:{SECRET}@{place}/0",
            "no database": redis_server.url.removesuffix("/0") + "/99",
            "cluster": f"redis://127.0.0.1:{cluster}/0",
            "replica": f"redis://127.0.0.1:{replica}/0",
            "sentinel": f"redis://127.0.0.1:{sentinel}/0",
            "good": redis_server.url,
        }


@pytest.mark.parametrize(
    ("address", "arguments", "field", "right"),
    [
        ("closed", STATUS, "does not answer: connection refused", SET),
        ("closed", PAUSE, "does not answer: connection refused", SET),
        ("silent", STATUS, "does not answer: no answer in time", SET),
        ("no host", STATUS, "does not answer: ", SET),
        ("no socket", STATUS, "does not answer: no such file or directory", SET),
        (
            "web",
            STATUS,
            "is no Redis: another program answers on this port",
            "Set CALLWATCH_REDIS_URL with the address of Redis",
        ),
        ("other password", STATUS, "requires another password", "Set CALLWATCH_REDIS_URL with the right one"),
        ("no password", STATUS, "requires another password", "Set CALLWATCH_REDIS_URL with the right one"),
        ("no user", STATUS, "requires another password", "Set CALLWATCH_REDIS_URL with the right one"),
        ("few rights", STATUS, "refuses a command to the user", "with a user that has the rights of this process"),
        ("no database", STATUS, "has no database of this number", "with a lower one; a server has 0 to 15"),
        ("cluster", STATUS, "belongs to a Redis Cluster", "Set CALLWATCH_REDIS_URL with a single server"),
        ("replica", PAUSE, "is a replica, which takes no writes", "Set CALLWATCH_REDIS_URL with its primary"),
        ("sentinel", STATUS, "it is a Sentinel or an old server", "with a Redis of version 6.2 or newer"),
        ("sentinel", PAUSE, "it is a Sentinel or an old server", "with a Redis of version 6.2 or newer"),
    ],
)
def test_wrong_server_is_one_line_with_its_kind(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    servers: Mapping[str, str],
    address: str,
    arguments: tuple[str, ...],
    field: str,
    right: str,
) -> None:
    monkeypatch.setattr("cli.connect.CONNECT_LIMIT", 0.2 if address == "silent" else LIMIT)
    monkeypatch.setenv("CALLWATCH_REDIS_URL", servers[address])
    code = main(arguments)
    shown = capsys.readouterr()
    Wrong(1, field, right).judge(code, shown.err)
    assert shown.out == ""


@pytest.mark.parametrize(
    ("address", "right"),
    [
        ("cluster", "it belongs to a Redis Cluster, which callwatch cannot use"),
        ("replica", "it is a replica, which takes no writes"),
    ],
)
def test_trigger_for_a_wrong_broker_is_one_line(servers: Mapping[str, str], address: str, right: str) -> None:
    """In a process of its own: the application takes its broker once."""
    environment = os.environ | {"CALLWATCH_REDIS_URL": servers[address], "PYTHONPATH": str(ROOT)}
    command = (sys.executable, "-m", "cli.main", *TRIGGER)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
    Wrong(1, "the broker did not take the trigger", right).judge(done.returncode, done.stderr)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("variable", "arguments", "code", "field", "right"),
    [
        ("BROKER_URL", TRIGGER, 1, "connection refused", "set CALLWATCH_BROKER_URL"),
        ("RESULT_URL", TRIGGER, 1, "connection refused", "set CALLWATCH_RESULT_URL"),
        ("API_TOKEN", ("conversation", "1-x"), 2, "CALLWATCH_API_BASE_URL: missing", "like http://127.0.0.1:9015"),
        ("API_TOKEN", ("status", "--job", "1-x"), 1, "1-x", "finished calls are kept for"),
        ("API_TOKEN", ("history", "C-404"), 1, "C-404", "CALLWATCH_HISTORY_TTL"),
    ],
)
def test_missing_part_or_record_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    servers: Mapping[str, str],
    variable: str,
    arguments: tuple[str, ...],
    code: int,
    field: str,
    right: str,
) -> None:
    monkeypatch.setenv("CALLWATCH_REDIS_URL", servers["good"])
    monkeypatch.setenv(f"CALLWATCH_{variable}", servers["closed"] if variable.endswith("URL") else SECRET)
    Wrong(code, field, right).judge(main(arguments), capsys.readouterr().err)

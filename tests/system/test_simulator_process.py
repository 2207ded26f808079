"""The simulated upstream as a process: its token, its signals, a restart after a kill, failed starts."""

import http.client
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE

import pytest

from simulator.main import allow_connections
from simulator.testing import SimulatorProcess

STATUS = "/api/v1/outbound-bot/status"


def ask(port: int, path: str = STATUS) -> socket.socket:
    """Send one request and return its open connection, the answer unread."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: sim\r\n\r\n".encode())
    return connection


@pytest.mark.parametrize("path", [STATUS, "/_sim", "/_sim/nothing"])
def test_every_request_needs_the_configured_token_s40(path: str) -> None:
    with SimulatorProcess(token="open" + "-sesame") as sim:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}):
            connection = http.client.HTTPConnection("127.0.0.1", sim.port, timeout=30)
            connection.request("GET", path, headers=headers)
            assert connection.getresponse().status == 401
            connection.close()
        assert sim.dial("G1")["code"] == 201


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_it_cleanly_with_a_complete_log(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "log.jsonl"
    command = [sys.executable, "-m", "cli.main", "simulate", "--port", "0", "--log", str(log)]
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True) as running:
        assert running.stdout
        assert running.stderr
        line = running.stdout.readline()
        base = re.fullmatch(r"simulated upstream: http://127\.0\.0\.1:(\d+)\n", line)
        assert base
        probe = SimulatorProcess(log_path=log, port=int(base[1]))
        assert probe.status(caseRef="G2")["code"] == 200
        probe.fault("hang")
        with ask(probe.port):
            probe.wait(lambda: len(probe.log()) == 2)
            running.send_signal(number)
            assert running.wait(30) == 0
        assert running.stderr.read() == ""
    assert [entry["ended"] for entry in probe.log()] == ["answered", "stopped"]


def test_restart_after_a_kill_keeps_port_and_log() -> None:
    with SimulatorProcess() as sim:
        sim.dial("H1")
        port = sim.port
        sim.kill()
        assert sim.calls_per_pair() == {("H1", "1"): 1}
        sim.start()
        assert sim.port == port
        sim.dial("H1")
        assert sim.calls_per_pair() == {("H1", "1"): 2}


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--port", "0", "--speed", "0"], 2, "--speed"),
        (["--port", "{taken}"], 1, "cannot be used: address already in use"),
        (["--port", "0", "--log", "/nonexistent/log.jsonl"], 1, "--log: /nonexistent/log.jsonl cannot be written"),
    ],
)
def test_failed_start_is_reported_in_one_line(arguments: list[str], code: int, text: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        filled = [argument.replace("{taken}", str(taken)) for argument in arguments]
        command = [sys.executable, "-m", "cli.main", "simulate", *filled]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert text in done.stderr.splitlines()[-1]


def test_five_hundred_hanging_requests_do_not_block_the_next() -> None:
    allow_connections(4096)
    with SimulatorProcess() as sim, ExitStack() as stack:
        sim.fault("hang", "status", case_id="E1")
        for _ in range(500):
            stack.enter_context(ask(sim.port, f"{STATUS}?caseRef=E1"))
        sim.wait(lambda: sum(entry["case_id"] == "E1" for entry in sim.log()) == 500)
        assert sim.status(caseRef="E2")["code"] == 200
        stack.close()
        sim.wait(lambda: all(entry["ended"] for entry in sim.log()))

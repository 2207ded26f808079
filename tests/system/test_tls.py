"""Redis over TLS: a case is called over it, and each fault of TLS is one line with the remedy, in every process."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cli.doctor import doctor
from cli.main import main
from cli.up.embedded_redis import EmbeddedServer
from tests.deployment import LIMIT, ROOT, Deployment, back_end, wait_until
from tests.ports import free_port
from tests.tls import Kind, TlsProxy, certificate_file, key_file, refusing_server

CA = "ssl_ca_certs"


@pytest.fixture
def serve(redis_server: EmbeddedServer) -> Iterator[Callable[..., int]]:
    """Return a function that serves the shared Redis over TLS and returns the port."""
    with ExitStack() as stack:

        def start(kind: Kind = "sound", *, asks: bool = False) -> int:
            return stack.enter_context(TlsProxy(redis_server.port, kind, asks=asks)).port

        yield start


@pytest.fixture
def refusing_port() -> Iterator[int]:
    with refusing_server() as port:
        yield port


def address(server: EmbeddedServer, port: int, options: str = "", *, scheme: str = "rediss") -> str:
    return f"{scheme}://default:{server.password}@localhost:{port}/0{options}"


FAULTS = {
    "unknown authority": (
        "signed by an authority that this machine does not know. Name the file with that authority's certificate by the"
        " option ssl_ca_certs of CALLWATCH_REDIS_URL."
    ),
    "expired": "TLS: the certificate of the server has expired. Renew it; if it is new, correct this machine's clock.",
    "early": "TLS: the certificate of the server is not valid yet. Correct the clock of this machine or of its issuer.",
    "other name": (
        "TLS: the certificate of the server is for another host name. Use a host name of the certificate in"
        " CALLWATCH_REDIS_URL, or give the server a certificate for this one."
    ),
    "client without certificate": (
        "TLS: the server requires a certificate of this client. Add ssl_certfile and ssl_keyfile to"
        " CALLWATCH_REDIS_URL."
    ),
    "plain client": "TLS: the server speaks TLS on this port. Begin CALLWATCH_REDIS_URL with rediss://.",
    "plain server": (
        "TLS: the server speaks no TLS on this port. Use its TLS port, or begin CALLWATCH_REDIS_URL with redis:// where"
        " the connection may be unencrypted."
    ),
}


@pytest.fixture(params=FAULTS)
def faulty(
    request: pytest.FixtureRequest,
    serve: Callable[..., int],
    redis_server: EmbeddedServer,
    refusing_port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """Set the address of a Redis with a fault of TLS; return the end of the line about it."""
    monkeypatch.chdir(tmp_path)
    kinds: dict[str, Kind] = {"expired": "expired", "early": "early", "other name": "other name"}
    kind = kinds.get(request.param, "sound")
    trusted = f"?{CA}={certificate_file(tmp_path, kind)}"
    url = {
        "unknown authority": lambda: address(redis_server, serve()),
        "client without certificate": lambda: address(redis_server, refusing_port, trusted),
        "plain client": lambda: address(redis_server, serve(), scheme="redis"),
        "plain server": lambda: address(redis_server, redis_server.port, trusted),
    }.get(request.param, lambda: address(redis_server, serve(kind), trusted))()
    monkeypatch.setenv("CALLWATCH_REDIS_URL", url)
    monkeypatch.setenv("CALLWATCH_API_BASE_URL", "http://127.0.0.1:1")
    return FAULTS[request.param]


def test_doctor_and_commands_name_the_fault_and_the_remedy(
    faulty: str, redis_server: EmbeddedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(as_json=False) == 1
    failed = [one for one in capsys.readouterr().out.splitlines() if one.startswith("FAIL redis: ")]
    assert len(failed) == 1
    assert failed[0].endswith(faulty)
    assert main(["status"]) == 1
    error = capsys.readouterr().err
    assert error.endswith(faulty + "\n")
    assert error.count("\n") == 1
    assert redis_server.password not in error + failed[0]


PROCESSES = {
    "worker": ("celery", "-A", "worker.app", "worker"),
    "gateway": ("gateway", "--port"),
    "metrics": ("cli.main", "metrics", "--port"),
    "flower": ("cli.main", "flower", "--port"),
}


@pytest.mark.parametrize("process", PROCESSES)
def test_each_process_logs_the_fault_at_its_start(
    faulty: str, redis_server: EmbeddedServer, process: str, tmp_path: Path
) -> None:
    log, port = tmp_path / "log", () if process == "worker" else (str(free_port()),)
    with log.open("wb") as output:
        running = subprocess.Popen(
            (sys.executable, "-m", *PROCESSES[process], *port),
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "CALLWATCH_LOG_FORMAT": "text", "CALLWATCH_FLOWER_AUTH": "one:password"},
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(lambda: faulty in log.read_text(encoding="utf-8"))
        assert running.poll() is None, "it retries until the fault is removed"
        assert redis_server.password not in log.read_text(encoding="utf-8")
    finally:
        running.kill()
        running.wait(LIMIT)


def test_a_case_is_called_and_watched_over_tls(
    serve: Callable[..., int], redis_server: EmbeddedServer, tmp_path: Path
) -> None:
    """With a certificate of each side, for every client: store, broker, results, the gateway and a plain producer."""
    folder = certificate_file(tmp_path).parent
    options = f"?{CA}={folder}/sound.pem&ssl_certfile={folder}/sound.pem&ssl_keyfile={key_file(folder)}"
    url = address(redis_server, serve(asks=True), options)
    with Deployment(url, speed=20, poll_interval=0.5, key_prefix="tls") as deployment:
        deployment.worker()
        with back_end(f"{url}&ssl_cert_reqs=required") as producer:
            kwargs = {"case_id": "C-tls", "mediation_id": "20"}
            sent = producer.send_task("outbound.trigger", kwargs=kwargs, queue="outbound.trigger", expires=600)
            assert sent.get(timeout=LIMIT)["outcome"] == "started"

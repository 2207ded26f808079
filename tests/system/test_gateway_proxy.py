"""Test the gateway behind Debian's nginx with the unchanged snippet of docs/http.md: buffering is on."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployment import LIMIT, ROOT, wait_until
from tests.gatewayprocess import Gateway, environment
from tests.pages import blocks
from tests.pairs import bring_to
from worker.core.model import Pair
from worker.store import RedisStore

(SNIPPET,) = blocks((ROOT / "docs" / "http.md").read_text(encoding="utf-8"), "nginx")
HOST = "calls.example"
CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        {snippet}
    }}
}}
"""


@pytest.fixture
def nginx() -> str:
    """Return the path of nginx; CI must have it."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("nginx is not installed, and CI must test the snippet of docs/http.md")
        pytest.skip("nginx is not installed: apt-get install nginx")
    return found


@pytest.fixture
def gateway(redis_url: str) -> Iterator[Gateway]:
    settings = environment(redis_url, gateway_url_prefix="calls", gateway_hosts=HOST)
    with Gateway(settings) as gateway:
        yield gateway


@pytest.fixture(params=["as documented", "with HTTP/1.0"])
def snippet(request: pytest.FixtureRequest) -> str:
    """Return the snippet, with and without its HTTP version: over HTTP/1.0 nginx buffers unless a header forbids it."""
    return SNIPPET if request.param == "as documented" else SNIPPET.replace("proxy_http_version 1.1;", "")


@pytest.fixture
def proxy(nginx: str, gateway: Gateway, tmp_path: Path, snippet: str) -> Iterator[int]:
    """Run nginx in front of the gateway and yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "127.0.0.1:8080" in snippet
    snippet = snippet.replace("127.0.0.1:8080", f"127.0.0.1:{gateway.port}")
    file = tmp_path / "nginx.conf"
    file.write_text(CONFIGURATION.format(folder=tmp_path, port=port, snippet=snippet), encoding="utf-8")
    process = subprocess.Popen((nginx, "-e", "stderr", "-p", tmp_path, "-c", file))
    try:
        wait_until(lambda: process.poll() is not None or is_open(port))
        assert process.poll() is None, "nginx rejects the snippet"
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(LIMIT)


def is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def test_s42_trigger_passes_the_proxy_and_its_location_works_through_it(gateway: Gateway, proxy: int) -> None:
    headers = {"Authorization": f"Bearer {gateway.key}", "Content-Type": "application/json", "Host": HOST}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy, timeout=LIMIT)) as connection:
        body = json.dumps({"case_id": "C-1", "mediation_id": 20})
        connection.request("POST", "/calls/v1/triggers", body, headers | {"Idempotency-Key": "k-1"})
        answer = connection.getresponse()
        answer.read()
        place = answer.headers["Location"]
        assert (answer.status, place[:19]) == (202, "/calls/v1/triggers/")
        connection.request("GET", place, headers=headers)
        assert json.loads(connection.getresponse().read())["state"] == "queued"
        connection.request("GET", "/calls/nowhere", headers=headers)
        problem = json.loads(connection.getresponse().read())
        connection.request("GET", problem["type"], headers=headers)
        assert connection.getresponse().status == 200, "the page that explains the problem"


def test_s32_events_pass_a_buffering_proxy_within_a_second(gateway: Gateway, proxy: int, store: RedisStore) -> None:
    """nginx buffers by default; the gateway's header turns that off for streams."""
    with gateway.follow("C-1", port=proxy, prefix="/calls", Host=HOST) as page:
        assert (page.status, page.response.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
        page.wait(lambda _: page.events, limit=10)
        for number in range(3):
            begin = time.monotonic()
            bring_to(store, "watching", Pair("C-1", str(number)), f"job-{number}")
            page.wait(lambda shown, job=f"job-{number}": job in shown.calls, limit=10)  # type: ignore[misc]
            assert time.monotonic() - begin < 5, "at once; the bound allows for a busy machine"

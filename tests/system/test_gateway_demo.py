"""Test when the demonstration's page is served, and the refusals of its back end."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import FastAPI

from cli.up.embedded_redis import EmbeddedServer
from config.settings import Settings
from gateway.process import add_pages
from tests.gatewayprocess import Gateway, environment

LOAD = {"case_id": "C-4001", "scene": "talk"}


class RealUpstream(BaseHTTPRequestHandler):
    """Upstream without the simulator's scripts that responds to every request with a generic success."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"code": 200, "message": "success", "data": []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def gateway(redis_server: EmbeddedServer) -> Iterator[Gateway]:
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), RealUpstream)
    threading.Thread(target=upstream.serve_forever, args=(0.05,), daemon=True).start()
    url = f"http://127.0.0.1:{upstream.server_address[1]}"
    settings = environment(redis_server.url, key_prefix="gateway-demo", demo=True, api_base_url=url)
    with Gateway(settings) as gateway:
        yield gateway
    upstream.shutdown()
    upstream.server_close()


def test_demo_page_has_a_strict_content_security_policy(gateway: Gateway) -> None:
    answer = gateway.get("/demo", key="")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
    assert b"<style" not in answer.body
    assert b"<script>" not in answer.body
    for name in ("demo.js", "demo.css"):
        assert gateway.get(f"/demo/{name}", key="").status == 200
    assert gateway.get("/demo/demo.py", key="").problem == "not-found"


def test_upstream_that_is_no_simulator_is_not_dialled(gateway: Gateway) -> None:
    """S40: with a real upstream configured by mistake, no trigger reaches the queue."""
    assert gateway.post("/demo/load", LOAD, key="").status == 502
    assert gateway.get("/v1/cases/C-4001").json["cases"][0]["pairs"] == []


def test_cross_site_requests_cannot_load_a_case(gateway: Gateway) -> None:
    refused = gateway.post("/demo/load", LOAD, key="", Sec_Fetch_Site="cross-site")
    assert refused.problem == "insufficient-scope"
    assert gateway.post("/demo/load", LOAD, key="", Content_Type="text/plain").problem == "json-only"


@pytest.mark.parametrize("document", [{**LOAD, "scene": "x"}, {**LOAD, "case_id": "C-1"}, {"scene": "talk"}])
def test_unknown_cases_and_scenes_are_refused(gateway: Gateway, document: Any) -> None:
    assert gateway.post("/demo/load", document, key="").problem == "malformed"


def test_demo_tokens_cover_made_up_cases_only(gateway: Gateway) -> None:
    assert gateway.get("/demo/token?case=C-1001", key="").problem == "other-case"
    token = gateway.get("/demo/token?case=C-4001", key="").body.decode()
    assert gateway.get("/v1/cases/C-4001", key=token).status == 200
    assert gateway.get("/v1/cases/C-4002", key=token).problem == "other-case"


@pytest.mark.parametrize(
    ("demo", "alone"), [(False, True), (True, False)], ids=["demo mode off", "reachable from other hosts"]
)
def test_demo_routes_need_demo_mode_and_a_loopback_address(demo: bool, alone: bool) -> None:
    settings = Settings(demo=demo, api_base_url="http://127.0.0.1:1")
    app = FastAPI()
    gateway = cast("Any", SimpleNamespace(entrance=SimpleNamespace(prefix=""), open_metrics=alone))
    add_pages(settings, gateway, app)
    assert [route for route in app.routes if getattr(route, "path", "").startswith("/demo")] == []

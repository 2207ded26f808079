"""Serve pages of another origin that embed the widget under a strict policy, and a back end that mints tokens."""

import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, urlsplit

from gateway.identity import Tokens
from tests.gatewayprocess import SECRET

PAGE = """<!doctype html>
<html lang="zh-CN"><head><meta charset="utf-8"><title>案件</title><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width">
<script type="module" src="{gateway}/callwatch-calls.js"></script><script src="/host.js"></script>
<link rel="stylesheet" href="/host.css"></head>
<body><main><h1>案件</h1><p><button type="button">保存</button></p></main>
{element}
</body></html>
"""


class HostPages:
    """HTTP server for the added pages, `/token?case=C-1` and the policy reports of `/csp`."""

    def __init__(self) -> None:
        self.gateway = ""  # URL from which the pages load the widget
        self.pages: dict[str, str] = {}
        self.forget()

    def forget(self) -> None:
        """Reset scripts, styles, reports and tokens for the next test."""
        self.script, self.style = "", ""
        self.reports: list[str] = []
        self.tokens: list[list[str]] = []
        self.token_lives = 900
        self.token_status = 200

    def __enter__(self) -> Self:
        pages = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                pages.answer(self)

            def do_POST(self) -> None:
                pages.reports.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """Ignore the error: a closed page no longer reads its response."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def policy(self) -> str:
        """The content security policy of a careful host: its own files, the gateway's module, nothing inline."""
        return (
            f"default-src 'none'; script-src 'self' {self.gateway}; connect-src 'self' {self.gateway}; "
            "style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; "
            "trusted-types 'none'; report-uri /csp"
        )

    def show(self, element: str) -> str:
        """Add a page and return its path."""
        path = f"/{secrets.token_hex(4)}"
        self.pages[path] = PAGE.format(gateway=self.gateway, element=element)
        return path

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        place = urlsplit(request.path)
        status, kind, text = 200, "text/html", self.pages.get(place.path)
        if place.path == "/token":
            cases = parse_qs(place.query)["case"]
            self.tokens.append(cases)
            status, kind, text = self.token_status, "text/plain", self.mint(cases)
        elif place.path in ("/host.js", "/host.css"):
            kind, text = ("text/javascript", self.script) if place.path.endswith("js") else ("text/css", self.style)
        body = (text or "").encode()
        request.send_response(status if text is not None else 404)
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
        }
        for name, value in {**headers, "Content-Security-Policy": self.policy}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    def mint(self, cases: list[str]) -> str:
        now, subject = time.time(), secrets.token_hex(8)
        return Tokens(SECRET).mint("tests", cases, subject, now=now, lives=self.token_lives)[0]

"""Serve the widget's modules under versioned, immutable URLs, and the entry module that imports them."""

import functools
import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.problems import Problem

FOLDER = Path(__file__).parent / "static"
ENTRY = "callwatch-calls.js"
FOR_A_YEAR = "public, max-age=31536000, immutable"
# Any origin may load the code: it contains no data, and it shows nothing without a token.
SHARED = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}


@dataclass(frozen=True, slots=True)
class Asset:
    """A static file, plain and compressed."""

    plain: bytes
    zipped: bytes
    kind: str

    @classmethod
    def of(cls, plain: bytes, kind: str = "text/javascript") -> "Asset":
        """Return an asset with this content."""
        return cls(plain, gzip.compress(plain, 9, mtime=0), f"{kind}; charset=utf-8")

    def response(self, request: Request, headers: Mapping[str, str]) -> Response:
        """Return the response, compressed if the browser accepts gzip."""
        sent = {**headers, "Content-Type": self.kind, "Vary": "Accept-Encoding"}
        accepted = [word.partition(";")[0].strip() for word in request.headers.get("accept-encoding", "").split(",")]
        if "gzip" not in accepted:
            return Response(self.plain, headers=sent)
        return Response(self.zipped, headers=sent | {"Content-Encoding": "gzip"})


def slim(source: str) -> str:
    """Return a module without comments and indentation, a third of its size; line numbers stay the same."""
    without = re.sub(r"/\*\*.*?\*/ ?", lambda comment: "\n" * comment[0].count("\n"), source, flags=re.DOTALL)
    return re.sub(r"(?:^|[ \t]+)// .*$|^[ \t]+|[ \t]+$", "", without, flags=re.MULTILINE)


@functools.cache
def modules() -> dict[str, Asset]:
    """Return the widget's modules by name."""
    paths = sorted(FOLDER.glob("*.js"))
    return {path.name: Asset.of(slim(path.read_text(encoding="utf-8")).encode()) for path in paths}


@functools.cache
def version() -> str:
    """Return the version of the modules: a hash of their content."""
    return hashlib.sha256(b"\0".join(asset.plain for asset in modules().values())).hexdigest()[:16]


def add_assets(app: FastAPI, prefix: str) -> None:
    """Add `/callwatch-calls.js`, the entry for pages, and the modules it imports; `prefix` is the URL prefix."""
    entry = f'import "./assets/{version()}/{ENTRY}";\n'.encode()
    tag = f'"{version()}"'

    async def get_entry(request: Request) -> Response:
        headers = {**SHARED, "Cache-Control": "no-cache", "ETag": tag}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(entry, headers={**headers, "Content-Type": "text/javascript; charset=utf-8"})

    async def get_module(request: Request, release: str, name: str) -> Response:
        asset = modules().get(name)
        if asset is None:
            raise Problem("not-found")
        if release != version():  # the page was loading during an upgrade of the gateway
            place = f"{prefix}/assets/{version()}/{name}"
            return Response(status_code=307, headers={**SHARED, "Location": place})
        return asset.response(request, {**SHARED, "Cache-Control": FOR_A_YEAR})

    for path, get in ((f"/{ENTRY}", get_entry), ("/assets/{release}/{name}", get_module)):
        app.add_api_route(path, get, methods=["GET", "HEAD"], include_in_schema=False, response_class=Response)

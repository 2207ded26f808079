"""Test how the gateway serves the widget's modules: headers, redirects, compression, size."""

import gzip
import re

import pytest

from cli.up.embedded_redis import EmbeddedServer
from gateway.assets import FOLDER, modules, slim
from tests.gatewayprocess import Gateway, environment

WRITTEN, ZIPPED = 40 * 1024, 12 * 1024


@pytest.fixture(scope="module", params=["", "calls"], ids=["at the root", "under a path"])
def gateway(redis_server: EmbeddedServer, request: pytest.FixtureRequest) -> object:
    with Gateway(
        environment(redis_server.url, key_prefix="gateway-assets"), gateway_url_prefix=request.param
    ) as gateway:
        gateway.prefix = f"/{request.param}" if request.param else ""  # type: ignore[attr-defined]
        yield gateway


def entry_of(gateway: Gateway) -> str:
    """Return the absolute path of the module that the entry module imports."""
    answer = gateway.get(f"{gateway.prefix}/callwatch-calls.js", key="")  # type: ignore[attr-defined]
    match = re.fullmatch(rb'import "\./(assets/[0-9a-f]{16}/callwatch-calls\.js)";\n', answer.body)
    assert match, answer
    return f"{gateway.prefix}/{match[1].decode()}"  # type: ignore[attr-defined]


def test_entry_module_is_one_line_and_revalidated_on_each_load(gateway: Gateway) -> None:
    answer = gateway.get("/callwatch-calls.js", key="")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    again = gateway.get("/callwatch-calls.js", key="", If_None_Match=answer.headers["etag"])
    assert (again.status, again.body) == (304, b"")


def test_modules_are_immutable_under_a_content_hash(gateway: Gateway) -> None:
    place = entry_of(gateway)
    answer = gateway.get(place, key="")
    written = (FOLDER / "callwatch-calls.js").read_text("utf-8")
    assert len(answer.body.splitlines()) == len(written.splitlines()), "error reports name the line of the source"
    assert b"/*" not in answer.body
    assert b"customElements.define" in answer.body
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["access-control-allow-origin"] == "*"
    zipped = gateway.get(place, key="", Accept_Encoding="br, gzip;q=0.5")
    assert zipped.headers["content-encoding"] == "gzip"
    assert gzip.decompress(zipped.body) == answer.body
    imported = re.findall(rb'from "\./([\w-]+\.js)"', answer.body)
    assert len(imported) >= 3
    for name in imported:
        assert gateway.get(place.replace("callwatch-calls.js", name.decode()), key="").status == 200


def test_module_of_another_release_redirects_to_the_current_one(gateway: Gateway) -> None:
    """For pages that load during an upgrade of the gateway; files that are no module are a 404."""
    place = entry_of(gateway)
    old = gateway.get(re.sub("[0-9a-f]{16}", "0" * 16, place), key="")
    assert (old.status, old.headers["location"], old.headers["cache-control"]) == (307, place, "no-store")
    for name in ("types.d.ts", "demo.js", "..%2fapi.py"):
        assert gateway.get(place.replace("callwatch-calls.js", name), key="").problem == "not-found"


def test_widget_size_is_bounded() -> None:
    """At most 40 KB of source, and 12 KB in transit with each module compressed."""
    assert sum(path.stat().st_size for path in FOLDER.glob("*.js")) <= WRITTEN
    assert sum(len(asset.zipped) for asset in modules().values()) <= ZIPPED


def test_only_comments_are_removed_from_modules() -> None:
    source = """a(); // why
/** What.
 * @x */
  b("http://x"); // "y"
c((/** @type {any} */ d) => `
  .e { f }
`);
// g
"""
    assert slim(source) == 'a();\n\n\nb("http://x");\nc((d) => `\n.e { f }\n`);\n\n'


def test_demo_page_is_absent_outside_a_demonstration(gateway: Gateway) -> None:
    for path in ("/demo", "/demo/demo.js", "/demo/token?case=C-4001"):
        assert gateway.get(path, key="").problem == "not-found"
    assert gateway.post("/demo/load", {"case_id": "C-4001", "scene": "talk"}, key="").problem == "not-found"

"""Test the gateway against its OpenAPI document, and the document's copy, reference and recipes."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.up.embedded_redis import EmbeddedServer
from docs.http_reference import page_of
from tests.deployment import ROOT
from tests.gatewayprocess import SECRET, Gateway, environment
from tests.pages import blocks
from tests.programs import LANGUAGES, run_example

PAGE = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
COPY = ROOT / "docs" / "openapi.json"
REFERENCE = (ROOT / "docs" / "http-reference.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def gateway(redis_server: EmbeddedServer) -> Iterator[Gateway]:
    settings = environment(redis_server.url, key_prefix="gateway-document", gateway_rate=0)
    with Gateway(settings) as gateway:
        yield gateway


def test_copy_of_the_openapi_document_equals_the_served_one(gateway: Gateway) -> None:
    """After a change of the API, the failure names the command that regenerates the copy."""
    served = json.dumps(gateway.get("/openapi.json", key="").json, ensure_ascii=False, indent=1) + "\n"
    assert COPY.read_text(encoding="utf-8") == served, "python -m tests.write_openapi regenerates it"


def test_http_reference_is_generated_from_the_document() -> None:
    """The reference is plain text that loads nothing from other places."""
    document = json.loads(COPY.read_text(encoding="utf-8"))
    assert page_of(document) == REFERENCE, "python -m tests.write_openapi regenerates it"
    assert "<script" not in REFERENCE
    assert "://" not in REFERENCE


@pytest.mark.parametrize(
    ("where", "field", "value"),
    [
        pytest.param(("paths", "/v1/tokens", "post"), "summary", "changed", id="a path"),
        pytest.param(("components", "schemas", "Call", "properties", "since"), "description", "changed", id="a field"),
        pytest.param(("components", "schemas", "Trigger", "properties", "expires_in"), "maximum", 7, id="a limit"),
    ],
)
def test_change_of_the_document_changes_the_reference(where: tuple[str, ...], field: str, value: object) -> None:
    document = json.loads(COPY.read_text(encoding="utf-8"))
    functools.reduce(lambda node, name: node[name], where, document)[field] = value
    assert page_of(document) != REFERENCE


def test_reference_has_every_path_status_and_schema() -> None:
    document = json.loads(COPY.read_text(encoding="utf-8"))
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            section = REFERENCE.partition(f"\n## {method.upper()} {path}\n")[2].partition("\n## ")[0]
            assert operation["summary"] in section
            assert [status for status in operation["responses"] if status not in section] == []
            assert [one["name"] for one in operation.get("parameters", ()) if f"`{one['name']}`" not in section] == []
    assert [name for name in document["components"]["schemas"] if f"\n### {name}\n" not in REFERENCE] == []


def test_every_path_of_the_guide_is_in_the_document(gateway: Gateway) -> None:
    document = gateway.get("/openapi.json", key="").json
    paths = {path.replace("{id}", "ID").replace("{case}", "CASE") for path in document["paths"]}
    spans = [line.split("`")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    named = {span.split()[1].partition("?")[0] for span in spans if span.startswith(("GET ", "POST "))}
    assert len(named) == 6
    assert named <= paths


def test_s42_gateway_behaves_as_the_document_allows_and_forbids(gateway: Gateway, tmp_path: Path) -> None:
    """Bounded run of Schemathesis with a fixed seed: no 5xx, documented responses only, no access without a key."""
    (tmp_path / "schemathesis.toml").write_text(
        # Streams never end and have separate tests; a key used for two requests is refused by design.
        '[[operations]]\ninclude-path = "/v1/stream"\nenabled = false\n'
        '[[operations]]\ninclude-path = "/v1/triggers"\nchecks.positive_data_acceptance.enabled = false\n'
    )
    asked = subprocess.run(
        (
            sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{gateway.port}/openapi.json",
            "--header", f"Authorization: Bearer {gateway.key}", "--max-examples", "10", "--seed", "42",
            "--workers", "1", "--generation-database", "none", "--request-timeout", "30", "--phases",
            "examples,coverage,fuzzing", "--continue-on-failure",
        ),
        cwd=tmp_path, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stdout[-6_000:] + asked.stderr[-1_000:]
    assert "Traceback" not in gateway.log


@pytest.mark.parametrize("language", LANGUAGES)
def test_recipe_triggers_and_mints_a_valid_token(gateway: Gateway, tmp_path: Path, language: str) -> None:
    """S42: the token reads its case and cannot trigger."""
    (recipe,) = blocks(PAGE, language)
    own = {"GATEWAY": f"http://127.0.0.1:{gateway.port}", "API_KEY": gateway.key, "TOKEN_SECRET": SECRET}
    ran = run_example(language, recipe, tmp_path, **own)
    assert ran.returncode == 0, ran.stderr
    place, token = ran.stdout.split()
    state = gateway.get(place).json
    assert state["state"] == "queued"
    assert gateway.get(f"/v1/cases/{state['case_id']}", key=token).status == 200
    assert gateway.get("/v1/cases/C-1", key=token).problem == "other-case"
    assert gateway.get(place, key=token).problem == "insufficient-scope"

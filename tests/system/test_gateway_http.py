"""Test the HTTP API of back ends and pages: triggers, headers, access log, start-up."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.main import main
from cli.up.embedded_redis import EmbeddedServer
from tests.deployment import LIMIT, wait_until
from tests.gatewayprocess import Answer, Gateway, environment
from worker.store import RedisStore

PERSON = "2303191513081131"
GOOD = {"case_id": "C-1", "mediation_id": 20}


@pytest.fixture(scope="module")
def gateway(redis_server: EmbeddedServer) -> Iterator[Gateway]:
    origins = "https://host.example,http://other.example:8080"
    with Gateway(
        environment(redis_server.url, key_prefix="gateway-http"), gateway_origins=origins, gateway_url_prefix="calls"
    ) as gateway:
        yield gateway
        assert PERSON not in gateway.log
        assert gateway.key not in gateway.log


# -- triggers ----------------------------------------------------------------------------------------------------------


def test_accepted_trigger_can_be_read_again(gateway: Gateway) -> None:
    """S42: a quoted and a bare key identify the same trigger; 20 and "20" are the same mediation."""
    first = gateway.trigger('"k-first"')
    assert (first.status, first.headers["retry-after"]) == (202, "2")
    assert first.json["state"] == "queued"
    assert first.headers["location"] == f"/calls/v1/triggers/{first.json['id']}"
    again = gateway.trigger("k-first", mediation_id="20")
    assert (again.status, again.json, again.headers["location"]) == (202, first.json, first.headers["location"])
    found = gateway.get(first.headers["location"])
    assert (found.json["state"], found.json["retry"]) == ("queued", {"key": "same"})
    assert found.headers["retry-after"] == "2"


def test_same_key_with_other_arguments_is_refused(gateway: Gateway) -> None:
    """S42."""
    assert gateway.trigger("k-reused").status == 202
    for other in ({"case_id": "C-2"}, {"mediation_id": 21}, {"call_auto": 1}, {"call_person_id": PERSON}):
        answer = gateway.trigger("k-reused", **other)
        assert (answer.status, answer.problem) == (422, "idempotency-key-reused")


def test_idempotency_keys_of_clients_are_separate(gateway: Gateway) -> None:
    other = gateway.make_key("other", "trigger")
    wait_until(lambda: gateway.get("/v1/triggers/x", key=other).status != 401)
    first = gateway.trigger("k-mine")
    assert gateway.get(f"/v1/triggers/{first.json['id']}", key=other).problem == "no-such-trigger"
    assert gateway.post("/v1/triggers", GOOD, other, Idempotency_Key="k-mine").json["id"] != first.json["id"]


def test_expired_wait_returns_the_state_without_preference_applied(gateway: Gateway) -> None:
    answer = gateway.trigger("k-waits", Prefer="respond-async, wait=1")
    assert (answer.status, answer.json["state"]) == (202, "queued")
    assert "preference-applied" not in answer.headers


# -- headers -----------------------------------------------------------------------------------------------------------


def test_responses_forbid_caching_and_loading_of_resources(gateway: Gateway) -> None:
    for answer in (gateway.get("/v1/cases/C-1"), gateway.get("/nowhere"), gateway.get("/problems/malformed", key="")):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answer.headers


def preflight(gateway: Gateway, path: str, origin: str) -> Answer:
    return gateway.request("OPTIONS", path, key="", Origin=origin, Access_Control_Request_Method="GET")


def test_only_configured_origins_may_read(gateway: Gateway) -> None:
    """S40: origins match exactly; no origin may call the endpoints that trigger or mint."""
    allowed = preflight(gateway, "/v1/cases/C-1", "https://host.example")
    assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (204, "https://host.example")
    assert allowed.headers["access-control-allow-headers"] == "authorization, last-event-id"
    answer = gateway.get("/v1/cases/C-1", Origin="http://other.example:8080")
    assert answer.headers["access-control-allow-origin"] == "http://other.example:8080"
    assert answer.headers["vary"] == "Origin"
    for path, origin in (
        ("/v1/cases/C-1", "https://host.example.evil"),
        ("/v1/cases/C-1", "null"),
        ("/v1/triggers", "https://host.example"),
        ("/v1/tokens", "https://host.example"),
    ):
        refused = preflight(gateway, path, origin)
        assert refused.status == 405
        assert "access-control-allow-origin" not in refused.headers


def test_unchanged_case_is_a_304(gateway: Gateway) -> None:
    first = gateway.get("/v1/cases/C-9")
    again = gateway.get("/v1/cases/C-9", If_None_Match=first.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert gateway.get("/v1/cases/C-9", If_None_Match='"another"').json["cases"] == first.json["cases"]


def test_case_id_may_contain_a_slash(gateway: Gateway) -> None:
    assert gateway.case("C/1?x=ü")["case_id"] == "C/1?x=ü"
    assert gateway.get("/v1/cases/C%2F1/history").json == {"case_id": "C/1", "events": [], "next": None}


def test_paths_work_with_and_without_the_prefix_of_a_proxy(gateway: Gateway) -> None:
    assert gateway.get("/calls/v1/cases/C-1").status == gateway.get("/v1/cases/C-1").status == 200
    assert gateway.get("/calls/nowhere").json["type"] == "/calls/problems/not-found"


def test_access_log_has_neither_query_nor_headers(gateway: Gateway) -> None:
    """S37."""
    gateway.get(f"/v1/cases/C-1/history?after=1-0&secret={PERSON}")
    wait_until(lambda: '"route": "/v1/cases/{case}/history"' in gateway.log)
    lines = [json.loads(line) for line in gateway.log.splitlines() if '"event": "request"' in line]
    (line,) = [line for line in lines if line["route"] == "/v1/cases/{case}/history" and line["status"] == 200][-1:]
    names = {"ts", "level", "event", "logger", "method", "route", "status", "ms", "client", "request"}
    assert set(line) == names
    assert (line["client"], line["method"]) == ("backend", "GET")
    assert PERSON not in gateway.log


def test_metrics_and_health_are_served(gateway: Gateway) -> None:
    """On loopback without a metrics token, metrics need no credential, like those of `callwatch metrics`."""
    assert gateway.get("/healthz", key="").body == b"ok\n"
    gateway.get("/v1/cases/C-1")
    assert gateway.metric('callwatch_gateway_requests_total{route="/v1/cases/{case}",status="200"}') >= 1
    assert gateway.metric("callwatch_gateway_store_up") == 1


# -- start-up ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "wanted"),
    [
        (["serve", "--host", "::", "--port", "0"], {}, 2, "reachable from elsewhere, CALLWATCH_GATEWAY_KEYS_FILE"),
        (["serve", "--port", "0"], {"GATEWAY_KEYS_FILE": "/nowhere"}, 2, "/nowhere: cannot be read"),
        (["serve", "--port", "0"], {"POLL_INTERVAL": "soon"}, 2, "CALLWATCH_POLL_INTERVAL: 'soon' is a text"),
    ],
)
def test_s40_gateway_refuses_to_start_with_invalid_settings_or_without_keys(
    redis_url: str, arguments: list[str], settings: dict[str, str], code: int, wanted: str
) -> None:
    ended = subprocess.run(
        (sys.executable, "-m", "cli.main", *arguments),
        env=environment(redis_url, **settings), capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert ended.returncode == code
    assert wanted in ended.stderr
    assert ended.stderr.startswith("callwatch: ")


def test_new_key_is_printed_alone_and_once(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert store
    assert main(["keys", "new", "back-end", "--scope", "trigger"]) == 2
    assert "CALLWATCH_GATEWAY_KEYS_FILE: missing" in capsys.readouterr().err
    monkeypatch.setenv("CALLWATCH_GATEWAY_KEYS_FILE", str(tmp_path / "keys"))
    assert main(["keys", "new", "back-end", "--scope", "trigger", "--scope", "read"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("cw_back-end_")
    assert (shown.out.count("\n"), shown.err) == (1, "")
    assert (tmp_path / "keys").read_text().startswith("back-end trigger,read ")
    for wrong in (["Back"], ["a", "--scope", "dial"]):
        assert main(["keys", "new", *wrong, "--scope", "read"]) == 2
    main(["keys", "new", "back-end", "--scope", "read"])
    capsys.readouterr()
    assert main(["keys", "new", "back-end", "--scope", "read"]) == 1
    assert "has 2 keys of back-end" in capsys.readouterr().err

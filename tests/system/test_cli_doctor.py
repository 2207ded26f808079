"""`callwatch doctor` reports each fault of an installation, as text and as JSON, within a bounded time."""

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from cli import checks
from cli.checks import Check
from cli.doctor import run_probes
from cli.main import main
from cli.up.embedded_redis import EmbeddedServer
from tests.deployment import LIMIT, Deployment, wait_until
from tests.doctor import Doctor

CHECKS = [
    "settings", "encryption", "broker memory",
    "redis", "durability", "replicas", "eviction", "clock", "sweep", "overdue polls", "outage",
    "status queries", "call requests", "new calls", "calls", "unknown outcomes", "notices", "queues",
    "malformed messages", "workers", "unread queues", "upstream",
]  # fmt: skip


def test_installation_without_workers_fails(doctor: Doctor, redis_url: str) -> None:
    """The shared server of the tests is not durable, and the check says so."""
    seen = doctor()
    assert list(seen) == CHECKS
    assert [name for name, (status, _) in seen.items() if status != "ok"] == ["durability", "sweep", "workers"]
    assert re.search(r"^Valkey \d+\.\d+\.\d+ at redis://\*\*\*@127.0.0.1:\d+/\d+, answers in", seen["redis"][1])
    assert seen["durability"][1].startswith("a crash of Redis may lose the record of a call request")
    assert seen["sweep"][1].startswith("no sweep within a day")
    assert seen["outage"][1] == "none has begun", "queries may fail without an outage"
    assert seen["workers"][1].startswith("none answered within")
    assert seen["queues"][1] == "outbound.trigger 0, outbound.poll 0, outbound.control 0"
    assert redis_url.partition("@")[0].rpartition(":")[2] not in str(seen), "no password"


@pytest.mark.usefixtures("doctor")
def test_every_check_has_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 1
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert [re.match(r"(?:ok  |warn|FAIL) ([a-z ]+): .", line)[1] for line in lines] == CHECKS  # type: ignore[index]
    assert shown.err == ""


@pytest.mark.parametrize(
    ("variable", "value", "check", "status", "detail"),
    [
        ("DEMO", "true", "durability", "ok", "a demonstration may do without"),
        ("ENABLED", "false", "new calls", "warn", "stopped by CALLWATCH_ENABLED=false"),
        ("API_BASE_URL", "", "upstream", "FAIL", "CALLWATCH_API_BASE_URL: missing"),
        ("API_BASE_URL", "http://127.0.0.1:1", "upstream", "FAIL", "127.0.0.1:1 cannot be reached: connection refused"),
        ("API_BASE_URL", "http://127.0.0.1:1?x=1", "settings", "FAIL", "has a query or a fragment"),
        ("BROKER_URL", "redis://:s3cret@127.0.0.1:1/0", "broker", "FAIL", "or set CALLWATCH_BROKER_URL"),
        ("RESULT_URL", "redis://:s3cret@127.0.0.1:1/0", "results", "FAIL", "or set CALLWATCH_RESULT_URL"),
        ("REDIS_URL", "redis://:s3cret@127.0.0.1:1/0", "redis", "FAIL", "or set CALLWATCH_REDIS_URL"),
        ("POLL_INTERVAL", "soon", "settings", "FAIL", "CALLWATCH_POLL_INTERVAL: 'soon' is a text"),
    ],
)
def test_unreachable_addresses_of_the_settings_fail(
    variable: str, value: str, check: str, status: str, detail: str, monkeypatch: pytest.MonkeyPatch, doctor: Doctor
) -> None:
    monkeypatch.setenv(f"CALLWATCH_{variable}", value)
    seen = doctor()
    assert seen[check][0] == status, seen[check]
    assert detail in seen[check][1]
    assert "s3cret" not in str(seen)


def test_separate_broker_and_result_servers_are_checked(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, doctor: Doctor
) -> None:
    for name, database in (("BROKER", 14), ("RESULT", 15)):
        monkeypatch.setenv(f"CALLWATCH_{name}_URL", f"{redis_url}?db={database}")
    seen = doctor()
    assert [seen[name][0] for name in ("broker", "results")] == ["ok", "ok"]


def test_clock_difference_is_a_warning(monkeypatch: pytest.MonkeyPatch, doctor: Doctor) -> None:
    monkeypatch.setattr(checks, "CLOCKS_APART", -1)
    status, detail = doctor()["clock"]
    assert status == "warn"
    assert "polls and deadlines use the clock of Redis" in detail


def test_server_without_durability_or_with_hidden_settings_is_reported(
    monkeypatch: pytest.MonkeyPatch, doctor: Doctor
) -> None:
    with EmbeddedServer(appendfsync="always") as server, redis.Redis.from_url(server.url) as client:
        monkeypatch.setenv("CALLWATCH_REDIS_URL", server.url)
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert doctor()["eviction"][0] == "warn"
        client.config_set("maxmemory", 1 << 30)
        seen = doctor()
        assert seen["eviction"] == ("FAIL", "maxmemory-policy allkeys-lru would drop locks, should be noeviction")
        assert seen["durability"] == ("ok", "writes are on disk before a request is sent: each is waited for")
        client.execute_command("ACL SETUSER app on >s3cret ~* &* +@all -config -info")
        monkeypatch.setenv("CALLWATCH_REDIS_URL", f"redis://app:s3cret@127.0.0.1:{server.port}/0")
        seen = doctor()
        assert seen["replicas"] == ("ok", "the server hides its replicas, CALLWATCH_REPLICAS is 0")
        assert seen["eviction"][0] == "warn"
        assert seen["redis"][1].startswith("of unknown version at")
        assert seen["durability"][0] == "ok"


@pytest.mark.parametrize("variable", ["CALLWATCH_REDIS_URL", "CALLWATCH_API_BASE_URL"])
def test_silent_server_does_not_delay_the_result(
    variable: str, upstream: int, monkeypatch: pytest.MonkeyPatch, doctor: Doctor
) -> None:
    """A port that accepts connections and never answers: as Redis, and as an upstream with TLS."""
    monkeypatch.setattr("cli.connect.CONNECT_LIMIT", 0.1)
    monkeypatch.setattr("cli.doctor.CONNECT_LIMIT", 0.1)
    scheme = "redis" if variable == "CALLWATCH_REDIS_URL" else "https"
    monkeypatch.setenv(variable, f"{scheme}://127.0.0.1:{upstream}")
    check = {"redis": "redis", "https": "upstream"}[scheme]
    status, detail = doctor()[check]
    assert status == "FAIL"
    assert "no answer in time" in detail


def test_configured_proxy_is_checked(upstream: int, monkeypatch: pytest.MonkeyPatch, doctor: Doctor) -> None:
    """S39: only if the environment is trusted."""
    monkeypatch.setenv("CALLWATCH_API_BASE_URL", "http://upstream.invalid:9015")
    monkeypatch.setenv("http_proxy", f"http://user:s3cret@127.0.0.1:{upstream}")
    assert doctor()["upstream"][0] == "FAIL"
    monkeypatch.setenv("CALLWATCH_API_TRUST_ENV", "true")
    assert doctor()["upstream"] == ("ok", f"the proxy 127.0.0.1:{upstream} accepts connections")


def test_probe_that_hangs_or_raises_is_a_failed_check() -> None:
    over = threading.Event()

    def hang() -> Iterator[Check]:
        yield Check("first", "ok", "said")
        over.wait(LIMIT)

    def break_off() -> Iterator[Check]:
        raise RuntimeError("an unexpected error")
        yield

    begin = time.monotonic()
    found = run_probes({"hanging": hang, "broken": break_off}, limit=0.1)
    assert time.monotonic() - begin < LIMIT
    over.set()
    assert found == [
        Check("first", "ok", "said"),
        Check("hanging", "FAIL", "not answered within 0.1 s"),
        Check("broken", "FAIL", "RuntimeError: an unexpected error"),
    ]


def test_running_worker_passes_every_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, doctor: Doctor) -> None:
    """Queues and sweep are reported by worker; a suspended worker does not count, a stopped one leaves no heartbeat."""
    monkeypatch.setattr(checks, "REPLIES_WITHIN", 1.0)
    sign = tmp_path / "sign"
    with EmbeddedServer(appendfsync="always") as server, Deployment(server.url, health_file=sign) as deployment:
        monkeypatch.setenv("CALLWATCH_REDIS_URL", server.url)
        monkeypatch.setenv("CALLWATCH_API_BASE_URL", deployment.simulator.url)
        worker = deployment.worker(app="tests.system.obedient")
        assert deployment.trigger("C-1").get(timeout=LIMIT)["outcome"] == "started"
        wait_until(lambda: {status for status, _ in doctor().values()} == {"ok"})
        assert len(deployment.simulator.log("call-v2")) == 1, "doctor places no call"
        deployment.producer.control.cancel_consumer("outbound.trigger", reply=True)
        wait_until(lambda: doctor()["workers"][1].startswith("no worker consumes outbound.trigger (w@"))
        monkeypatch.setattr(checks, "REPLIES_WITHIN", 0.1)
        worker.pause()
        assert doctor()["workers"] == ("FAIL", "none answered within 0.1 s")
        worker.resume()
        wait_until(sign.exists)
        assert worker.stop() == 0
    assert list(tmp_path.iterdir()) == []

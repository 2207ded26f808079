"""`callwatch doctor` reports each fault of an installation, as text and as JSON, within a bounded time."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from cli import checks
from cli.checks import Check
from cli.doctor import run_probes
from cli.main import main
from cli.up.embedded_redis import EmbeddedServer
from config.settings import Settings
from tests.deployment import LIMIT, Deployment, wait_until
from tests.pairs import PERSON, bring_to
from worker.container import build_store
from worker.core.model import Pair
from worker.store import RedisStore

PAIR = Pair("C-1", "20")
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d"
PHONE = "138" + "0000" + "1111"
CHECKS = [
    "settings", "encryption", "broker memory",
    "redis", "durability", "replicas", "eviction", "clock", "sweep", "overdue polls", "outage",
    "status queries", "call requests", "new calls", "calls", "unknown outcomes", "notices", "queues",
    "malformed messages", "workers", "unread queues", "upstream",
]  # fmt: skip

Seen = dict[str, tuple[str, str]]
Doctor = Callable[[], Seen]


@pytest.fixture
def upstream() -> Iterator[int]:
    """A port that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, redis_url: str, upstream: int) -> pytest.MonkeyPatch:
    """The settings of the command, with a short wait for workers that are absent."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALLWATCH_REDIS_URL", redis_url)
    monkeypatch.setenv("CALLWATCH_API_BASE_URL", f"http://127.0.0.1:{upstream}")
    monkeypatch.setattr(checks, "REPLIES_WITHIN", 0.05)
    return monkeypatch


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisStore]:
    store = build_store(Settings(redis_url=redis_url))
    yield store
    store.client.close()


@pytest.fixture
def doctor(environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:  # noqa: ARG001
    """Run it, assert that exit code, document and lines agree, and return the result of each check."""

    def run() -> Seen:
        capsys.readouterr()
        code = main(["doctor", "--json"])
        shown = capsys.readouterr()
        document = json.loads(shown.out)
        assert list(document) == ["ok", "checks"]
        assert [list(one) for one in document["checks"]] == [["check", "status", "detail"]] * len(document["checks"])
        assert {one["status"] for one in document["checks"]} <= {"ok", "warn", "FAIL"}
        failed = any(one["status"] == "FAIL" for one in document["checks"])
        assert (code, document["ok"]) == (int(failed), not failed)
        assert not [secret for secret in (PERSON, PHONE) if secret in shown.out + shown.err], "S37"
        return {one["check"]: (one["status"], one["detail"]) for one in document["checks"]}

    return run


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


@pytest.mark.usefixtures("environment")
def test_every_check_has_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 1
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert [re.match(r"(?:ok  |warn|FAIL) ([a-z ]+): .", line)[1] for line in lines] == CHECKS  # type: ignore[index]
    assert shown.err == ""


def overdue_by(seconds: float) -> Callable[[RedisStore], None]:
    def act(store: RedisStore) -> None:
        bring_to(store, "watching", PAIR)
        store.client.hset(store.keys.job("job-1"), "due", store.now() - seconds)

    return act


def failed(kind: str, reason: str, *, number: int, answered: float | None = None) -> Callable[[RedisStore], None]:
    """Remember failures of the last minute, and an answer this many seconds after the last."""

    def act(store: RedisStore) -> None:
        at = store.now() - 30
        found: dict[Any, Any] = {"since": at - 30, "at": at, "number": number, "reason": reason}
        store.client.hset(store.keys.failed(kind), mapping=found)
        if answered is not None and kind == "query":
            store.client.set(store.keys.good, at + answered)
        elif answered is not None:
            store.client.hset(store.keys.failed(kind), "answered_at", at + answered)

    return act


def swept_before(seconds: float) -> Callable[[RedisStore], None]:
    def act(store: RedisStore) -> None:
        store.client.set(store.keys.swept, f"{store.now() - seconds} host:1")

    return act


@pytest.mark.parametrize(
    ("act", "check", "status", "detail"),
    [
        pytest.param(swept_before(9), "sweep", "ok", r"host:1 swept 9\.\d s ago", id="swept"),
        pytest.param(swept_before(99), "sweep", "FAIL", r"host:1 swept 99\.\d s ago, and no sweep since", id="S28"),
        pytest.param(overdue_by(9), "overdue polls", "ok", "none by more than 12 s", id="a poll under way"),
        pytest.param(overdue_by(30), "overdue polls", "warn", "1, the oldest by 30 s", id="a poll is late"),
        pytest.param(overdue_by(90), "overdue polls", "FAIL", "1, the oldest by 90 s", id="a poll is lost"),
        pytest.param(overdue_by(0), "calls", "ok", "1 being watched", id="a call"),
        pytest.param(
            lambda store: store.pause(f"ask {PHONE}"),
            "new calls", "warn", rf"stopped by `callwatch pause` at {TIME}: ask \*\*\*", id="S16 S37 paused",
        ),
        pytest.param(lambda store: store.pause(""), "new calls", "warn", "stopped by `callwatch pause`", id="S16"),
        pytest.param(
            lambda store: store.client.hset(store.keys.outage, "since", 1_770_463_000),
            "outage", "warn", "upstream answers no status query since 2026-02-0", id="S29",
        ),
        pytest.param(lambda _: None, "status queries", "ok", "none has failed within a day", id="no failure"),
        pytest.param(
            failed("query", "http_401", number=3), "status queries", "FAIL",
            rf"3 failed, {TIME} to {TIME}, the last: upstream answers 401: it refuses the token CALLWATCH_API_TOKEN",
            id="a refused token",
        ),
        pytest.param(
            failed("dial", "http_403", number=1), "call requests", "FAIL",
            rf"1 failed, {TIME}: upstream answers 403: it refuses the token CALLWATCH_API_TOKEN; not answered since$",
            id="one dial with a refused token",
        ),
        pytest.param(
            failed("query", "timeout", number=2, answered=-5), "status queries", "warn",
            rf"2 failed, {TIME} to {TIME}, the last: timeout: Upstream .*; not answered since$", id="answered before",
        ),
        pytest.param(
            failed("query", "timeout", number=2, answered=0), "status queries", "ok",
            ".*the last: timeout: Upstream sent no complete answer in time; answered since$", id="answered at once",
        ),
        pytest.param(
            failed("dial", "http_401", number=2, answered=5), "call requests", "ok", ".*; answered since$",
            id="a token that was corrected",
        ),
        pytest.param(
            failed("dial", "", number=1), "call requests", "warn", rf"1 failed, {TIME}: without a reason;",
            id="S12 an earlier release",
        ),
        pytest.param(
            lambda store: store.client.lpush("outbound.poll", "x"),
            "queues", "ok", "outbound.trigger 0, outbound.poll 1, outbound.control 0", id="a message waits",
        ),
        pytest.param(
            lambda store: store.client.lpush("outbound.malformed", "x", b"\xff"),
            "malformed messages", "warn", "2 quarantined, `callwatch malformed` names the wrong fields", id="S38",
        ),
    ],
)  # fmt: skip
def test_state_of_the_store_is_reported(
    act: Callable[[RedisStore], Any], check: str, status: str, detail: str, store: RedisStore, doctor: Doctor
) -> None:
    act(store)
    seen = doctor()
    assert seen[check][0] == status, seen[check]
    assert re.match(detail, seen[check][1]), seen[check]


def test_unknown_outcome_is_reported_with_its_remedy(store: RedisStore, doctor: Doctor) -> None:
    """S14."""
    bring_to(store, "unknown", PAIR)
    status, detail = doctor()["unknown outcomes"]
    assert status == "warn"
    assert detail.startswith("1 (C-1 20): ")
    assert "`callwatch status` shows until when each is held" in detail
    assert "callwatch release CASE_ID MEDIATION_ID --why TEXT" in detail
    assert main(["release", PAIR.case_id, PAIR.mediation_id, "--now", "--why", "known", "--by", "me"]) == 0
    assert doctor()["unknown outcomes"] == ("ok", "none")


def test_undelivered_notices_are_a_warning(store: RedisStore, environment: pytest.MonkeyPatch, doctor: Doctor) -> None:
    assert doctor()["notices"] == ("ok", "no channel is set")
    environment.setenv("CALLWATCH_NOTICE_URL", "http://127.0.0.1:1/hook")
    environment.setenv("CALLWATCH_NOTICE_SECRET", "0123456789abcdef0123456789abcdef")
    assert doctor()["notices"] == ("ok", "0 wait for the webhook")
    letter: dict[Any, Any] = {"id": "1-0", "event": '{"case_id": "C-1"}'}
    store.client.xadd(store.keys.outbox("webhook"), letter, id=f"{round((store.now() - 50) * 1000)}-0")
    assert doctor()["notices"] == ("ok", "1 wait for the webhook")
    store.client.delete(store.keys.outbox("webhook"))
    store.client.xadd(store.keys.outbox("webhook"), letter, id=f"{round((store.now() - 90) * 1000)}-0")
    status, detail = doctor()["notices"]
    assert status == "warn"
    assert re.fullmatch(r"1 wait for the webhook, the oldest for 9\d s: the workers' logs say why", detail)
    store.client.delete(store.keys.outbox("webhook"))
    store.client.lpush(store.keys.dead, "{}")
    assert doctor()["notices"] == ("warn", "0 wait for the webhook, dead letters: 1, see `callwatch notices --dead`")


@pytest.mark.parametrize(
    ("variable", "value", "check", "status", "detail"),
    [
        ("DEMO", "true", "durability", "ok", "a demonstration may do without"),
        ("ENABLED", "false", "new calls", "warn", "stopped by CALLWATCH_ENABLED=false"),
        ("API_BASE_URL", "", "upstream", "FAIL", "CALLWATCH_API_BASE_URL: missing"),
        ("API_BASE_URL", "http://127.0.0.1:1", "upstream", "FAIL", "127.0.0.1:1 cannot be reached: connection refused"),
        ("API_BASE_URL", "http://127.0.0.1:1?x=1", "settings", "FAIL", "has a query or a fragment"),
        (
            "BROKER_URL",
            "redis://:s3cret@127.0.0.1:1/0",
            "broker",
            "FAIL",
            "refused. Start one, or set CALLWATCH_BROKER",
        ),
        (
            "RESULT_URL",
            "redis://:s3cret@127.0.0.1:1/0",
            "results",
            "FAIL",
            "refused. Start one, or set CALLWATCH_RESUL",
        ),
        (
            "REDIS_URL",
            "redis://:s3cret@127.0.0.1:1/0",
            "redis",
            "FAIL",
            "refused. Start one, or set CALLWATCH_REDIS_URL",
        ),
        ("POLL_INTERVAL", "soon", "settings", "FAIL", "CALLWATCH_POLL_INTERVAL: 'soon' is a text"),
    ],
)
def test_unreachable_addresses_of_the_settings_fail(
    variable: str, value: str, check: str, status: str, detail: str, environment: pytest.MonkeyPatch, doctor: Doctor
) -> None:
    environment.setenv(f"CALLWATCH_{variable}", value)
    seen = doctor()
    assert seen[check][0] == status, seen[check]
    assert detail in seen[check][1]
    assert "s3cret" not in str(seen)


def test_separate_broker_and_result_servers_are_checked(
    redis_url: str, environment: pytest.MonkeyPatch, doctor: Doctor
) -> None:
    for name, database in (("BROKER", 14), ("RESULT", 15)):
        environment.setenv(f"CALLWATCH_{name}_URL", f"{redis_url}?db={database}")
    seen = doctor()
    assert [seen[name][0] for name in ("broker", "results")] == ["ok", "ok"]


def test_clock_difference_is_a_warning(environment: pytest.MonkeyPatch, doctor: Doctor) -> None:
    environment.setattr(checks, "CLOCKS_APART", -1)
    status, detail = doctor()["clock"]
    assert status == "warn"
    assert "polls and deadlines use the clock of Redis" in detail


def test_server_without_durability_or_with_hidden_settings_is_reported(
    environment: pytest.MonkeyPatch, doctor: Doctor
) -> None:
    with EmbeddedServer(appendfsync="always") as server, redis.Redis.from_url(server.url) as client:
        environment.setenv("CALLWATCH_REDIS_URL", server.url)
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert doctor()["eviction"][0] == "warn"
        client.config_set("maxmemory", 1 << 30)
        seen = doctor()
        assert seen["eviction"] == ("FAIL", "maxmemory-policy allkeys-lru would drop locks, should be noeviction")
        assert seen["durability"] == ("ok", "writes are on disk before a request is sent: each is waited for")
        client.execute_command("ACL SETUSER app on >s3cret ~* &* +@all -config -info")
        environment.setenv("CALLWATCH_REDIS_URL", f"redis://app:s3cret@127.0.0.1:{server.port}/0")
        seen = doctor()
        assert seen["replicas"] == ("ok", "the server hides its replicas, CALLWATCH_REPLICAS is 0")
        assert seen["eviction"][0] == "warn"
        assert seen["redis"][1].startswith("of unknown version at")
        assert seen["durability"][0] == "ok"


@pytest.mark.parametrize("variable", ["CALLWATCH_REDIS_URL", "CALLWATCH_API_BASE_URL"])
def test_silent_server_does_not_delay_the_result(
    variable: str, upstream: int, environment: pytest.MonkeyPatch, doctor: Doctor
) -> None:
    """A port that accepts connections and never answers: as Redis, and as an upstream with TLS."""
    environment.setattr("cli.connect.CONNECT_LIMIT", 0.1)
    environment.setattr("cli.doctor.CONNECT_LIMIT", 0.1)
    scheme = "redis" if variable == "CALLWATCH_REDIS_URL" else "https"
    environment.setenv(variable, f"{scheme}://127.0.0.1:{upstream}")
    check = {"redis": "redis", "https": "upstream"}[scheme]
    status, detail = doctor()[check]
    assert status == "FAIL"
    assert "no answer in time" in detail


def test_configured_proxy_is_checked(upstream: int, environment: pytest.MonkeyPatch, doctor: Doctor) -> None:
    """S39: only if the environment is trusted."""
    environment.setenv("CALLWATCH_API_BASE_URL", "http://upstream.invalid:9015")
    environment.setenv("http_proxy", f"http://user:s3cret@127.0.0.1:{upstream}")
    assert doctor()["upstream"][0] == "FAIL"
    environment.setenv("CALLWATCH_API_TRUST_ENV", "true")
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


def test_running_worker_passes_every_check(environment: pytest.MonkeyPatch, tmp_path: Path, doctor: Doctor) -> None:
    """Queues and sweep are reported by worker; a suspended worker does not count, a stopped one leaves no heartbeat."""
    environment.setattr(checks, "REPLIES_WITHIN", 1.0)
    sign = tmp_path / "sign"
    with EmbeddedServer(appendfsync="always") as server, Deployment(server.url, health_file=sign) as deployment:
        environment.setenv("CALLWATCH_REDIS_URL", server.url)
        environment.setenv("CALLWATCH_API_BASE_URL", deployment.simulator.url)
        worker = deployment.worker(app="tests.system.obedient")
        assert deployment.trigger("C-1").get(timeout=LIMIT)["outcome"] == "started"
        wait_until(lambda: {status for status, _ in doctor().values()} == {"ok"})
        assert len(deployment.simulator.log("call-v2")) == 1, "doctor places no call"
        deployment.producer.control.cancel_consumer("outbound.trigger", reply=True)
        wait_until(lambda: doctor()["workers"][1].startswith("no worker consumes outbound.trigger (w@"))
        environment.setattr(checks, "REPLIES_WITHIN", 0.1)
        worker.pause()
        assert doctor()["workers"] == ("FAIL", "none answered within 0.1 s")
        worker.resume()
        wait_until(sign.exists)
        assert worker.stop() == 0
    assert list(tmp_path.iterdir()) == []

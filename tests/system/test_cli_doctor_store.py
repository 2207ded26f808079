"""`callwatch doctor` reports the state of the store: sweep, polls, failures, queues, notices."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from cli.main import main
from tests.doctor import Doctor
from tests.fakes import PHONE
from tests.pairs import bring_to
from worker.core.model import Pair
from worker.store import RedisStore

PAIR = Pair("C-1", "20")
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d"


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


def test_undelivered_notices_are_a_warning(store: RedisStore, monkeypatch: pytest.MonkeyPatch, doctor: Doctor) -> None:
    assert doctor()["notices"] == ("ok", "no channel is set")
    monkeypatch.setenv("CALLWATCH_NOTICE_URL", "http://127.0.0.1:1/hook")
    monkeypatch.setenv("CALLWATCH_NOTICE_SECRET", "0123456789abcdef0123456789abcdef")
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

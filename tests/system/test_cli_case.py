"""Test the output of `history`, `conversation` and `erase` with a real server and the simulated upstream (S36)."""

import json
import re
from collections.abc import Callable

import pytest
import redis

from cli.main import main
from simulator.testing import SimulatorProcess
from tests.contract.test_erasure import found
from tests.pairs import bring_to
from worker.core.model import Pair
from worker.store import RedisStore

NO_RECORD = "callwatch: no record of {}; finished calls are kept for CALLWATCH_HISTORY_TTL\n"

Read = Callable[[], tuple[str, str]]


def test_a_history_has_every_event_with_its_time(store: RedisStore, shown: Read) -> None:
    bring_to(store, "ended", Pair("C-1", "20"))
    assert main(["history", "C-1"]) == 0
    lines = shown()[0].splitlines()
    assert ["started" in lines[0], "ended" in lines[1], len(lines)] == [True, True, 2]
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d  C-1/20  "
    assert all(re.match(stamp, line) for line in lines), "the date, the time and its offset"
    assert all("未知联系人" in line for line in lines), "the person of the call"
    assert main(["history", " C-1 ", "--json"]) == 0
    document = json.loads(shown()[0])
    assert document["case_id"] == "C-1"
    assert [event["kind"] for event in document["events"]] == ["started", "ended"]
    assert all(event["at"] > 0 for event in document["events"])


def test_case_without_a_history_has_exit_code_1(store: RedisStore, shown: Read) -> None:
    assert main(["history", "C-9", "--json"]) == 1
    out, err = shown()
    assert json.loads(out) == {"case_id": "C-9", "events": []}
    assert err == NO_RECORD.format("case C-9")
    assert store.now() > 0


@pytest.mark.parametrize("command", ["history", "conversation", "erase"])
@pytest.mark.usefixtures("store")
def test_an_empty_id_is_wrong_usage(command: str, shown: Read) -> None:
    assert main([command, " "]) == 2
    assert "_ID: empty, should be an id" in shown()[1]


def test_conversation_is_printed_by_speaker_with_its_recording(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch, shown: Read
) -> None:
    with SimulatorProcess(speed=1_000) as upstream:
        monkeypatch.setenv("CALLWATCH_API_BASE_URL", upstream.url)
        record, *_ = upstream.dial("C-1", "20")["data"]
        job_id = record["jobId"]
        upstream.end(job_id)
        assert main(["conversation", job_id, "--json", "--links"]) == 0
        document = json.loads(shown()[0])
        (log,) = document["conversations"]
        assert (document["job_id"], document["case_id"]) == (job_id, None), "upstream knows it, no record here does"
        assert {line["speaker"] for line in log["lines"]} == {"Robot", "Contact"}
        assert log["record_expires_at"] > store.now()
        assert main(["conversation", job_id]) == 0
        out = shown()[0]
        assert log["record_url"] not in out, "a link stays in the terminal's memory"
        assert "--links shows its signed link" in out
        assert main(["conversation", job_id, "--json"]) == 0
        assert json.loads(shown()[0])["conversations"][0] == {**log, "record_url": None}
        assert main(["conversation", job_id, "--links"]) == 0
        out = shown()[0]
        assert "智能体: " in out
        assert "联系人: " in out
        assert f": {log['record_url']}" in out
        assert "recording (expires at " in out
        assert main(["conversation", "unknown-job"]) == 1
        assert shown() == ("", "callwatch: upstream has no conversation of unknown-job\n")
    assert main(["conversation", job_id]) == 1
    assert "upstream did not answer: GET /api/v1/outbound-bot/conversation-log" in shown()[1]


@pytest.mark.usefixtures("store")
def test_without_an_upstream_there_is_no_conversation(shown: Read) -> None:
    assert main(["conversation", "job"]) == 2
    assert shown()[1].startswith("callwatch: CALLWATCH_API_BASE_URL: missing")


def test_erase_removes_a_case_from_every_key(store: RedisStore, redis_url: str, shown: Read) -> None:
    bring_to(store, "ended", Pair("C-1", "20"))
    bring_to(store, "ended", Pair("C-12", "20"), "job-2")
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    client.set("celery-task-meta-a", json.dumps({"result": {"case_id": "C-1", "jobs": []}}))
    client.set("celery-task-meta-b", json.dumps({"result": {"case_id": "C-12"}}))
    client.set("celery-task-meta-c", "no JSON")
    client.lpush("outbound.malformed", '{"case_id": "C-1"}', '{"case_id": "C-12"}')
    assert main(["erase", "C-1", "--json"]) == 0
    assert json.loads(shown()[0]) == {
        "case_id": "C-1",
        "erased": True,
        "removed": {
            "history_events": 2, "calls": 1, "pairs": 1, "live_events": 2, "triggers": 1, "notices": 0, "results": 1,
            "malformed_messages": 1,
        },
    }  # fmt: skip
    assert found(client, "C-1'", 'C-1"', "C-1:") == []
    assert len(found(client, "C-12")) > 5
    client.close()
    assert main(["erase", "C-1"]) == 1
    assert shown() == ("", NO_RECORD.format("case C-1"))
    assert main(["erase", "C-12"]) == 0
    assert shown()[0].startswith("C-12 is erased: 2 history events, 1 calls, 1 pairs")


@pytest.mark.parametrize(
    ("phase", "why"),
    [
        ("watching", "of mediation 20 its calls are being watched"),
        ("unknown", "of mediation 20 its outcome is unknown and a phone may be ringing"),
        ("lost", "the outcome of the last call of mediation 20 is unknown, and until "),
    ],
)
def test_s5_case_in_use_is_not_erased(store: RedisStore, shown: Read, phase: str, why: str) -> None:
    bring_to(store, phase, Pair("C-1", "20"))
    assert main(["erase", "C-1", "--json"]) == 1
    out, err = shown()
    assert json.loads(out)["erased"] is False
    assert f"C-1 is not erased: {why}" in err
    assert store.history("C-1")

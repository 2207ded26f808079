"""Test notice delivery by real workers: signed, at least once, across outages of receiver and worker."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from tests.deployment import Deployment, wait_until
from tests.receiver import SECRET, Receiver

EVENT = {"at": 1.0, "kind": "ended", "case_id": "C-1", "mediation_id": "20", "job_id": "job-1"}


def delivered(receiver: Receiver) -> set[tuple[str, str]]:
    return {(notice["case_id"], notice["kind"]) for notice in receiver.taken}


def test_every_end_reaches_a_webhook_that_was_down(redis_url: str) -> None:
    """No notice is lost, even if the worker with the leader lock is killed meanwhile."""
    with Receiver() as receiver:
        receiver.stop()
        settings = {"notice_url": receiver.url, "notice_secret": SECRET, "poll_interval": 1}
        with Deployment(redis_url, speed=30, **settings) as deployed:
            first = deployed.worker(name="first")
            for number in range(5):
                deployed.trigger(f"C-{number}")
            wait_until(lambda: deployed.store.client.xlen(deployed.store.keys.outbox("webhook")) >= 10)
            first.kill()
            deployed.worker(name="second")
            receiver.start()
            wait_until(
                lambda: len(delivered(receiver)) == 5 and not deployed.store.client.xlen("callwatch:outbox:webhook")
            )
            jobs = {call.job_id for call in deployed.store.calls(finished=True)}
        assert len(jobs) >= 10
        assert {notice["job_id"] for notice in receiver.taken if notice["kind"] == "ended"} == jobs
        assert receiver.forged == []
        assert all(notice["version"] == 1 and "person" not in json.dumps(notice) for notice in receiver.taken)


def test_notice_is_sent_as_a_celery_task_of_the_back_end(redis_url: str) -> None:
    """By task name on its own queue, which workers need not know, with a task id derived from the notice."""
    settings = {"notice_task": "calls.notice", "notice_queue": "back-end", "poll_interval": 1}
    with Deployment(redis_url, speed=30, **settings) as deployed:
        deployed.worker()
        deployed.trigger("C-1")
        wait_until(lambda: deployed.store.client.llen("back-end") >= 2)
        message: dict[str, Any] = json.loads(deployed.store.client.lrange("back-end", -1, -1)[0])
    assert message["headers"]["task"] == "calls.notice"
    assert message["headers"]["id"].startswith("notice-")
    (_, kwargs, _) = json.loads(base64.b64decode(message["body"]))
    assert kwargs["notice"]["kind"] == "ended"


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    return lambda: capsys.readouterr().out


def test_notices_command_lists_and_replays_dead_letters(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shown: Callable[[], str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALLWATCH_REDIS_URL", redis_url)
    assert main(["notices"]) == 0
    assert shown() == ("no channel: neither CALLWATCH_NOTICE_URL nor CALLWATCH_NOTICE_TASK is set\ndead letters: 0\n")
    monkeypatch.setenv("CALLWATCH_NOTICE_URL", "http://127.0.0.1:1/hook")
    monkeypatch.setenv("CALLWATCH_NOTICE_SECRET", SECRET)
    with Deployment(redis_url) as deployed:
        fields = {"channel": "webhook", "id": "7-0", "event": json.dumps(EVENT), "reason": "HTTP 500", "died_at": "9.0"}
        deployed.store.client.lpush("callwatch:dead", json.dumps(fields))
        assert main(["notices", "--dead"]) == 0
        out = shown()
        assert "7-0  webhook  given up " in out
        assert "webhook: 0 waiting; 0 delivered, 0 given up, 0 pushed out\ndead letters: 1\n" in out
        assert main(["notices", "--dead", "--replay", "--json"]) == 0
        document = json.loads(shown())
        assert (document["dead"], document["replayed"]) == (0, 1)
        assert document["letters"][0]["notice_id"] == "7-0"
        assert document["channels"][0]["waiting"] == 1

"""Test real workers on a real broker against the simulated upstream; its request log is the evidence."""

import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from tests.deployment import LIMIT, Deployment, Worker, wait_until


def test_s4_cases_are_called_once_and_watched_to_their_end(redis_url: str) -> None:
    """S1 S4 S6 S20 S22: with many producers and two workers: one dial per pair, one poller and end event per call."""
    cases = [f"C-{number}" for number in range(8)]
    with Deployment(redis_url, speed=8, poll_interval=1) as deployment:
        deployment.worker("-Q", "outbound.poll,outbound.control", name="poll")
        deployment.worker("-Q", "outbound.trigger", name="dial")
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda number: deployment.trigger(cases[number % len(cases)]), range(64)))
        outcomes = [result.get(timeout=60)["outcome"] for result in results]
        assert sorted(set(outcomes)) == ["skipped", "started"]
        assert outcomes.count("started") == len(cases)
        jobs = deployment.simulator.jobs()
        assert len(jobs) == 2 * len(cases)
        wait_until(lambda: deployment.finished(len(jobs)))

        calls = deployment.store.calls(finished=True)
        assert {call.verdict for call in calls} == {"ended"}
        assert {call.job_id for call in calls} == {job["job_id"] for job in jobs}
        assert set(deployment.simulator.calls_per_pair().values()) == {1}
        for job in jobs:
            polls = deployment.simulator.status_requests(job["job_id"])
            assert len(polls) >= 2
            assert deployment.polled_by_one(job["job_id"])
        kinds = [event["kind"] for case in cases for event in deployment.store.history(case)]
        assert (kinds.count("started"), kinds.count("ended")) == (len(jobs), len(jobs))
        assert deployment.store.pairs() == []
        again = deployment.trigger(cases[0]).get(timeout=60)
        assert again["outcome"] == "started"


def test_s20_prefork_worker_for_all_queues_exits_with_one_line(redis_url: str) -> None:
    """S20: no traceback is printed; a prefork worker for one of the queues starts."""
    with Deployment(redis_url, worker_pool="prefork", worker_concurrency=2) as deployment:
        worker = Worker(deployment.environment)
        deployment.workers.append(worker)
        wait_until(worker.gone)
        assert worker.process.returncode == 1
        assert worker.log.splitlines()[-1].startswith("with the pool prefork dials would delay polls: ")
        assert "Traceback" not in worker.log
        deployment.worker("-Q", "outbound.trigger", name="dial")


def test_the_whole_output_of_a_worker_is_json_lines(redis_url: str) -> None:
    """From the start to the stop, on both streams: no banner, no `Warm shutdown`, no warning of several lines."""
    with Deployment(redis_url) as deployment:
        worker = deployment.worker()
        assert deployment.trigger("C-1").get(timeout=LIMIT)["outcome"] == "started"
        wait_until(lambda: "a crash of Redis" in worker.log)
        assert worker.stop() == 0
        records = [json.loads(line) for line in worker.log.splitlines()]
    events = [record["event"] for record in records]
    assert [event for event in events if "\n" in event or "superuser" in event] == []
    assert "the worker stops: it ends its running tasks" in events
    (fault,) = [event for event in events if event.startswith("a crash of Redis may lose the record")]
    assert "; found: appendfsync no on Valkey " in fault, "S18"


def hanging_dials(deployment: Deployment) -> int:
    return sum(entry["done_at"] is None for entry in deployment.simulator.log("call-v2"))


def test_s20_hanging_dials_do_not_delay_polls(redis_url: str) -> None:
    """S20: one worker for all queues with 100 dials that hang until their time-out and 200 watched calls."""
    with Deployment(redis_url, poll_interval=6, call_timeout=90) as deployment:
        deployment.simulator.script("*", life="talking")
        deployment.worker()
        for number in range(100):
            deployment.trigger(f"C-{number}")
        wait_until(lambda: len(deployment.store.calls()) == 200)
        deployment.simulator.fault("hang", "call-v2")
        for number in range(100):
            deployment.trigger(f"H-{number}")
        wait_until(lambda: hanging_dials(deployment) == 16)  # half of the 32 threads
        begin = max(call.last_polled_at or 0 for call in deployment.store.calls())
        wait_until(lambda: min(call.last_polled_at or 0 for call in deployment.store.calls()) > begin + 13)
        assert hanging_dials(deployment) == 16
        gaps = deployment.largest_gaps().values()
        assert len(gaps) == 200
        assert max(gaps) < 4 * 6  # dials on the threads of polls would cause gaps of 90 s
        assert set(deployment.simulator.calls_per_pair().values()) == {1}


def test_s1_raw_message_from_another_language_is_a_trigger(redis_url: str) -> None:
    """S1: a producer needs no code of callwatch or Celery: it pushes the documented message onto a list."""
    task_id = str(uuid.uuid4())
    body = [
        [],
        {"case_id": "C-raw", "mediation_id": 20},
        {"callbacks": None, "errbacks": None, "chain": None, "chord": None},
    ]
    message = {
        "body": json.dumps(body),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"lang": "js", "task": "outbound.trigger", "id": task_id, "root_id": task_id},
        "properties": {
            "correlation_id": task_id,
            "delivery_mode": 2,
            "delivery_tag": str(uuid.uuid4()),
            "delivery_info": {"exchange": "", "routing_key": "outbound.trigger"},
            "priority": 0,
        },
    }
    with Deployment(redis_url, speed=20, poll_interval=1) as deployment:
        deployment.worker()
        with redis.Redis.from_url(redis_url) as client:
            client.lpush("outbound.trigger", json.dumps(message))
        result = deployment.producer.AsyncResult(task_id).get(timeout=60)
        assert (result["outcome"], result["mediation_id"]) == ("started", "20")
        wait_until(lambda: deployment.finished(2))


def test_s37_logs_and_inspections_of_workers_are_masked(redis_url: str) -> None:
    """S37: logs and inspections (pages of Flower) contain no person, even if the producer sends a `kwargsrepr`."""
    with Deployment(redis_url, poll_interval=1, log_level="DEBUG") as deployment:
        worker = deployment.worker("-E")
        deployment.simulator.fault("delay", "call-v2", seconds=5)
        deployment.simulator.script("C-1", life="talking", parties=[{"person_id": "person-secret-0001"}])
        kwargs = {"case_id": "C-1", "mediation_id": "20", "call_person_id": "person-secret-0001"}
        sent = deployment.producer.send_task(
            "outbound.trigger", kwargs=kwargs, queue="outbound.trigger", kwargsrepr=repr(kwargs)
        )
        seen = ""

        def inspected() -> bool:
            nonlocal seen
            seen = str(deployment.producer.control.inspect().active())
            return "outbound.trigger" in seen

        wait_until(inspected)
        assert "person-secret" not in seen
        assert "***0001" in seen
        result = sent.get(timeout=60)
        assert result["jobs"][0]["person_id"] == "person-secret-0001"
        (job,) = deployment.simulator.jobs()
        wait_until(lambda: deployment.simulator.status_requests(job["job_id"]))
        assert "发起外呼,mediationId: 20, caseId: C-1" in worker.log
        assert "person-secret" not in worker.log


def test_s28_polls_continue_on_another_worker_after_sigterm(redis_url: str) -> None:
    """S28: a worker that stops on SIGTERM loses no poll; the next worker continues."""
    with Deployment(redis_url, poll_interval=2) as deployment:
        deployment.simulator.script("*", life="talking")
        first = deployment.worker(name="first")
        assert deployment.trigger("C-1").get(timeout=60)["outcome"] == "started"
        jobs = [job["job_id"] for job in deployment.simulator.jobs()]
        wait_until(lambda: all(deployment.simulator.status_requests(job) for job in jobs))
        assert first.stop() == 0
        polled = {job: len(deployment.simulator.status_requests(job)) for job in jobs}
        deployment.worker(name="second")
        wait_until(lambda: all(len(deployment.simulator.status_requests(job)) > polled[job] + 1 for job in jobs))


def test_s28_a_worker_finishes_its_polls_on_sigterm(redis_url: str) -> None:
    """Polls in flight are answered and written even if the upstream is slow; waiting triggers are requeued."""
    with Deployment(redis_url, poll_interval=4, worker_concurrency=4) as deployment:
        deployment.simulator.script("*", life="talking")
        first = deployment.worker(name="first")
        for number in range(20):
            deployment.trigger(f"C-{number}", ignore_result=True)
        wait_until(lambda: len(deployment.store.calls()) == 40)
        jobs = {call.job_id for call in deployment.store.calls()}
        deployment.simulator.fault("delay", "status", seconds=3)
        client, keys = deployment.store.client, deployment.store.keys
        wait_until(lambda: sum("begun_at" in client.hgetall(keys.job(job)) for job in jobs) >= 20)
        for number in range(10):
            deployment.trigger(f"T-{number}", ignore_result=True)
        assert first.stop() == 0
        assert "Traceback" not in first.log
        assert not any("begun_at" in client.hgetall(keys.job(job)) for job in jobs), "each is written"
        assert client.hlen("unacked") == 0
        assert client.llen("outbound.trigger") + len(deployment.simulator.log("call-v2")) >= 30
        deployment.simulator.clear()
        begin = time.time()
        deployment.worker(name="second")
        wait_until(lambda: len(deployment.simulator.calls_per_pair()) == 30)
        wait_until(lambda: {e["job_id"] for e in deployment.simulator.log("status") if e["at"] > begin} >= jobs)
        assert set(deployment.simulator.calls_per_pair().values()) == {1}
        assert {call.retry_count for call in deployment.store.calls()} == {0}, "no query was lost"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("CALLWATCH_POLL_INTERVAL", "often"), ("CALLWATCH_API_BASE_URL", "")],
    ids=["wrong", "missing"],
)
def test_worker_with_an_invalid_setting_exits_with_one_line(redis_url: str, variable: str, value: str) -> None:
    """The line names the setting; no traceback is printed."""
    from tests.deployment import Worker  # noqa: PLC0415

    with Deployment(redis_url) as deployment:
        environment = deployment.environment | {variable: value}
        if not value:
            del environment[variable]
        worker = Worker(environment)
        deployment.workers.append(worker)
        wait_until(worker.gone)
        assert worker.process.returncode != 0
        lines = [line for line in worker.log.splitlines() if variable in line]
        assert len(lines) == 1
        assert "Traceback" not in worker.log

"""Attack real workers with the rights of the producer's and Flower's Redis users (S37, S38, S40)."""

import base64
import json
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from tests.deployment import Deployment, Worker, wait_until
from tests.system.test_malformed import message
from tests.users import GuardedServer, guarded_server

PERSON = "person-secret-0001"
GROUP = {"task": "outbound.trigger", "group": "g"}


class Doors:
    """A deployment whose Redis has users, with a producer's and an administrator's connection."""

    def __init__(self, server: GuardedServer, deployment: Deployment) -> None:
        self.server = server
        self.deployment = deployment
        self.worker: Worker = deployment.worker("-c", "2")
        self.producer = server.client("producer")
        self.admin = server.client("admin")
        self.good = 0

    def push(self, entry: str | bytes | dict[str, Any]) -> None:
        """Push an entry onto the trigger queue as the producer's user."""
        self.producer.lpush("outbound.trigger", json.dumps(entry) if isinstance(entry, dict) else entry)

    def assert_carries_on(self) -> None:
        """Assert that the same worker process runs one more valid trigger than it has threads."""
        triggers = [f"C-good-{self.good + number}" for number in range(3)]
        self.good += len(triggers)
        tasks = {case_id: str(uuid.uuid4()) for case_id in triggers}
        for case_id, task_id in tasks.items():
            body = json.dumps([[], {"case_id": case_id, "mediation_id": 20}, {}])
            self.push(message(body=body, headers={"task": "outbound.trigger", "id": task_id}))
        wait_until(lambda: all(map(self.finished, tasks.values())), limit=20)
        assert not self.worker.gone(), self.worker.log[-2_000:]
        wait_until(lambda: self.admin.hlen("unacked") == 0, limit=20)  # no thread is blocked
        calls = self.deployment.simulator.calls_per_pair()
        assert [calls[case_id, "20"] for case_id in triggers] == [1, 1, 1]

    def finished(self, task_id: str) -> bool:
        """Tell whether the result of a trigger is stored."""
        return self.producer.get(f"celery-task-meta-{task_id}") is not None

    def close(self) -> None:
        """Close the connections."""
        self.producer.close()
        self.admin.close()


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    with (
        guarded_server(tmp_path_factory.mktemp("doors")) as server,
        Deployment(server.url("admin"), poll_interval=30, log_level="DEBUG") as deployment,
    ):
        deployment.redis_url = server.url("worker")
        deployment.simulator.script("*", life="talking")
        doors = Doors(server, deployment)
        yield doors
        doors.close()


def with_headers(**headers: Any) -> dict[str, Any]:
    """Return a valid message with headers added or replaced."""
    return message(headers={"task": "outbound.trigger", "id": str(uuid.uuid4())} | headers)


def with_embedded(**embedded: Any) -> dict[str, Any]:
    """Return a valid message with callbacks or similar tasks embedded."""
    return message(body=json.dumps([[], {"case_id": "C-bad", "mediation_id": 1}, embedded]))


def with_body(body: str, **changes: Any) -> dict[str, Any]:
    return message(body=body, **changes)


def typed(kind: str) -> str:
    return json.dumps([[], {"case_id": {"__type__": kind, "__value__": "x"}}, {}])


BLOCKING = {
    "id null": with_headers(id=None),
    "id a number": with_headers(id=5),
    "id a lone surrogate": with_headers(id="\ud800"),
    "a chord with a group": with_embedded(chord={"task": "outbound.trigger"}) | {"headers": GROUP | {"id": "x-chord"}},
    "junk in callbacks": with_embedded(callbacks=[7]),
    "another id, embedded": with_embedded(id=None),
}
FATAL = {
    "5,000 digits": "9" * 5_000,
    "5,000 digits in a header": json.dumps(with_headers(x=1)).replace('"x": 1', f'"x": {"9" * 5_000}'),
    "nested without end": "[" * 200_000,
    "a body nested without end": with_body("[" * 100_000),
    "a body nested nearly too deeply": with_body(f'[[], {{"case_id": {"[" * 900}{"]" * 900}}}, {{}}]'),
    "no UTF-8": b"\xff\xfe\x00",
    **{f"no {kind}": with_body(typed(kind)) for kind in ("datetime", "decimal", "uuid", "nothing")},
    "a typed entry": '{"__type__": "datetime", "__value__": "x"}',
    "a tag of no text": message(properties={"delivery_tag": {}, "delivery_info": {"exchange": "", "routing_key": "x"}}),
}


@pytest.mark.parametrize("entry", [pytest.param(entry, id=name) for name, entry in BLOCKING.items()])
def test_s38_no_message_blocks_a_thread(doors: Doors, entry: dict[str, Any]) -> None:
    """One such message per thread is pushed; later triggers still run."""
    for _ in range(2):
        doors.push(entry)
    doors.assert_carries_on()


@pytest.mark.parametrize("entry", [pytest.param(entry, id=name) for name, entry in FATAL.items()])
def test_s38_no_entry_ends_a_worker(doors: Doors, entry: Any) -> None:
    doors.push(entry)
    doors.assert_carries_on()


@pytest.mark.parametrize("key", ["callwatch:due", "callwatch:paused", "callwatch:lock:C-1:20", "outbound.poll"])
def test_s38_restored_message_is_written_only_to_its_own_queue(doors: Doors, key: str) -> None:
    """After a lost connection a worker restores unacknowledged messages, with the right to write any key."""
    doors.assert_carries_on()
    kind = doors.admin.type(key)
    place = {"exchange": "", "routing_key": key}
    case_id = f"C-back-to-{key.rpartition(':')[2]}"
    doors.deployment.simulator.fault("delay", "call-v2", seconds=3, count=1)
    body = json.dumps([[], {"case_id": case_id, "mediation_id": 20}, {}])
    doors.push(message(body=body, properties={"delivery_tag": str(uuid.uuid4()), "delivery_info": place}))
    wait_until(lambda: doors.admin.hlen("unacked") == 1)
    doors.admin.execute_command("CLIENT", "KILL", "USER", "worker")  # type: ignore[no-untyped-call]
    doors.assert_carries_on()
    assert doors.admin.type(key) == kind
    assert doors.admin.llen("outbound.poll") == 0
    assert doors.deployment.simulator.calls_per_pair()[case_id, "20"] == 1


@pytest.mark.parametrize(
    "task", ["celery.starmap", "celery.backend_cleanup", "outbound.poll", "outbound.lookup", "x.y"]
)
def test_s38_trigger_queue_accepts_triggers_only(doors: Doors, task: str) -> None:
    """Messages for other tasks are quarantined, store no result, and log no person."""
    body = json.dumps([[PERSON], {"case_id": "C-1", "mediation_id": "20", "job_id": "job-1", "poll_no": 1}, {}])
    doors.push(message(body=body, headers={"task": task, "id": f"foreign-{task}"}))
    doors.assert_carries_on()
    assert doors.producer.get(f"celery-task-meta-foreign-{task}") is None
    assert f"{task}[foreign-" not in doors.worker.log


@pytest.mark.parametrize("charset", ["utf-8", "zlib"], ids=["by its header", "by its charset"])
def test_s38_compressed_messages_are_not_decompressed(doors: Doors, charset: str) -> None:
    """A few hundred kilobytes would expand to as many megabytes."""
    bomb = zlib.compress(b'[[], {"case_id": "' + b"x" * 200_000_000 + b'"}, {}]', 9)
    properties = message()["properties"] | {"body_encoding": "base64"}
    compression = {"compression": "application/x-gzip"} if charset == "utf-8" else {}
    entry = with_headers(**compression) | {"body": base64.b64encode(bomb).decode(), "properties": properties}
    before = peak(doors.worker)
    doors.push(entry | {"content-encoding": charset})
    doors.assert_carries_on()
    assert peak(doors.worker) - before < 50_000


def peak(worker: Worker) -> int:
    """Return a worker's peak memory in kB."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0])


def test_s37_no_message_puts_a_person_into_the_log(doors: Doors) -> None:
    """Even at DEBUG: refused messages are logged by kind, length and task id, valid ones without arguments."""
    secret = json.dumps([["C-by-position", 20, 0, PERSON], {}, {}])
    for changes in (
        {"headers": {"task": f"outbound.{PERSON}", "id": "misnamed"}},
        {"content-type": "text/plain"},
        {"content-type": "application/x-python-serialize"},
        {"headers": {"id": "no-task"}},
        {"headers": {"task": "outbound.trigger", "id": "bad-eta", "eta": PERSON}},
        {"headers": {"task": "outbound.trigger", "id": "compressed", "compression": PERSON}},
        {},
    ):
        doors.push(message(body=secret, **changes))
    doors.push(with_body(secret[:-1]))
    doors.push(f'["{PERSON}"')
    doors.assert_carries_on()
    wait_until(lambda: doors.deployment.simulator.calls_per_pair().get(("C-by-position", "20")))
    assert [line for line in doors.worker.log.splitlines() if PERSON in line] == []


def test_s40_flowers_user_can_inspect_but_not_control_workers(doors: Doors) -> None:
    """Commands are sent as Flower's user on the workers' remote control channel."""
    app = Celery("observer", broker=doors.server.url("flower"))
    try:
        for command, arguments in {
            "shutdown": {},
            "pool_shrink": {"n": 2},
            "cancel_consumer": {"queue": "outbound.trigger"},
            "disable_events": {},
            "hello": {"from_node": "x", "revoked": {"revoked-1": 1.0}},
            "revoke": {"task_id": "revoked-2", "terminate": True},
            "rate_limit": {"task_name": "outbound.trigger", "rate_limit": "1/h"},
            "time_limit": {"task_name": "outbound.trigger", "hard": 1},
        }.items():
            app.control.broadcast(command, arguments=arguments)
        wait_until(lambda: app.control.inspect(timeout=2).ping())
        doors.assert_carries_on()
        assert not (app.control.inspect(timeout=2).revoked() or {"w": []}).popitem()[1]
        assert app.control.inspect(timeout=2).active_queues()
        conf = str(app.control.inspect(timeout=2).conf())
        with redis.Redis.from_url(doors.server.url("worker")) as client:
            assert str(client.connection_pool.connection_kwargs["password"]) not in conf
    finally:
        app.close()

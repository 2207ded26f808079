"""Test docs/integration.md with a real worker: raw message, result, each field omitted, Node example."""

import json
import os
import shutil
import subprocess
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.deployment import ROOT, Deployment, wait_until
from tests.pages import bare, blocks, leaves, rows

PAGE = (ROOT / "docs" / "integration.md").read_text(encoding="utf-8")
MESSAGE, RESULT = blocks(PAGE, "json")
(NODE,) = blocks(PAGE, "js")
FIELDS = {bare(name): fate for name, _, fate in rows(PAGE, "## The raw message")}
CLIENT = "redis@6.3.1"  # npm package of the Redis client that the example uses


def message(case_id: str, task_id: str, hours: float = 1) -> dict[str, Any]:
    """Return the page's message for another case; it expires after `hours`."""
    expires = datetime.now(UTC) + timedelta(hours=hours)
    values = {"TASK_ID": task_id, "EXPIRES": expires.strftime("%Y-%m-%dT%H:%M:%SZ"), "DELIVERY_TAG": str(uuid.uuid4())}
    text = MESSAGE.replace("C-2002", case_id)
    for placeholder, value in values.items():
        assert text.count(f'"{placeholder}"') == 1
        text = text.replace(placeholder, value)
    found: dict[str, Any] = json.loads(text)
    return found


def outcome(deployment: Deployment, task_id: str) -> str:
    """Wait for a result and return its outcome."""
    key = f"celery-task-meta-{task_id}"
    wait_until(lambda: deployment.store.client.exists(key))
    return str(json.loads(str(deployment.store.client.get(key)))["result"]["outcome"])


def shape(value: Any) -> Any:
    """Return the names in a JSON document; a list is represented by its first entry."""
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items()}
    return [shape(one) for one in value[:1]] if isinstance(value, list) else None


def test_s1_documented_raw_message_is_a_trigger(deployment: Deployment) -> None:
    """S1 S17: pushed once, again with the same id, and after its expiry, it causes one dial."""
    client, task_id, late = deployment.store.client, str(uuid.uuid4()), str(uuid.uuid4())
    parties = [{"person_id": "P-C-2002-1"}, {"person_id": "P-C-2002-2", "error_code": 1002, "message": "…"}]
    deployment.simulator.script("C-2002", parties=parties)
    with client.pubsub(ignore_subscribe_messages=True) as listener:  # type: ignore[no-untyped-call]
        listener.subscribe(f"celery-task-meta-{task_id}")
        client.lpush("outbound.trigger", json.dumps(message("C-2002", task_id)))
        published = next(filter(None, (listener.get_message(timeout=1) for _ in range(60))))
    assert client.get(f"celery-task-meta-{task_id}") == published["data"]
    answer = json.loads(published["data"])
    assert (answer["status"], answer["result"]["outcome"], answer["task_id"]) == ("SUCCESS", "started", task_id)
    assert shape(answer) == shape(json.loads(RESULT))

    client.lpush("outbound.trigger", json.dumps(message("C-2002", task_id)))
    client.lpush("outbound.trigger", json.dumps(message("C-2002", late, hours=-1)))
    wait_until(lambda: client.exists(f"celery-task-meta-{late}"))
    assert '"status": "REVOKED"' in str(client.get(f"celery-task-meta-{late}"))
    wait_until(lambda: deployment.store.pairs(case_id="C-2002") == [])  # watched to the end
    assert deployment.simulator.calls_per_pair()["C-2002", "20"] == 1


def test_every_field_of_the_message_is_documented() -> None:
    assert list(FIELDS) == list(leaves(json.loads(MESSAGE)))
    assert set(FIELDS.values()) == {"accepted", "quarantined"}


@pytest.mark.parametrize("field", FIELDS)
def test_s38_message_without_a_field_is_accepted_or_quarantined_as_documented(
    deployment: Deployment, field: str
) -> None:
    """S1 S38: the page lists the effect of each field; a complete message afterwards is still accepted."""
    case_id, client = f"C-without-{field}", deployment.store.client
    sent = message(case_id, f"without-{field}")
    *path, last = field.split(".")
    place = sent
    for name in path:
        place = place[name]
    del place[last]
    quarantined = client.llen("outbound.malformed")

    client.lpush("outbound.trigger", json.dumps(sent))
    behind = message(f"{case_id}-behind", f"behind-{field}")
    client.lpush("outbound.trigger", json.dumps(behind))
    assert outcome(deployment, f"behind-{field}") == "started"
    if FIELDS[field] == "accepted":
        assert outcome(deployment, f"without-{field}") == "started"
    assert client.llen("outbound.malformed") - quarantined == (FIELDS[field] == "quarantined")
    calls = deployment.simulator.calls_per_pair()
    assert calls.get((case_id, "20"), 0) == (FIELDS[field] == "accepted")


@pytest.mark.parametrize("expires", ["tomorrow", 1_900_000_000, "2099-11-22T09:00:00"])
def test_s38_message_with_a_wrong_expiry_is_quarantined(deployment: Deployment, expires: object) -> None:
    client, task_id = deployment.store.client, f"expires-{expires}"
    sent = message(f"C-{expires}", task_id)
    sent["headers"]["expires"] = expires
    client.lpush("outbound.trigger", json.dumps(sent))
    client.lpush("outbound.trigger", json.dumps(message(f"C-{expires}-behind", f"behind-{expires}")))
    assert outcome(deployment, f"behind-{expires}") == "started"
    assert json.dumps(sent) == client.lindex("outbound.malformed", 0)
    assert (f"C-{expires}", "20") not in deployment.simulator.calls_per_pair()


def node_with_its_client(folder: Path) -> str | None:
    """Install the example's Redis client by npm; return None without Node, npm or a reachable registry."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    command = (npm, "install", "--no-audit", "--no-fund", "--no-save", "--prefer-offline", "--ignore-scripts", CLIENT)
    (folder / "package.json").write_text('{"private": true}', encoding="utf-8")
    ran = subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
    return node if ran.returncode == 0 else None


def producer(deployment: Deployment, folder: Path) -> str:
    """Create the Redis user of back ends, with its few rights, and return its address."""
    place = deployment.redis_url.rpartition("@")[2].removesuffix("/0")
    secrets, environment = folder / "secrets", os.environ | {"REDIS_HOST": place}
    subprocess.run(
        (ROOT / "ops" / "make-secrets", secrets), env=environment, capture_output=True, check=True, timeout=60
    )
    lines = (secrets / "redis.acl").read_text(encoding="utf-8").splitlines()
    (rights,) = [line.split()[2:] for line in lines if line.startswith("user producer ")]
    deployment.store.client.execute_command("ACL", "SETUSER", "producer", *rights)  # type: ignore[no-untyped-call]
    return (secrets / "redis_url_producer").read_text(encoding="utf-8").strip()


def test_s17_node_example_enqueues_a_trigger_once(deployment: Deployment, tmp_path: Path) -> None:
    """S1 S17 S40: run twice with one task id and a back end's few rights, if its client can be installed.

    Its fields are compared with the page's in any case.
    """
    for field in FIELDS:
        name = field.rpartition(".")[2]
        assert f"{name}:" in NODE or f'"{name}":' in NODE, field
    node = node_with_its_client(tmp_path)
    if node is None:
        return
    environment = os.environ | {
        "CALLWATCH_REDIS_URL": producer(deployment, tmp_path),
        "TASK_ID": f"load-{uuid.uuid4()}",
    }
    (tmp_path / "enqueue.mjs").write_text(NODE, encoding="utf-8")
    for _ in range(2):
        ran = subprocess.run(
            (node, "enqueue.mjs"),
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert (ran.stdout, ran.stderr, ran.returncode) == ("started\n", "", 0)
    assert deployment.simulator.calls_per_pair()["C-2003", "20"] == 1

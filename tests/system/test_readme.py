"""The README's two ways of enqueueing, cut out of it and run against a real worker and the simulated upstream."""

import ast
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cli.up.embedded_redis import EmbeddedServer
from tests.deployment import ROOT, Deployment, wait_until

README = (ROOT / "README.md").read_text(encoding="utf-8")
OURS = {"api_client", "cli", "config", "simulator", "worker"}


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def modules(program: str) -> set[str]:
    """The top-level modules that a program imports."""
    nodes = list(ast.walk(ast.parse(program)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.split(".")[0] for name in plain | {str(n.module) for n in nodes if isinstance(n, ast.ImportFrom)}}


@pytest.fixture(scope="module")
def deployment(redis_server: EmbeddedServer) -> Iterator[Deployment]:
    """One for both examples, for they call cases of their own."""
    with Deployment(redis_server.url, speed=20, poll_interval=1) as deployed:
        deployed.store.client.flushdb()
        deployed.worker()
        yield deployed


def test_the_python_example_calls_once_per_load(deployment: Deployment, tmp_path: Path) -> None:
    """S1: run twice, as a back end that loads a case twice over; celery is all that it imports."""
    (program,) = blocks("python")
    assert modules(program) & OURS == set()
    file = tmp_path / "back_end.py"
    file.write_text(program, encoding="utf-8")
    environment = os.environ | {"CALLWATCH_REDIS_URL": deployment.redis_url}
    for _ in range(2):
        ran = subprocess.run(
            (sys.executable, "-I", file),
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ran.stdout, ran.stderr, ran.returncode) == ("started 2\n", "", 0)
    assert deployment.simulator.calls_per_pair()["C-2001", "20"] == 1


def raw_message(task_id: str, expires: datetime) -> str:
    """The README's raw message with its three placeholders filled in."""
    text = blocks("json")[0]
    values = {"TASK_ID": task_id, "EXPIRES": expires.strftime("%Y-%m-%dT%H:%M:%SZ"), "DELIVERY_TAG": str(uuid.uuid4())}
    for placeholder, value in values.items():
        assert text.count(f'"{placeholder}"') == 1
        text = text.replace(placeholder, value)
    return text


def shape(value: Any) -> Any:
    """The names in a JSON document; of a list those of its first entry."""
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items()}
    return [shape(one) for one in value[:1]] if isinstance(value, list) else None


def test_the_raw_message_is_a_trigger(deployment: Deployment) -> None:
    """S1 S17: pushed, pushed again with the same id, and pushed too late; answered as the README says."""
    soon, task_id, late = datetime.now(UTC) + timedelta(hours=1), str(uuid.uuid4()), str(uuid.uuid4())
    parties = [{"person_id": "P-C-2002-1"}, {"person_id": "P-C-2002-2", "error_code": 1002, "message": "…"}]
    deployment.simulator.script("C-2002", parties=parties)
    client = deployment.store.client
    with client.pubsub(ignore_subscribe_messages=True) as listener:  # type: ignore[no-untyped-call]
        listener.subscribe(f"celery-task-meta-{task_id}")
        client.lpush("outbound.trigger", raw_message(task_id, soon))
        told = next(filter(None, (listener.get_message(timeout=1) for _ in range(60))))
    assert client.get(f"celery-task-meta-{task_id}") == told["data"]
    answer = json.loads(told["data"])
    assert (answer["status"], answer["result"]["outcome"], answer["task_id"]) == ("SUCCESS", "started", task_id)
    assert shape(answer) == shape(json.loads(blocks("json")[1]))

    client.lpush("outbound.trigger", raw_message(task_id, soon))
    client.lpush("outbound.trigger", raw_message(late, soon - timedelta(hours=2)))
    wait_until(lambda: client.exists(f"celery-task-meta-{late}"))
    assert '"status": "REVOKED"' in str(client.get(f"celery-task-meta-{late}"))
    wait_until(lambda: deployment.store.pairs(case_id="C-2002") == [])  # watched to the end
    assert deployment.simulator.calls_per_pair()["C-2002", "20"] == 1

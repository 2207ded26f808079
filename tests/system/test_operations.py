"""The command blocks of docs/operations.md, line by line as they stand there, on a real installation."""

import shlex

import pytest

from cli.main import main
from tests.deployment import ROOT, Deployment, wait_until
from tests.unit.test_docs import blocks

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
RESTORED, EVERY_DAY = [block for block in blocks(PAGE, "sh") if block.startswith("callwatch ")]


def test_the_commands_after_a_restore_and_of_every_day(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """S16: each ends with exit code 0 where all is well; a restored Redis calls nobody until somebody says so."""
    with Deployment(redis_url, demo="true", poll_interval=1) as deployment:
        deployment.worker()
        deployment.trigger("C-2001").get(timeout=60)
        wait_until(lambda: bool(deployment.store.client.exists(deployment.store.keys.swept)))
        for name, value in deployment.environment.items():
            monkeypatch.setenv(name, value)
        for block, paused in ((RESTORED, "Redis was restored"), (EVERY_DAY, None)):
            for line in block.splitlines():
                assert main(shlex.split(line)[1:]) == 0, line
            stop = deployment.store.paused()
            assert (stop.why if stop else None) == paused

"""Run the commands of docs/operations.md and docs/tutorial.md on a real installation."""

import os
import shlex
import subprocess
import sys

import pytest

from cli.main import main
from tests.deployment import ROOT, Deployment, wait_until
from tests.pages import blocks

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
RESTORED, EVERY_DAY = [block for block in blocks(PAGE, "sh") if block.startswith("callwatch ")]


def test_s16_documented_commands_succeed_after_a_restore_and_daily(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S16: each command exits with 0 on a healthy system; after a restore, calls stay paused until resumed."""
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


def test_s4_commands_of_the_tutorial_succeed(redis_url: str) -> None:
    """S4 S16: each command exits with 0; the second trigger is skipped; calls are not paused at the end."""
    with Deployment(redis_url, demo="true", poll_interval=1) as deployment:
        deployment.worker()
        wait_until(lambda: bool(deployment.store.client.exists(deployment.store.keys.swept)))
        printed = [
            run(line, deployment)
            for block in blocks(TUTORIAL, "sh")
            for line in block.splitlines()
            if line.startswith("callwatch ")
        ]
        outcomes = [text.split()[0] for text in printed if text.startswith(("started", "skipped"))]
        assert outcomes == ["started", "skipped"]
        assert deployment.store.paused() is None


def run(line: str, deployment: Deployment) -> str:
    """Run a command line as a process and return its output."""
    ran = subprocess.run(
        (sys.executable, "-m", "cli.main", *shlex.split(line)[1:]),
        cwd=ROOT,
        env=os.environ | deployment.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, (line, ran.stderr)
    return ran.stdout

"""A broken line of `.env` ends every process at its start, with file and line and without the value."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deployment import LIMIT, ROOT

PROCESSES = {
    "trigger worker": ("celery", "-A", "worker.app", "worker", "-Q", "outbound.trigger"),
    "gateway": ("gateway", "--port", "0"),
    "flower": ("cli.main", "flower"),
    "metrics": ("cli.main", "metrics"),
    "serve": ("cli.main", "serve"),
    "live": ("cli.main", "up", "--live"),
    "doctor": ("cli.main", "doctor"),
}


@pytest.mark.parametrize("process", PROCESSES)
def test_broken_line_ends_the_process(process: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CALLWATCH_API_BASE_URL=http://127.0.0.1:1\nCALLWATCH_API_TOKEN='s3cret\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CALLWATCH_")}
    done = subprocess.run(
        (sys.executable, "-m", *PROCESSES[process]),
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode in (1, 2)
    said = (done.stdout + done.stderr).removeprefix("FAIL settings: ").removeprefix("callwatch: ")
    assert said.startswith(".env, line 2: a quote at one end of its value")
    assert said.count("\n") == 1, "one line, and no other"
    assert "s3cret" not in said

"""The Python example of both READMEs, run against a real worker and the simulated upstream."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deployment import ROOT, Deployment
from tests.pages import blocks

OURS = {"api_client", "cli", "config", "gateway", "simulator", "worker"}


def modules(program: str) -> set[str]:
    """The top-level modules that a program imports."""
    nodes = list(ast.walk(ast.parse(program)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.split(".")[0] for name in plain | {str(n.module) for n in nodes if isinstance(n, ast.ImportFrom)}}


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_python_example_calls_once_per_load(deployment: Deployment, tmp_path: Path, page: str) -> None:
    """S1: run twice, as a back end that loads a case twice; it imports celery and no module of callwatch."""
    (program,) = blocks((ROOT / page).read_text(encoding="utf-8"), "python")
    assert modules(program) & OURS == set()
    case_id = f"C-2001-{page}"
    file = tmp_path / "back_end.py"
    file.write_text(re.sub(r"\bC-2001\b", case_id, program), encoding="utf-8")
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
    assert deployment.simulator.calls_per_pair()[case_id, "20"] == 1

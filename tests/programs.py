"""Run an example of the documents with the compiler or interpreter of its language; CI must have each of them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deployment import LIMIT

LANGUAGES = {  # the command, and the Debian package that has it
    "python": ((sys.executable, "example.py"), ""),
    "js": (("node", "example.mjs"), "nodejs"),
    "java": (("java", "Example.java"), "default-jdk-headless"),
    "go": (("go", "run", "example.go"), "golang-go"),
}
COMPILERS = {"java": "javac"}  # a single file needs the compiler, which a runtime alone does not have


def require(name: str, package: str) -> None:
    """Skip the test where a program is not installed; CI installs all of them, so there it fails."""
    if shutil.which(name) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed, and CI must run the examples: apt-get install {package}")
        pytest.skip(f"{name} is not installed: apt-get install {package}")


def run_example(language: str, source: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run an example in an empty folder; it reads only the given variables and the test's own environment."""
    command, package = LANGUAGES[language]
    require(COMPILERS.get(language, command[0]), package)
    (folder / command[-1]).write_text(source, encoding="utf-8")
    go = {"GOCACHE": str(folder / "cache"), "GOPATH": str(folder / "go"), "GOPROXY": "off", "GOTOOLCHAIN": "local"}
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **go, **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )

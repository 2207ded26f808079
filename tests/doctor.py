"""Run `callwatch doctor` and read its result."""

import json
from collections.abc import Callable

import pytest

from cli.main import main
from tests.fakes import PHONE
from tests.pairs import PERSON

Seen = dict[str, tuple[str, str]]
Doctor = Callable[[], Seen]


def diagnose(capsys: pytest.CaptureFixture[str]) -> Seen:
    """Assert that exit code and document agree, and return status and detail of each check."""
    capsys.readouterr()
    code = main(["doctor", "--json"])
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert list(document) == ["ok", "checks"]
    assert [list(one) for one in document["checks"]] == [["check", "status", "detail"]] * len(document["checks"])
    assert {one["status"] for one in document["checks"]} <= {"ok", "warn", "FAIL"}
    failed = any(one["status"] == "FAIL" for one in document["checks"])
    assert (code, document["ok"]) == (int(failed), not failed)
    assert not [secret for secret in (PERSON, PHONE) if secret in shown.out + shown.err], "S37"
    return {one["check"]: (one["status"], one["detail"]) for one in document["checks"]}

"""Test docs/notices.md: its fields match the model, and its examples verify real signatures."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.pages import PAGES, bare, blocks, rows
from worker.core.notice import KINDS, Notice, signed_headers

PAGE = PAGES["docs/notices.md"]
BODY = Notice.of("1-0", {"at": 1.0, "kind": "ended", "case_id": "C-1", "mediation_id": "20", "label": "失败"}).body()
CHANGES = [
    pytest.param({}, b"", 0, True, id="as it was sent"),
    pytest.param({}, b" ", 0, False, id="another body"),
    pytest.param({"webhook-id": "2-0"}, b"", 0, False, id="another id"),
    pytest.param({"webhook-signature": "v1,AAAA"}, b"", 0, False, id="a wrong signature"),
    pytest.param({}, b"", -400, False, id="an old one"),
]


def test_documented_fields_and_kinds_match_the_model() -> None:
    assert [bare(row[0]) for row in rows(PAGE, "## Payload")] == list(Notice.model_fields)
    assert [bare(row[0]) for row in rows(PAGE, "| kind")] == list(KINDS)


def test_json_example_is_a_valid_notice() -> None:
    (example,) = blocks(PAGE, "json")
    notice = Notice.model_validate_json(example)
    assert json.loads(notice.body()) == json.loads(example)


@pytest.mark.parametrize(("changed", "appended", "age", "genuine"), CHANGES)
def test_python_example_accepts_genuine_notices_only(
    changed: dict[str, str], appended: bytes, age: float, genuine: bool
) -> None:
    (source,) = blocks(PAGE, "python")
    names: dict[str, Any] = {}
    exec(source, names)  # noqa: S102 - our own page
    is_genuine: Callable[..., bool] = names["is_genuine"]
    headers = signed_headers("1-0", BODY, secret="s", now=time.time() + age) | changed
    assert is_genuine("s", headers, BODY + appended) is genuine
    assert is_genuine("another", headers, BODY + appended) is False

"""Test that the leak search finds secrets and personal data in logs, and mistakes no id for them (S37)."""

import pytest

from tests.leaksearch import leaks


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("bearer eyJhbGciOiJIUzI1NiJ9.eyJhdWQiOiJj.c2ln", "a token"),
        ("key cw_backend_abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG", "an API key"),
        ("'person': 'P-10010001'", "a person id"),
        ("person 2303191513081131", "a person id"),
        ("call 13800001111", "a phone number"),
        ("the secret", "a known secret"),
    ],
)
def test_a_secret_or_personal_data_is_found(text: str, kind: str) -> None:
    assert leaks(text, ["secret"]) == [kind]


@pytest.mark.parametrize(
    "text",
    [
        '"request": "r-0123456789012345"',
        '"/v1/triggers/h-1234567890123456789012345678901234567890"',
        "job 1770463000471-447e-96ea-97523c61189b",
        "event 1795312064123-0",
        "person ***1131",
    ],
)
def test_an_id_is_no_finding(text: str) -> None:
    assert leaks(text, ["secret"]) == []

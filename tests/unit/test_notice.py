"""Test notices: the payload contains no personal data; the signature covers id, time and body."""

import pytest
from pydantic import ValidationError

from worker.core.notice import KINDS, Notice, signed_headers

EVENT = {"at": 1_770_463_000.123, "kind": "refused", "case_id": "C-1", "mediation_id": "20", "error_code": 1001}


def test_s37_notice_contains_no_person_and_no_unknown_field() -> None:
    """S37: only the fields of the model are copied from the event."""
    event = EVENT | {"person": "***0001", "person_id": "P-0001", "start_time": "2026-11-23 09:00:00", "why": "x"}
    notice = Notice.of("1-0", event).model_dump(exclude_none=True)
    assert notice == EVENT | {"version": 1, "id": "1-0", "start_time": "2026-11-23 09:00:00"}


def test_events_of_other_kinds_are_no_notices() -> None:
    with pytest.raises(ValidationError):
        Notice.of("1-0", EVENT | {"kind": "status_changed"})
    assert KINDS == ("refused", "dial_failed", "unknown", "ended", "lost", "expired")


def test_signature_follows_standard_webhooks() -> None:
    """Reproduce it: printf '1-0.1770463000.{}' | openssl dgst -sha256 -hmac key -binary | base64."""
    assert signed_headers("1-0", b"{}", secret="key", now=1_770_463_000.9) == {
        "webhook-id": "1-0",
        "webhook-timestamp": "1770463000",
        "webhook-signature": "v1,l/gmVMbJaYhr1tB2yCnjZ9rdu5llxzJfWgpWlQnrmYk=",
    }


@pytest.mark.parametrize(
    ("notice_id", "body", "secret", "now"),
    [("2-0", b"{}", "key", 1.0), ("1-0", b"{ }", "key", 1.0), ("1-0", b"{}", "yek", 1.0), ("1-0", b"{}", "key", 2.0)],
    ids=["id", "body", "secret", "time"],
)
def test_signature_changes_with_id_body_secret_and_time(notice_id: str, body: bytes, secret: str, now: float) -> None:
    real = signed_headers("1-0", b"{}", secret="key", now=1.0)["webhook-signature"]
    assert signed_headers(notice_id, body, secret=secret, now=now)["webhook-signature"] != real

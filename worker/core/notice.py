"""Notices to back ends: payload and signature. Pure. See docs/notices.md."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

NoticeKind = Literal["refused", "dial_failed", "unknown", "ended", "lost", "expired"]
NoticeChannel = Literal["webhook", "task"]

KINDS: tuple[NoticeKind, ...] = get_args(NoticeKind)
CHANNELS: tuple[NoticeChannel, ...] = get_args(NoticeChannel)
VERSION: Literal[1] = 1


class Notice(BaseModel):
    """The payload, version 1: a version may gain fields, but no field changes its meaning. No personal data."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Literal[1] = Field(VERSION, description="version of this payload")
    id: str = Field(description="the event: the same in every repetition, and later events of a job have greater ones")
    kind: NoticeKind = Field(description="the kind of the event")
    at: float = Field(description="time of the event in epoch seconds, on the clock of the store")
    case_id: str = Field(description="the case")
    mediation_id: str = Field(description="the mediation")
    task_id: str | None = Field(None, description="the trigger: its task id, or its id in the gateway")
    job_id: str | None = Field(None, description="the call; null where none was started")
    call_status: str | None = Field(None, description="its last status, as upstream sent it")
    label: str | None = Field(None, description="the label of this status, for people")
    message: str | None = Field(None, description="a text for people")
    reason: str | None = Field(None, description="why the trigger or the watch had no success: one of a closed set")
    error_code: int | None = Field(None, description="refused: 1001 must wait, 1002 limit reached, or another")
    refused_index: int | None = Field(None, description="refused: place in `refused` of the trigger's result, from 0")
    start_time: int | str | None = Field(None, description="refused: the next round's start, as upstream said it")
    call_interval: int | str | None = Field(None, description="refused: the next round's interval, likewise")

    @classmethod
    def of(cls, event_id: str, event: Mapping[str, Any]) -> "Notice":
        """Return the notice of a stored event; fields that a notice does not have are dropped."""
        return cls.model_validate({**event, "version": VERSION, "id": event_id})

    def body(self) -> bytes:
        """Return the JSON that is sent and signed."""
        return self.model_dump_json().encode()


def signed_headers(notice_id: str, body: bytes, *, secret: str, now: float) -> dict[str, str]:
    """Return the headers of Standard Webhooks, which authenticate the sender; `now` in epoch seconds.

    The signature covers id, time and body, so that none of them can be replaced and an old notice cannot be replayed.
    """
    timestamp = str(int(now))
    content = f"{notice_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(secret.encode(), content, hashlib.sha256)).decode()
    return {"webhook-id": notice_id, "webhook-timestamp": timestamp, "webhook-signature": f"v1,{signature}"}

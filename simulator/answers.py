"""Build upstream's answers exactly: records, a status, conversations and the envelope."""

import base64
import hashlib
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote

from simulator.book import Book, Call
from simulator.script import RECORD_FIELDS, Party

CHINA = timezone(timedelta(hours=8))
LINK_LIFE = 24 * 3600  # seconds after the call for which the link to a recording is valid
_TALK = 30  # seconds over which the lines of an endless talk are spread

_LINES: tuple[tuple[str, str, str | None], ...] = (
    ("Robot", "BeginDialogue", None),
    ("Robot", "Broadcast", "您好,这里是示例调解中心的智能助手,请问您现在方便通话吗?"),
    ("Contact", "Dialogue", "方便,您说。"),
    ("Robot", "Dialogue", "关于您的纠纷,请问您愿意参加调解吗?"),
    ("Contact", "Dialogue", "愿意的。"),
    ("Robot", "Broadcast", "好的,已为您登记,感谢您的配合,再见。"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer before it is written: the HTTP status and the envelope's three fields."""

    http: int
    code: int
    message: str
    data: Any

    def encode(self) -> bytes:
        """Return the envelope as UTF-8 JSON."""
        envelope = {"code": self.code, "message": self.message, "data": self.data}
        return json.dumps(envelope, ensure_ascii=False).encode()


def success(data: Any, code: int = 200) -> Answer:
    """Return a valid answer; the code of call-v2 is 201, of the others 200."""
    return Answer(code, code, "success", data)


def refusal(code: int, message: str) -> Answer:
    """Return the answer to an invalid request, with the same code in HTTP and in the envelope."""
    return Answer(code, code, message, None)


def upstream_id(value: str) -> int | str:
    """Return an id as upstream does: a string of digits becomes an integer."""
    return int(value) if value.isascii() and value.isdigit() else value


def record(party: Party, mediation_id: str, call: Call | None, now: float) -> dict[str, Any]:
    """Return one record of a call-v2 answer; the scripted fields are replaced or dropped last."""
    fields: dict[str, Any] = dict.fromkeys(RECORD_FIELDS)
    fields |= {
        "errorCode": party.error_code,
        "message": party.message_sent,
        "personId": party.person_id,
        "startTime": party.start_time,
        "callInterval": party.call_interval,
    }
    if party.error_code == 0:
        fields |= {
            "mediationId": upstream_id(mediation_id),
            "nodeId": 1,
            "taskName": "调解意向调查",
            "personType": party.person_type,
            "mediationType": 1,
            "deleteStatus": 0,
            "creator": "system",
            "createTime": datetime.fromtimestamp(now, CHINA).strftime("%Y-%m-%d"),
        }
        if call:
            fields |= {
                "id": call.number,
                "jobId": call.job_id,
                "instanceId": call.instance_id,
                "jobGroupId": call.job_group_id,
                "scriptId": call.script_id,
                "callStatus": call.life.status_at(0),
            }
    fields |= party.record
    return {name: value for name, value in fields.items() if name not in party.drop}


def status(book: Book, call: Call, now: float) -> dict[str, Any]:
    """Return the data of a status answer."""
    return {
        "caseRef": call.case_id,
        "phoneNumber": call.phone_number,
        "jobId": call.job_id,
        "callStatus": book.status(call, now),
        "fetchTime": datetime.fromtimestamp(now, CHINA).strftime("%Y-%m-%d %H:%M:%S"),
        "jobGroupId": call.job_group_id,
        "instanceId": call.instance_id,
    }


def conversation(book: Book, call: Call, now: float) -> dict[str, Any]:
    """Return one entry of a conversation log: the lines up to now, in a string."""
    return {
        "callType": "intent_survey",
        "jobId": call.job_id,
        "conversations": json.dumps(_said(book, call, now), ensure_ascii=False),
        "callStatus": book.status(call, now),
        "recordUrl": _record_url(book, call, now),
    }


def _said(book: Book, call: Call, now: float) -> list[dict[str, Any]]:
    if call.life.talk is None:
        return []
    begin, end = call.life.talk
    step = (_TALK if math.isinf(end) else end - begin) / len(_LINES)
    spoken = [(begin + step * number, *line) for number, line in enumerate(_LINES)]
    age = book.age(call, now)
    return [
        {"timestamp": int(book.moment(call, at, now) * 1000), "speaker": speaker, "script": script, "action": action}
        for at, speaker, action, script in (*spoken, (end, "Robot", "EndDialogue", None))
        if at <= age
    ]


def _record_url(book: Book, call: Call, now: float) -> str | None:
    """Return the signed link of a call with a talk that has ended, else None."""
    if call.life.talk is None or book.age(call, now) < call.life.ends:
        return None
    expires = int(book.moment(call, call.life.ends, now)) + LINK_LIFE
    signature = base64.b64encode(hashlib.sha256(f"{call.job_id}{expires}".encode()).digest()[:20]).decode()
    day = datetime.fromtimestamp(call.created_at, UTC).strftime("%Y%m%d")
    return (
        f"http://recordings.example.com/{day}/{call.job_id}.wav"
        f"?Expires={expires}&OSSAccessKeyId={'LTAI' + call.script_id[:8]}&Signature={quote(signature, safe='')}"
    )

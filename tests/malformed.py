"""List valid and malformed messages of the trigger queue."""

import base64
import json
import zlib
from typing import Any

BODY = [[], {"case_id": "C-1", "mediation_id": 20}, {}]
HEADERS = {"task": "outbound.trigger", "id": "task-1"}
PROPERTIES = {"delivery_tag": "tag-1", "delivery_info": {"exchange": "", "routing_key": "outbound.trigger"}}


def message(*, body: object = BODY, headers: object = HEADERS, **changes: Any) -> dict[str, Any]:
    """Return a valid message with parts replaced; None removes a part."""
    good = {
        "body": body if isinstance(body, str) or body is None else json.dumps(body),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": PROPERTIES,
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


PROTOCOL_1 = {"task": "outbound.trigger", "id": "task-1", "args": [], "kwargs": BODY[1]}
BASE64 = {**PROPERTIES, "body_encoding": "base64"}
ZIPPED = base64.b64encode(zlib.compress(json.dumps(BODY).encode())).decode()


def typed(kind: str, value: object) -> dict[str, object]:
    """Return a value that kombu's JSON decoder converts to another type."""
    return {"__type__": kind, "__value__": value}


def nested(levels: int) -> list[Any]:
    """Return lists nested `levels` deep."""
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


GOOD = {
    "as documented": message(),
    "with the fields of Celery": message(
        headers={
            **HEADERS,
            "lang": "py",
            "shadow": None,
            "eta": "2026-11-22T09:00:00+00:00",
            "expires": "2026-11-22T09:00:00Z",
            "group": None,
            "retries": 0,
            "timelimit": [None, 3.5],
            "stamped_headers": None,
            "stamps": {},
        }
    ),
    "no embedded part": message(body=[[], {}, None]),
    "base64": message(
        body="W1tdLCB7fSwge31d",
        properties={**PROPERTIES, "body_encoding": "base64"},  # [[], {}, {}]
    ),
    "protocol 1": message(body=PROTOCOL_1, headers=None),
    "headers that are ignored": message(
        headers={**HEADERS, "shadow": [], "timelimit": 3, "stamps": [1], "group": "g", "chord": "c", "callbacks": "x"}
    ),
    "protocol 1 without arguments": message(body={"task": "outbound.trigger", "id": "x"}, headers=None),
    "a mixture": message(body={"args": [], "kwargs": {}}),
    "no callbacks": message(body=[[], {}, dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))]),
    "a date": message(body=[[], {"case_id": {"__type__": "datetime", "__value__": "2026-11-22"}}, {}]),
}
BAD: dict[str, Any] = {
    "a number": 17,
    "null": None,
    "a list": [],
    "empty": {},
    "no properties": message(properties=None),
    "properties a list": message(properties=[]),
    "no delivery tag": message(properties={"delivery_info": PROPERTIES["delivery_info"]}),
    "a number as tag": message(properties={**PROPERTIES, "delivery_tag": 7}),
    "no delivery info": message(properties={"delivery_tag": "t"}),
    "delivery info without its place": message(properties={"delivery_tag": "t", "delivery_info": {"exchange": ""}}),
    "an unknown encoding": message(properties={**PROPERTIES, "body_encoding": "rot13"}),
    "no body": message(body=None),
    "body no JSON": message(body="{"),
    "body nested without end": message(body="[" * 100_000),
    "body a text": message(body='"text"'),
    "body of two": message(body=[[], {}]),
    "body of four": message(body=[[], {}, {}, {}]),
    "args no list": message(body=[{}, {}, {}]),
    "kwargs a list": message(body=[[], [], {}]),
    "an embedded list": message(body=[[], {}, []]),
    "body an object": message(body={"case_id": "C-1"}),
    "body an object of three": message(body={"a": 1, "b": 2, "c": 3}),
    "headers a list": message(headers=[]) | {"headers": [1]},
    "no headers": message(headers=None),
    "no task": message(headers={"id": "x"}),
    "task a list": message(headers={"task": [], "id": "x"}),
    "no id": message(headers={"task": "outbound.trigger"}),
    "an empty id": message(headers={**HEADERS, "id": ""}),
    "id a number": message(headers={**HEADERS, "id": 7}),
    "bad expires": message(headers={**HEADERS, "expires": "soon"}),
    "expires without a zone": message(headers={**HEADERS, "expires": "2026-11-22T09:00:00"}),
    "eta without a zone": message(headers={**HEADERS, "eta": "2026-11-22 09:00"}),
    "expires a number": message(headers={**HEADERS, "expires": 1_770_463_000}),
    "bad eta": message(headers={**HEADERS, "eta": "tomorrow"}),
    "eta an object": message(headers={**HEADERS, "eta": {}}),
    "an unknown compression": message(headers={**HEADERS, "compression": "zip of mine"}),
    "compressed": message(body=ZIPPED, headers={**HEADERS, "compression": "application/x-gzip"}, properties=BASE64),
    "compressed by its charset": message(body=ZIPPED, properties=BASE64, **{"content-encoding": "zlib"}),
    "another charset": message(**{"content-encoding": "latin-1"}),
    "another task": message(headers={**HEADERS, "task": "celery.starmap"}),
    "a poll": message(headers={**HEADERS, "task": "outbound.poll"}),
    "a long id": message(headers={**HEADERS, "id": "x" * 201}),
    "an id of two lines": message(headers={**HEADERS, "id": "a\nb"}),
    "id a lone surrogate": message(headers={**HEADERS, "id": "\ud800"}),
    "id null": message(headers={**HEADERS, "id": None}),
    "a root id of two lines": message(headers={**HEADERS, "root_id": "a\nb"}),
    "callbacks": message(body=[[], {}, {"callbacks": [{"task": "x"}]}]),
    "errbacks": message(body=[[], {}, {"errbacks": "junk"}]),
    "a chain": message(body=[[], {}, {"chain": [7]}]),
    "a chord": message(body=[[], {}, {"chord": {"task": "x"}}]),
    "another id, embedded": message(body=[[], {}, {"id": "other"}]),
    "callbacks of protocol 1": message(body={**PROTOCOL_1, "callbacks": [1]}, headers=None),
    "5,000 digits": b"9" * 5_000,
    "5,000 digits in its body": message(body='[[], {"case_id": ' + "9" * 5_000 + "}, {}]"),
    "5,000 digits in a header": json.dumps(message(headers={**HEADERS, "x": 1}))
    .replace("1}", "9" * 5_000 + "}")
    .encode(),
    "nested without end": b"[" * 200_000,
    "a body nested deeply": message(body=[[], {"case_id": nested(25)}, {}]),
    "a body nested nearly too deeply for Python": message(body=[[], {"case_id": nested(900)}, {}]),
    "no UTF-8": b"\xff\xfe",
    "too long": message(body=[[], {"case_id": "x" * 20_000}, {}]),
    **{f"no {name}": message(body=[[], {"case_id": typed(name, "x")}, {}]) for name in ("datetime", "decimal", "uuid")},
    "an unknown type": message(body=[[], {"case_id": typed("bytes", 7)}, {}]),
    "a typed header": message(headers={**HEADERS, "id": typed("datetime", "2026-11-22")}),
    "a tag of no text": message(properties={**PROPERTIES, "delivery_tag": {}}),
    "a priority of no number": message(properties={**PROPERTIES, "priority": "high"}),
    "no content type": message(**{"content-type": None}),
    "pickle": message(**{"content-type": "application/x-python-serialize"}),
    "YAML": message(**{"content-type": "application/x-yaml"}),
    "content type a number": message(**{"content-type": 7}),
    "an unknown charset": message(**{"content-encoding": 7}),
    "protocol 1 without an id": message(body={"task": "outbound.trigger", "args": []}, headers=None),
    "protocol 1 with args no list": message(body={**PROTOCOL_1, "args": 7}, headers=None),
    "protocol 1 with kwargs no object": message(body={**PROTOCOL_1, "kwargs": []}, headers=None),
}

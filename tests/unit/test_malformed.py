"""What is read of a task's message before Celery gets it: all that Celery's worker reads, and nothing that it does."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.strategy import default
from hypothesis import given
from hypothesis import strategies as st
from kombu.transport.virtual import Channel as VirtualChannel

from worker import tasks
from worker.app import app
from worker.malformed import read_task

QUEUES = ("outbound.trigger", "outbound.control")
TASKS = {task.name: task for task in (tasks.trigger, tasks.poll, tasks.look_up)}
BODY = [[], {"case_id": "C-1", "mediation_id": 20}, {}]
HEADERS = {"task": "outbound.trigger", "id": "task-1"}
PROPERTIES = {"delivery_tag": "tag-1", "delivery_info": {"exchange": "", "routing_key": "outbound.trigger"}}


def message(*, body: object = BODY, headers: object = HEADERS, **changes: Any) -> dict[str, Any]:
    """Return a good message with parts replaced; None leaves a part out."""
    good = {
        "body": body if isinstance(body, str) or body is None else json.dumps(body),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": PROPERTIES,
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


class Pool:
    """A pool that takes tasks over and carries none out."""

    def __init__(self) -> None:
        self.taken = 0

    def apply_async(self, *_: Any, accept_callback: Any, **__: Any) -> None:
        self.taken += 1
        accept_callback(1, 0.0)


@pytest.fixture(scope="module", autouse=True)
def _no_results() -> Iterator[None]:
    """Let no task store the result of a message that expired; forget afterwards which have."""
    results = SimpleNamespace(mark_as_revoked=lambda *_, **__: None, mark_as_failure=lambda *_, **__: None)
    with pytest.MonkeyPatch.context() as patch:
        for task in TASKS.values():
            patch.setattr(task, "_backend", results, raising=False)
        yield
    state.revoked.clear()


class Worker:
    """As much of Celery's worker as stands between a message and its pool: its own code, without a broker."""

    def __init__(self) -> None:
        self.pool = Pool()
        self.refused: list[str] = []
        quiet = SimpleNamespace(send=lambda *_, **__: None, enabled=True)
        self.consumer: Any = SimpleNamespace(
            hostname="w@host",
            connection_errors=(),
            event_dispatcher=quiet,
            timer=SimpleNamespace(call_at=lambda *_, **__: None),
            apply_eta_task=None,
            disable_rate_limits=True,
            task_buckets={},
            on_task_request=lambda request: request.execute_using_pool(self.pool),
            _limit_task=None,
            _limit_post_eta=None,
            pool=self.pool,
            controller=SimpleNamespace(state=state),
            qos=SimpleNamespace(increment_eventually=lambda: None),
            on_unknown_message=lambda *_: self.refused.append("unknown message"),
            on_unknown_task=lambda *_: self.refused.append("unknown task"),
            on_invalid_task=lambda *_: self.refused.append("invalid task"),
            on_decode_error=lambda *_: self.refused.append("decode error"),
            on_task_message=[],
            call_soon_ack=None,
            app=app,
            _maximum_prefetch_restored=True,
            restart_count=0,
            _restore_prefetch_count_after_connection_restart=None,
        )
        self.consumer.strategies = {name: default(task, app, self.consumer) for name, task in TASKS.items()}
        self.receive = Consumer.create_task_handler(self.consumer)


CHANNEL = SimpleNamespace(
    Message=VirtualChannel.Message, decode_body=VirtualChannel.decode_body, codecs=VirtualChannel.codecs
)
CHANNEL.decode_body = VirtualChannel.decode_body.__get__(CHANNEL)


def readable(entry: Any) -> bool:
    try:
        read_task(CHANNEL, entry)
    except Exception:  # noqa: BLE001 - as the transport does
        return False
    return True


PROTOCOL_1 = {"task": "outbound.trigger", "id": "task-1", "args": [], "kwargs": BODY[1]}
GOOD = {
    "as documented": message(),
    "with what Celery adds": message(
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
    "an unknown task": message(headers={"task": "outbound.nothing", "id": "x"}),
    "base64": message(
        body="W1tdLCB7fSwge31d",
        properties={**PROPERTIES, "body_encoding": "base64"},  # [[], {}, {}]
    ),
    "protocol 1": message(body=PROTOCOL_1, headers=None),
    "protocol 1 without arguments": message(body={"task": "outbound.trigger", "id": "x"}, headers=None),
    "a mixture": message(body={"args": [], "kwargs": {}}),
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
    "shadow a list": message(headers={**HEADERS, "shadow": []}),
    "bad expires": message(headers={**HEADERS, "expires": "soon"}),
    "expires a number": message(headers={**HEADERS, "expires": 1_770_463_000}),
    "bad eta": message(headers={**HEADERS, "eta": "tomorrow"}),
    "eta an object": message(headers={**HEADERS, "eta": {}}),
    "one time limit": message(headers={**HEADERS, "timelimit": [3]}),
    "a time limit": message(headers={**HEADERS, "timelimit": 3}),
    "time limits of text": message(headers={**HEADERS, "timelimit": ["3", None]}),
    "stamped headers a number": message(headers={**HEADERS, "stamped_headers": 7}),
    "stamps a list": message(headers={**HEADERS, "stamps": [1]}),
    "an unknown compression": message(headers={**HEADERS, "compression": "zip of mine"}),
    "no content type": message(**{"content-type": None}),
    "pickle": message(**{"content-type": "application/x-python-serialize"}),
    "YAML": message(**{"content-type": "application/x-yaml"}),
    "content type a number": message(**{"content-type": 7}),
    "an unknown charset": message(**{"content-encoding": 7}),
    "a mixture with a bad header": message(body=PROTOCOL_1, headers={**HEADERS, "shadow": []}),
    "protocol 1 without an id": message(body={"task": "outbound.trigger", "args": []}, headers=None),
    "protocol 1 with args no list": message(body={**PROTOCOL_1, "args": 7}, headers=None),
    "protocol 1 with kwargs no object": message(body={**PROTOCOL_1, "kwargs": []}, headers=None),
}


@pytest.mark.parametrize("entry", [pytest.param(entry, id=name) for name, entry in GOOD.items()])
def test_what_celery_can_take_apart_is_read(entry: dict[str, Any]) -> None:
    assert readable(entry)


@pytest.mark.parametrize("entry", [pytest.param(entry, id=name) for name, entry in BAD.items()])
def test_what_it_cannot_is_not(entry: Any) -> None:
    """S38."""
    assert not readable(entry)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
MOMENTS = st.datetimes().map(str) | st.sampled_from(
    ["0001-01-01", "9999-12-31T23:59:59-23:59", "9999-12-31", "0001-01-01T00:00:00+23:59", "2026-W01-1"]
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "task": st.sampled_from([*TASKS, "outbound.nothing"]) | JSON,
    "id": st.just("x") | JSON,
    "eta": MOMENTS | JSON,
    "expires": MOMENTS | JSON,
    "timelimit": st.lists(st.none() | st.floats() | JSON, min_size=1, max_size=3) | JSON,
    **dict.fromkeys(
        ("shadow", "stamped_headers", "stamps", "root_id", "parent_id", "group", "retries", "argsrepr"), JSON
    ),
    **dict.fromkeys(("kwargsrepr", "ignore_result", "lang", "origin", "replaced_task_nesting", "compression"), JSON),
}
CHANGED = st.fixed_dictionaries({}, optional=FIELDS)
BODIES = (
    st.just(BODY)
    | st.tuples(st.lists(JSON, max_size=2), st.dictionaries(st.text(max_size=5), JSON, max_size=2), JSON)
    | st.fixed_dictionaries({}, optional={**FIELDS, "args": JSON, "kwargs": JSON, "utc": JSON, "taskset": JSON})
    | JSON
)


@hypothesis.settings(max_examples=300)
@given(CHANGED, BODIES, st.booleans(), st.fixed_dictionaries({}, optional={"priority": JSON, "reply_to": JSON}))
def test_what_is_read_ends_no_worker(fields: dict[str, Any], body: Any, plain: bool, more: dict[str, Any]) -> None:
    """S38: a message that passed and made Celery's worker raise would be handed to one worker after the other."""
    headers = (HEADERS | fields) if not plain else fields
    entry = json.loads(json.dumps(message(body=body, headers=headers, properties={**PROPERTIES, **more})))
    if readable(entry):
        state.revoked.clear()
        worker = Worker()
        worker.receive(VirtualChannel.Message(entry, channel=CHANNEL))
        assert worker.pool.taken <= 1


@pytest.mark.parametrize("entry", [pytest.param(entry, id=name) for name, entry in GOOD.items()])
def test_the_worker_of_the_test_takes_good_messages(entry: dict[str, Any]) -> None:
    """Or the test before would prove nothing."""
    state.revoked.clear()
    worker = Worker()
    worker.receive(VirtualChannel.Message(entry, channel=CHANNEL))
    later = "eta" in entry.get("headers", {})
    assert (
        (worker.pool.taken, worker.refused) == (0, ["unknown task"])
        if "nothing" in str(entry)
        else (
            int(not later),
            [],
        )
    )

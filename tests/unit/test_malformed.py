"""Test the validation of task messages before Celery reads them: malformed ones never reach Celery's worker."""

import json
import uuid
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
from kombu.utils import json as kombu_json

from tests.malformed import BAD, BODY, GOOD, HEADERS, PROPERTIES, message
from worker import tasks
from worker.app import app
from worker.runtime.task_message import READING, MalformedError, read_task

TASKS = {task.name: task for task in (tasks.trigger, tasks.poll, tasks.look_up)}
ETA = "2026-11-22T00:00:00Z"


class Pool:
    """A pool that accepts tasks without running them."""

    def __init__(self) -> None:
        self.taken = 0

    def apply_async(self, *_: Any, accept_callback: Any, **__: Any) -> None:
        self.taken += 1
        accept_callback(1, 0.0)


@pytest.fixture(scope="module", autouse=True)
def _no_results() -> Iterator[None]:
    """Disable results of expired messages; reset the list of revoked ones afterwards."""
    results = SimpleNamespace(mark_as_revoked=lambda *_, **__: None, mark_as_failure=lambda *_, **__: None)
    with pytest.MonkeyPatch.context() as patch:
        for task in TASKS.values():
            patch.setattr(task, "_backend", results, raising=False)
        yield
    state.revoked.clear()


class Worker:
    """Celery's own code between a message and the worker's pool, without a broker."""

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


def read(entry: Any) -> dict[str, Any] | None:
    """Return the message read from an entry of the trigger queue, or None if it is malformed."""
    text = entry if isinstance(entry, bytes) else json.dumps(entry).encode()
    try:
        return read_task(text, "outbound.trigger", "outbound.trigger")
    except READING:
        return None


def handed_to_celery(message: dict[str, Any]) -> Worker:
    state.revoked.clear()
    worker = Worker()
    worker.receive(VirtualChannel.Message(json.loads(kombu_json.dumps(message)), channel=CHANNEL))
    return worker


BODY_FAULT = "body: should be a JSON text (a string) of a list of three: positional arguments, kwargs, an empty object"
ID_FAULT = "should be a text of 1 to 200 printable characters"
MOMENT_FAULT = "should be an ISO 8601 time with its zone, like 2026-11-22T09:00:00Z"


@pytest.mark.parametrize("entry", [pytest.param(entry, id=name) for name, entry in GOOD.items()])
def test_valid_message_of_the_queues_task_is_read(entry: dict[str, Any]) -> None:
    assert read(entry)


@pytest.mark.parametrize("entry", [pytest.param(entry, id=name) for name, entry in BAD.items()])
def test_s38_any_other_entry_is_malformed(entry: Any) -> None:
    """S38: reading returns no message."""
    assert read(entry) is None


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (b"\xff", "entry: should be a JSON object in UTF-8"),
        (BAD["too long"], "entry: should have at most 16384 bytes"),
        (BAD["a number"], "entry: should be a JSON object"),
        (BAD["no body"], BODY_FAULT.replace("should", "missing, should")),
        (BAD["body no JSON"], BODY_FAULT),
        (BAD["kwargs a list"], BODY_FAULT),
        (BAD["no datetime"], BODY_FAULT),
        (BAD["body an object"], BODY_FAULT),
        (BAD["a body nested deeply"], "body: should have at most 20 levels"),
        (BAD["a chain"], "body.chain: should be absent"),
        (BAD["another id, embedded"], "body: should embed nothing"),
        (BAD["pickle"], "content-type: should be application/json"),
        (BAD["compressed"], "headers.compression: should be absent"),
        (BAD["headers a list"], "headers: should be a JSON object"),
        (BAD["a number as tag"], "properties.delivery_tag: should be a UUID"),
        (BAD["another charset"], "content-encoding: should be utf-8"),
        (BAD["a priority of no number"], "properties.priority: Input should be a valid integer"),
        (BAD["no id"], f"headers.id: missing, {ID_FAULT}"),
        (BAD["an id of two lines"], f"headers.id: {ID_FAULT}"),
        (BAD["a poll"], "headers.task: should be outbound.trigger, the task of this queue"),
        (BAD["expires without a zone"], f"headers.expires: {MOMENT_FAULT}"),
        (BAD["bad expires"], f"headers.expires: {MOMENT_FAULT}"),
        (BAD["expires a number"], f"headers.expires: {MOMENT_FAULT}"),
        (BAD["eta without a zone"], f"headers.eta: {MOMENT_FAULT}"),
        (
            BAD["delivery info without its place"],
            "properties.delivery_info.routing_key: missing, should be the name of this queue",
        ),
    ],
)
def test_s38_fault_names_the_wrong_field_and_quotes_nothing(entry: Any, fault: str) -> None:
    """S37 S38: an `expires` without a zone would be read as UTC, in Shanghai 8 hours late."""
    text = entry if isinstance(entry, bytes) else json.dumps(entry).encode()
    with pytest.raises(MalformedError) as caught:
        read_task(text, "outbound.trigger", "outbound.trigger")
    assert (str(caught.value), caught.value.field) == (fault, fault.partition(":")[0])


def test_s38_only_required_fields_are_passed_on() -> None:
    """S38: with its own queue as routing key, a new delivery tag, and no field that makes Celery act."""
    place = {"exchange": "callwatch", "routing_key": "callwatch:due", "redelivered": True}
    extra = {"group": "g", "chord": "c", "shadow": "x", "timelimit": [1, 1], "kwargsrepr": "P-1", "reply_to": "x"}
    given = message(
        headers={
            **HEADERS,
            **extra,
            "eta": "2026-11-22T00:00:00Z",
            "expires": None,
            "root_id": "root",
            "ignore_result": True,
        },
        properties={**PROPERTIES, "delivery_info": place, "priority": 3, "reply_to": "callwatch:due", "x": 1},
        more="x",
    )
    found = read(given)
    assert found
    tag = found["properties"].pop("delivery_tag")
    assert str(uuid.UUID(tag)) == tag
    assert found == {
        "body": json.dumps(BODY),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {**HEADERS, "eta": ETA, "root_id": "root", "ignore_result": True},
        "properties": {
            "delivery_info": {"exchange": "", "routing_key": "outbound.trigger", "redelivered": True},
            "priority": 3,
        },
    }


def test_poll_messages_may_be_long() -> None:
    """Only workers write to that queue."""
    polls = [[], {"polls": [{"job_id": f"job-{number}", "case_id": "C-1"} for number in range(4_000)]}, {}]
    text = json.dumps(message(body=polls, headers={"task": "outbound.poll", "id": "x"})).encode()
    assert read_task(text, "outbound.poll", "outbound.poll")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
MOMENTS = st.datetimes().map(lambda moment: f"{moment}+08:00") | st.sampled_from(
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
def test_s38_no_accepted_message_makes_celerys_worker_raise(
    fields: dict[str, Any], body: Any, plain: bool, more: dict[str, Any]
) -> None:
    """S38: such a message would be redelivered and end one worker after another."""
    headers = (HEADERS | fields) if not plain else fields
    found = read(message(body=body, headers=headers, properties={**PROPERTIES, **more}))
    if found:
        worker = handed_to_celery(found)
        assert worker.pool.taken <= 1
        assert worker.refused == []


WHOLE = json.dumps(message()).encode()
CUT = st.tuples(st.integers(0, len(WHOLE)), st.integers(0, 40), st.binary(max_size=40)).map(
    lambda cut: WHOLE[: cut[0]] + cut[2] + WHOLE[cut[0] + cut[1] :]
)


@hypothesis.settings(max_examples=500)
@given(st.binary() | CUT)
def test_s38_arbitrary_bytes_are_accepted_or_malformed(text: bytes) -> None:
    """S38: reading raises no other error, and Celery's worker handles every message that it returns."""
    found = read(text)
    if found:
        assert handed_to_celery(found).refused == []


@pytest.mark.parametrize("entry", [pytest.param(entry, id=name) for name, entry in GOOD.items()])
def test_worker_of_these_tests_accepts_valid_messages(entry: dict[str, Any]) -> None:
    """Without this the tests above would prove nothing."""
    found = read(entry)
    assert found
    worker = handed_to_celery(found)
    assert (worker.pool.taken, worker.refused) == (0 if "eta" in found["headers"] else 1, [])

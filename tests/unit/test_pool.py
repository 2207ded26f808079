"""Celery's requests come to the line as what they are, and are carried out as in Celery's own pool of threads."""

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency import get_implementation
from celery.worker.request import create_request_cls
from kombu.utils.imports import symbol_by_name
from kombu.utils.json import dumps

from config.settings import Settings
from tests.deployment import wait_until
from worker.app import app, celery_config
from worker.pool import POLL_TASK, POLLS_AT_WORK, TaskPool, due
from worker.tasks import look_up, poll, trigger

TASKS = {task.name: task for task in (trigger, poll, look_up)}


@pytest.fixture
def pool() -> Iterator[TaskPool]:
    """The pool of a worker."""
    one = TaskPool(limit=POLLS_AT_WORK + 1)
    yield one
    one.on_stop()


def request(pool: TaskPool, name: str, kwargs: dict[str, Any], **others: Any) -> Any:
    """A request as a worker makes it of a message that was published with those kwargs."""
    made = app.amqp.as_task_v2("task-1", name, kwargs=kwargs)
    body = dumps(made.body)
    message = SimpleNamespace(
        headers=made.headers,
        body=body,
        payload=made.body,
        content_type="application/json",
        content_encoding="utf-8",
        delivery_info={},
        properties=made.properties,
    )
    task = TASKS[name]
    kind = create_request_cls(symbol_by_name(task.Request), task, pool, "w", None, app=app, **others)
    return kind(message, app=app, task=task, body=body)


@pytest.mark.parametrize(
    ("kwargs", "due"),
    [
        ({"due": 1_700_000_000.25}, 1_700_000_000.25),
        ({"due": 1_700_000_000}, 1_700_000_000),
        ({}, 0),
        ({"due": None}, 0),
        ({"due": "soon"}, 0),
        ({"due": [1]}, 0),
        ({"due": 10**400}, 0),
    ],
)
def test_s28_a_poll_waits_in_the_line_under_its_time(
    monkeypatch: pytest.MonkeyPatch, pool: TaskPool, kwargs: dict[str, Any], due: float
) -> None:
    put: list[float] = []
    monkeypatch.setattr(pool, "_line", SimpleNamespace(put=lambda _, due: put.append(due), close=lambda: None))
    request(pool, POLL_TASK, kwargs).execute_using_pool(pool)
    assert put == [due]


@pytest.mark.parametrize("body", [b"", b"\xff", "no JSON", "[]", "{}", "[[], 7, {}]", "[" * 100_000])
def test_a_body_that_nobody_can_read_does_not_stop_the_loop(body: str | bytes) -> None:
    """It ends where tasks do: Celery refuses it in its thread."""
    assert due(body) == 0


@pytest.mark.parametrize("name", list(TASKS))
def test_a_task_is_carried_out_and_celery_told(monkeypatch: pytest.MonkeyPatch, pool: TaskPool, name: str) -> None:
    told: list[object] = []
    over = threading.Event()

    def trace(name: str, task_id: str, *_: object) -> tuple[int, str, float]:
        told.append((name, task_id))
        return 0, "'done'", 0.5

    def succeed(result: object) -> None:
        told.append(result)
        over.set()

    one = request(pool, name, {}, trace=trace)
    monkeypatch.setattr(type(one), "on_accepted", lambda _self, pid, _at: told.append(("accepted", pid > 0)))
    monkeypatch.setattr(type(one), "on_success", lambda _self, result: succeed(result))
    one.execute_using_pool(pool)
    assert over.wait(60)
    assert told == [("accepted", True), (name, "task-1"), (0, "'done'", 0.5)]


class Work:
    """Tasks that end when they may; `begun` is released by each."""

    def __init__(self, pool: TaskPool) -> None:
        self.begun, self.may_end = threading.Semaphore(0), threading.Event()
        self._pool = pool

    def put(self, name: str, number: int = 1) -> None:
        """Hand tasks to the pool, polls of which end when they may."""
        for _ in range(number):
            self._pool.apply_async(self._trace, args=(name, "id", {}, "[]"), callback=lambda _: None)

    def _trace(self, name: str, *_: object) -> tuple[int, str, float]:
        self.begun.release()
        assert name != POLL_TASK or self.may_end.wait(60)
        return 0, "'done'", 0.5


@pytest.fixture
def work(pool: TaskPool) -> Iterator[Work]:
    """Work for the pool."""
    one = Work(pool)
    yield one
    one.may_end.set()


def test_polls_leave_a_thread_for_others(work: Work) -> None:
    """Without the line every thread would have a poll."""
    work.put(POLL_TASK, POLLS_AT_WORK + 3)
    work.put("outbound.trigger")
    for _ in range(POLLS_AT_WORK + 1):
        assert work.begun.acquire(timeout=60)
    assert not work.begun.acquire(timeout=0.2)


def test_s25_a_pool_that_stops_waits_for_what_is_at_work_and_begins_nothing_else(pool: TaskPool, work: Work) -> None:
    work.put(POLL_TASK, POLLS_AT_WORK + 3)
    for _ in range(POLLS_AT_WORK):
        assert work.begun.acquire(timeout=60)
    stop = threading.Thread(target=pool.on_stop)
    stop.start()
    wait_until(lambda: pool._line._closed)
    assert stop.is_alive()
    work.may_end.set()
    stop.join(60)
    assert not stop.is_alive()
    assert not work.begun.acquire(blocking=False)


@pytest.mark.parametrize(("configured", "used"), [("threads", TaskPool), ("solo", get_implementation("solo"))])
def test_threads_are_ours_and_every_other_pool_is_celerys(configured: Any, used: Callable[..., Any]) -> None:
    config = celery_config(Settings(_env_file=None, worker_pool=configured))
    assert get_implementation(config["worker_pool"]) is used

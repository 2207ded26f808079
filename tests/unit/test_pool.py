"""Celery's requests come to the line as what they are, and are carried out as in Celery's own pool of threads."""

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency import get_implementation
from celery.worker.request import create_request_cls
from kombu.utils.imports import symbol_by_name

from config.settings import Settings
from worker.app import app, celery_config
from worker.pool import POLL_TASK, POLLS_AT_WORK, TaskPool
from worker.tasks import look_up, poll, trigger

TASKS = {task.name: task for task in (trigger, poll, look_up)}


@pytest.fixture
def pool() -> Iterator[TaskPool]:
    """The pool of a worker."""
    one = TaskPool(limit=POLLS_AT_WORK + 1)
    yield one
    one.on_stop()


def request(pool: TaskPool, name: str, countdown: float, **others: Any) -> Any:
    """A request as a worker makes it of a message that was published with that countdown."""
    made = app.amqp.as_task_v2("task-1", name, kwargs={"case_id": "C-1"}, countdown=countdown)
    message = SimpleNamespace(
        headers=made.headers,
        body=made.body,
        payload=made.body,
        content_type="application/json",
        content_encoding="utf-8",
        delivery_info={},
        properties=made.properties,
    )
    task = TASKS[name]
    kind = create_request_cls(symbol_by_name(task.Request), task, pool, "w", None, app=app, **others)
    return kind(message, app=app, task=task, decoded=True)


@pytest.mark.parametrize(
    ("name", "countdown", "kind"),
    [
        (POLL_TASK, 10, {"poll": True, "missed": False}),
        (POLL_TASK, 0, {"poll": True, "missed": True}),
        ("outbound.trigger", 0, {"poll": False, "missed": True}),
        ("outbound.lookup", 0, {"poll": False, "missed": True}),
    ],
    ids=["a poll", "a poll of the sweep", "a trigger", "a look-up"],
)
def test_s28_a_poll_without_a_time_is_one_that_was_missed(
    monkeypatch: pytest.MonkeyPatch, pool: TaskPool, name: str, countdown: float, kind: dict[str, bool]
) -> None:
    """The line asks of polls alone whether they are missed."""
    put: list[dict[str, bool]] = []
    monkeypatch.setattr(pool, "_line", SimpleNamespace(put=lambda _, **told: put.append(told), run_next=lambda: None))
    request(pool, name, countdown).execute_using_pool(pool)
    assert put == [kind]


def test_a_task_is_carried_out_and_celery_told(monkeypatch: pytest.MonkeyPatch, pool: TaskPool) -> None:
    told: list[object] = []

    def trace(name: str, task_id: str, *_: object) -> tuple[int, str, float]:
        told.append((name, task_id))
        return 0, "'done'", 0.5

    one = request(pool, POLL_TASK, 0, trace=trace)
    monkeypatch.setattr(type(one), "on_accepted", lambda _self, pid, _at: told.append(("accepted", pid > 0)))
    monkeypatch.setattr(type(one), "on_success", lambda _self, result: told.append(result))
    one.execute_using_pool(pool).get(timeout=60)
    assert told == [("accepted", True), (POLL_TASK, "task-1"), (0, "'done'", 0.5)]


def test_polls_leave_a_thread_for_others(pool: TaskPool) -> None:
    """Without the line every thread would have a poll."""
    begun, may_end = threading.Semaphore(0), threading.Event()

    def trace(name: str, *_: object) -> tuple[int, str, float]:
        begun.release()
        assert name != POLL_TASK or may_end.wait(60)
        return 0, "'done'", 0.5

    def put(name: str) -> None:
        pool.apply_async(trace, args=(name, "id", {}), callback=lambda _: None)

    for _ in range(POLLS_AT_WORK + 3):
        put(POLL_TASK)
    put("outbound.trigger")
    try:
        for _ in range(POLLS_AT_WORK + 1):
            assert begun.acquire(timeout=60)
        assert not begun.acquire(timeout=0.2)
    finally:
        may_end.set()


@pytest.mark.parametrize(("configured", "used"), [("threads", TaskPool), ("solo", get_implementation("solo"))])
def test_threads_are_ours_and_every_other_pool_is_celerys(configured: Any, used: Callable[..., Any]) -> None:
    config = celery_config(Settings(_env_file=None, worker_pool=configured))
    assert get_implementation(config["worker_pool"]) is used

"""The ways to a back end, each alone: what counts as delivered, and what is said of who did not take a notice."""

from typing import Any

import pytest
from kombu import Queue
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisAway
from redis.exceptions import NoPermissionError

from tests.receiver import SECRET, Receiver
from worker.channels import TaskCall, Webhook
from worker.notice import Notice
from worker.ports import NotDelivered

EVENT = {"at": 1.0, "kind": "ended", "case_id": "C-1", "mediation_id": "20", "job_id": "job-1"}


@pytest.mark.parametrize("status", [200, 202, 204])
def test_a_success_is_a_success(status: int) -> None:
    with Receiver(lambda _: status) as receiver:
        Webhook(receiver.url, secret=SECRET)(Notice.of("1-0", EVENT))
        assert [notice["id"] for notice in receiver.taken] == ["1-0"]


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 429, 500, 503])
def test_s39_anything_else_is_none_and_no_redirect_is_followed(status: int) -> None:
    with Receiver(lambda _: status) as receiver, pytest.raises(NotDelivered, match=f"^HTTP {status}$"):
        Webhook(receiver.url, secret=SECRET)(Notice.of("1-0", EVENT))


def test_s37_who_is_not_there_is_told_without_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with Receiver() as receiver:
        Webhook(receiver.url, secret=SECRET)(Notice.of("1-0", EVENT))  # S39: no proxy is taken from the environment
        receiver.stop()
        with pytest.raises(NotDelivered) as caught:
            Webhook(receiver.url, secret=SECRET)(Notice.of("1-0", EVENT))
    assert "hook" not in str(caught.value)


def test_a_wrong_secret_is_noticed() -> None:
    with Receiver() as receiver, pytest.raises(NotDelivered, match="HTTP 401"):
        Webhook(receiver.url, secret="another")(Notice.of("1-0", EVENT))


class Producer:
    """An application that remembers what it was told to enqueue, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send_task(self, name: str, **options: Any) -> None:
        if self.error:
            raise self.error
        self.sent.append((name, options))


def test_a_task_of_the_back_end_gets_the_notice_as_json() -> None:
    """S38: on its queue; a repetition has the same task id, and nobody waits for a result that nobody reads."""
    producer = Producer()
    call = TaskCall(producer, "calls.notice", "back-end")
    call(Notice.of("1-0", EVENT))
    call(Notice.of("1-0", EVENT))
    (name, options), again = producer.sent
    assert again[1]["task_id"] == options["task_id"] == "notice-1-0"
    queue = options["queue"]
    assert isinstance(queue, Queue)
    assert (name, queue.name, queue.exchange.name, queue.routing_key) == ("calls.notice", *["back-end"] * 3)
    assert {name: value for name, value in options["kwargs"]["notice"].items() if value is not None} == {
        **EVENT,
        "id": "1-0",
        "version": 1,
    }
    assert (options["kwargsrepr"], options["argsrepr"]) == ("ended C-1/20", "()")
    assert (options["ignore_result"], options["retry"]) == (True, False)


@pytest.mark.parametrize(
    "error", [OperationalError("redis://h"), RedisAway("redis://h"), OSError("redis://h")], ids=repr
)
def test_s37_a_broker_that_does_not_take_a_notice_is_told_without_its_address(error: Exception) -> None:
    with pytest.raises(NotDelivered, match=f"^{type(error).__name__}$"):
        TaskCall(Producer(error), "calls.notice", "back-end")(Notice.of("1-0", EVENT))


def test_why_redis_refuses_a_notice_is_told_in_its_own_word() -> None:
    """A queue that the worker's user has no rights to: kombu's error says nothing of it."""
    error = OperationalError("No permissions to access a key")
    error.__cause__ = NoPermissionError("No permissions to access a key")
    with pytest.raises(NotDelivered, match=r"^NoPermissionError$"):
        TaskCall(Producer(error), "calls.notice", "back-end")(Notice.of("1-0", EVENT))

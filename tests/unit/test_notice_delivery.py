"""Test both notice channels: conditions of a successful delivery, and errors without addresses."""

import contextlib
import gzip
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Queue
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisAway
from redis.exceptions import NoPermissionError

from tests.receiver import SECRET, Receiver
from worker.core.interfaces import NotDelivered
from worker.core.notice import Notice
from worker.runtime.notice_delivery import TaskCall, Webhook

EVENT = {"at": 1.0, "kind": "ended", "case_id": "C-1", "mediation_id": "20", "job_id": "job-1"}


@pytest.mark.parametrize("status", [200, 202, 204])
def test_2xx_response_is_a_delivery(status: int) -> None:
    with Receiver(lambda _: status) as receiver:
        Webhook(receiver.url, secret=SECRET)(Notice.of("1-0", EVENT))
        assert [notice["id"] for notice in receiver.taken] == ["1-0"]


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 429, 500, 503])
def test_s39_other_status_is_no_delivery_and_redirects_are_not_followed(status: int) -> None:
    with Receiver(lambda _: status) as receiver, pytest.raises(NotDelivered, match=f"^HTTP {status}$"):
        Webhook(receiver.url, secret=SECRET)(Notice.of("1-0", EVENT))


def test_s37_connection_error_contains_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with Receiver() as receiver:
        Webhook(receiver.url, secret=SECRET)(Notice.of("1-0", EVENT))  # S39: the proxy of the environment is ignored
        receiver.stop()
        with pytest.raises(NotDelivered) as caught:
            Webhook(receiver.url, secret=SECRET)(Notice.of("1-0", EVENT))
    assert "hook" not in str(caught.value)


def test_receiver_rejects_a_wrong_secret() -> None:
    with Receiver() as receiver, pytest.raises(NotDelivered, match="HTTP 401"):
        Webhook(receiver.url, secret="another")(Notice.of("1-0", EVENT))


class Producer:
    """An application that records sent tasks, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send_task(self, name: str, **options: Any) -> None:
        if self.error:
            raise self.error
        self.sent.append((name, options))


def test_s38_task_channel_sends_the_notice_as_json() -> None:
    """S38: on the back end's queue; a repeated delivery has the same task id; no result is stored."""
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
def test_s37_broker_error_contains_no_address(error: Exception) -> None:
    with pytest.raises(NotDelivered, match=f"^{type(error).__name__}$"):
        TaskCall(Producer(error), "calls.notice", "back-end")(Notice.of("1-0", EVENT))


def test_missing_redis_permission_is_named_in_the_error() -> None:
    """kombu's own error does not show that the worker's user lacks rights to the queue."""
    error = OperationalError("No permissions to access a key")
    error.__cause__ = NoPermissionError("No permissions to access a key")
    with pytest.raises(NotDelivered, match=r"^NoPermissionError$"):
        TaskCall(Producer(error), "calls.notice", "back-end")(Notice.of("1-0", EVENT))


def bomb(size: int) -> bytes:
    """Return `size` zero bytes, compressed twice."""
    return gzip.compress(gzip.compress(bytes(size)))


@contextlib.contextmanager
def raw_answer(answer: bytes) -> Iterator[str]:
    """Serve these bytes as the response to every request, one connection each; yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    connection.recv(65_536)
                    connection.sendall(answer)
                    connection.settimeout(5)
                    connection.recv(1)  # the peer closes first

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/hook"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


@pytest.mark.parametrize("status", [200, 500])
def test_s39_response_body_is_not_decompressed(status: int) -> None:
    """A few hundred bytes could expand to gigabytes."""
    body = bomb(64 * 1024 * 1024)
    head = f"HTTP/1.1 {status} X\r\nContent-Encoding: gzip, gzip\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with raw_answer(head + body) as url:
        webhook = Webhook(url, secret=SECRET)
        tracemalloc.start()
        try:
            with contextlib.suppress(NotDelivered):
                webhook(Notice.of("1-0", EVENT))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 4 * 1024 * 1024


def test_s39_response_without_its_body_counts_by_its_status() -> None:
    with raw_answer(b"HTTP/1.1 200 X\r\nContent-Length: 1000000000\r\n\r\n") as url:
        Webhook(url, secret=SECRET)(Notice.of("1-0", EVENT))


def test_connection_is_reused_only_after_an_empty_response() -> None:
    with Receiver() as receiver:
        webhook = Webhook(receiver.url, secret=SECRET)
        for number in range(3):
            webhook(Notice.of(f"{number}-0", EVENT))
        assert receiver.opened == 1
    with raw_answer(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nok") as url:
        webhook = Webhook(url, secret=SECRET)
        for number in range(3):
            webhook(Notice.of(f"{number}-0", EVENT))

"""A poll accepts one bounded answer to its request; unrequested bytes close the connection (S21, S39)."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from api_client import ProtocolError, UpstreamClient, one_answer
from api_client.transport import MAX_ANSWER_BYTES, AnswerTooLargeError
from tests.on_a_loop import BOTH_WAYS, asked_on_a_loop
from tests.rawserver import PATIENCE, Connection, Script, answers, http, ok, upstream

GOOD = ok({"jobId": "J1", "callStatus": "Executing"})
OLD = ok({"jobId": "J1", "callStatus": "Succeeded"})
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
FLOOD = 64 * 1024 * 1024  # bytes: many times the limit


@pytest.fixture
def on_a_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with asked_on_a_loop(monkeypatch):
        yield


def poll(client: UpstreamClient) -> str:
    return client.status(case_ref="C1", job_id="J1").call_status


@BOTH_WAYS
def test_second_answer_is_not_used_for_the_next_poll() -> None:
    """S21, S23: otherwise each poll over this connection would get the answer to the previous one."""
    with upstream(answers(GOOD + OLD, GOOD, GOOD), answers(GOOD, GOOD)) as (server, client):
        assert [poll(client) for _ in range(3)] == ["Executing"] * 3
        assert len(server.requests) == 3


@pytest.mark.usefixtures("on_a_loop")
@pytest.mark.parametrize(
    "unasked", [OLD, b"\r\n", INTERIM, b"x"], ids=["an answer", "a line", "an interim one", "junk"]
)
def test_unrequested_bytes_close_an_idle_connection(unasked: bytes) -> None:
    """S39: a library that keeps unrequested bytes for the next request would fill the memory."""
    answered = threading.Event()
    ended: list[bool] = []

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(GOOD)
        assert answered.wait(PATIENCE)
        connection.send(unasked)
        ended.append(connection.closed_within(PATIENCE / 4) and connection.read_request() == b"")

    with upstream(script, answers(GOOD)) as (server, client):
        assert poll(client) == "Executing"
        answered.set()
        server.wait_for_scripts()
        assert ended == [True]
        assert poll(client) == "Executing"
        assert (server.connections, len(server.requests)) == (2, 2)


def flood(at_once: bytes, again: bytes, sent: list[int]) -> Script:
    """Send as long as the client accepts it, and record the number of bytes."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(at_once)
        piece = again * (65_536 // len(again))
        while not server_gone(connection) and sum(sent) < FLOOD:
            connection.send(piece)
            sent.append(len(piece))

    return script


def server_gone(connection: Connection) -> bool:
    return connection._server.gone.is_set()


@pytest.mark.usefixtures("on_a_loop")
@pytest.mark.parametrize(
    ("at_once", "again"),
    [
        pytest.param(b"", INTERIM, id="interim answers"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n", id="100 Continue"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 64, id="the extension of a chunk"
        ),
    ],
)
def test_oversized_answer_without_a_body_ends_a_poll(at_once: bytes, again: bytes) -> None:
    """S39: 1 MiB is the limit of the whole answer, and the poll ends before its time-out."""
    sent: list[int] = []
    with upstream(flood(at_once, again, sent), answers(GOOD), status_timeout=PATIENCE) as (server, client):
        with pytest.raises(ProtocolError, match=r"AnswerTooLargeError"):
            poll(client)
        server.wait_for_scripts()
        assert sum(sent) < FLOOD
        assert poll(client) == "Executing"


@BOTH_WAYS
@pytest.mark.parametrize("number", [1, 8])
def test_a_few_interim_answers_are_ignored(number: int) -> None:
    with upstream(answers(b"HTTP/1.1 100 Continue\r\n\r\n" * number + GOOD, GOOD)) as (server, client):
        assert [poll(client) for _ in range(2)] == ["Executing"] * 2
        assert server.connections == 1


async def hand_data_over() -> None:
    """Connections without a socket."""
    loop, under_way = asyncio.get_running_loop(), one_answer.UnderWay()
    large, small, flooded, poured = (one_answer.OneAnswerHandler(loop, under_way) for _ in range(4))
    for one in (large, small, flooded, poured):
        one.set_response_params()
    large.data_received(ok({"jobId": "J1", "more": "x" * 4 * one_answer.SMALL})[: 2 * one_answer.SMALL])
    under_way.size += one_answer.MAX_TOGETHER
    small.data_received(GOOD)
    assert (len(small), small.exception()) == (1, None)
    large.data_received(b"x")
    assert isinstance(large.exception(), AnswerTooLargeError)
    flooded.data_received(INTERIM * 1_000)
    assert len(flooded) == 0
    flooded.data_received(GOOD)
    assert len(flooded) == 1
    poured.data_received(b"x" * (MAX_ANSWER_BYTES + 1))
    assert isinstance(poured.exception(), AnswerTooLargeError)


def test_heads_of_interim_answers_are_not_kept_and_small_answers_are_always_read() -> None:
    """S39: for any size of the answers to other polls."""
    asyncio.run(hand_data_over())


@pytest.mark.usefixtures("on_a_loop")
def test_unfinished_answers_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """S39: thousands of answers can arrive at the same time; small ones are still read."""
    monkeypatch.setattr(one_answer, "MAX_TOGETHER", 4 * one_answer.SMALL)
    large = ok({"jobId": "J1", "callStatus": "Executing", "more": "x" * 3 * one_answer.SMALL})
    sent, go_on = threading.Event(), threading.Event()

    def held(connection: Connection) -> None:
        connection.read_request()
        connection.send(large[:-9])
        sent.set()
        assert go_on.wait(PATIENCE)
        connection.send(large[-9:])

    with (
        upstream(held, answers(large), answers(GOOD, large)) as (_, client),
        ThreadPoolExecutor(1) as another,
    ):
        first = another.submit(poll, client)
        assert sent.wait(PATIENCE)
        with pytest.raises(ProtocolError, match=r"AnswerTooLargeError"):
            poll(client)
        assert poll(client) == "Executing"
        go_on.set()
        assert first.result(PATIENCE) == "Executing"
        assert poll(client) == "Executing"


@BOTH_WAYS
def test_s37_the_name_of_a_cookie_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """S37: aiohttp logs a warning about an unreadable cookie and quotes it."""
    cookie = http(200, GOOD.partition(b"\r\n\r\n")[2], headers={"Set-Cookie": "person-secret 1=x; Path=/"})
    with caplog.at_level(logging.DEBUG), upstream(answers(cookie)) as (_, client):
        assert poll(client) == "Executing"
    assert "person-secret" not in caplog.text

"""The time and size limits of an answer, against a slow server and against an endless answer (S39)."""

import io
import json
import socket
import time
from collections.abc import Callable

import pytest

from api_client import (
    ApiError,
    CallRequest,
    ConversationLog,
    OutcomeUnknown,
    ProtocolError,
    Unavailable,
    transport,
)
from api_client import (
    client as client_module,
)
from api_client.envelope import conversation_logs
from tests.on_a_loop import BOTH_WAYS
from tests.rawserver import PATIENCE, Connection, Script, answers, http, ok, upstream

REQUEST = CallRequest("C1", "M1")
GOOD = ok({"jobId": "J1", "callStatus": "Executing"})
MIB = 1024 * 1024
HEAD = b"HTTP/1.1 200 OK\r\n"
LONG = 2000  # bytes at 50 per second: far longer than the half second allowed


def dripping(at_once: bytes, then: bytes) -> Script:
    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(at_once)
        connection.drip(then)

    return script


def pouring(at_once: bytes, again_and_again: bytes) -> Script:
    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(at_once)
        for _ in range(4 * MIB // len(again_and_again)):
            connection.send(again_and_again)
        connection.read_request()

    return script


DRIPS = [
    pytest.param(dripping(b"", HEAD + b"x" * LONG), id="status line"),
    pytest.param(dripping(HEAD, b"X-Header: y\r\n" * LONG), id="headers"),
    pytest.param(dripping(http(200, b" " * LONG).split(b"  ")[0], b" " * LONG), id="body"),
    pytest.param(dripping(HEAD + b"\r\n", b" " * LONG), id="body without a length"),
    pytest.param(dripping(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * LONG), id="chunks"),
    pytest.param(dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * LONG), id="one 100 Continue after the other"),
]
FLOODS = [
    pytest.param(pouring(HEAD + b"Content-Length: %d\r\n\r\n" % (4 * MIB), b" " * 4096), id="with Content-Length"),
    pytest.param(answers(HEAD + b"Content-Length: 999999999999999\r\n\r\n", GOOD), id="a length beyond any memory"),
    pytest.param(pouring(HEAD + b"\r\n", b" " * 4096), id="without Content-Length"),
    pytest.param(
        pouring(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b" " * 4096 + b"\r\n"), id="chunks"
    ),
    pytest.param(answers(HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffff\r\n", GOOD), id="one endless chunk"),
    pytest.param(pouring(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), id="one 100 Continue after the other"),
    pytest.param(pouring(HEAD, b"X-Header: y\r\n" * 100), id="headers"),
]


@BOTH_WAYS
@pytest.mark.parametrize("script", DRIPS)
def test_slow_answer_ends_a_poll_at_its_time_out(script: Script) -> None:
    """The time-out covers the whole answer, not each read; the next poll uses a new connection."""
    with upstream(script, answers(GOOD), status_timeout=0.5) as (server, client):
        with pytest.raises(Unavailable):
            client.status(case_ref="C1", job_id="J1")
        assert server.gone.wait(PATIENCE), "the client waited until the server gave up"
        assert client.status(case_ref="C1", job_id="J1").call_status == "Executing"
        assert (server.connections, len(server.requests)) == (2, 2)


@pytest.mark.parametrize("script", DRIPS)
def test_slow_answer_ends_a_dial_at_its_time_out(script: Script) -> None:
    """S13: the outcome is unknown."""
    with upstream(script, call_timeout=0.5) as (server, client), pytest.raises(OutcomeUnknown):
        client.dial(REQUEST, before_send=lambda: None)
    assert server.gone.wait(PATIENCE)
    assert len(server.requests) == 1


@BOTH_WAYS
@pytest.mark.parametrize("script", FLOODS)
def test_oversized_answer_ends_a_poll(script: Script) -> None:
    """S39: by its declared size at once, or by the time-out if it declares much and sends little."""
    with upstream(script, answers(GOOD), status_timeout=1) as (server, client):
        with pytest.raises(ApiError, match=r"AnswerTooLargeError|HTTPException|ClientResponseError|TimeoutError"):
            client.status(case_ref="C1", job_id="J1")
        assert client.status(case_ref="C1", job_id="J1").call_status == "Executing"
        assert (server.connections, len(server.requests)) == (2, 2)


@pytest.mark.parametrize("script", FLOODS)
def test_oversized_answer_ends_a_dial(script: Script) -> None:
    """S13: the outcome is unknown."""
    with upstream(script) as (server, client), pytest.raises(OutcomeUnknown):
        client.dial(REQUEST, before_send=lambda: None)
    assert len(server.requests) == 1


def chunked(answer: bytes) -> bytes:
    body = answer.partition(b"\r\n\r\n")[2]
    half = len(body) // 2
    parts = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:], b""))
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + parts


def until_closed(answer: bytes) -> Script:
    body = answer.partition(b"\r\n\r\n")[2]

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(HEAD + b"\r\n" + body)

    return script


LARGE = ok({"jobId": "J1", "callStatus": "Executing", "more": "x" * (MIB - 1000)})


@BOTH_WAYS
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(answers(LARGE), id="Content-Length"),
        pytest.param(answers(chunked(LARGE)), id="chunks"),
        pytest.param(until_closed(LARGE), id="until the end"),
    ],
)
def test_an_answer_just_within_the_limit_is_read(script: Script) -> None:
    with upstream(script) as (_, client):
        assert client.status(case_ref="C1", job_id="J1").call_status == "Executing"


TALK = json.dumps([{"timestamp": 1770463012000, "speaker": "Robot", "script": "您好", "action": "Dialogue"}] * 50)
LINES = 50


def log_of(size: int) -> bytes:
    """Return a conversation log of at most this size in bytes, mostly transcripts."""
    entry = {"jobId": "J1", "callStatus": "Succeeded", "conversations": TALK}
    return ok([entry] * ((size - 1000) // len(json.dumps([entry]))))


@pytest.mark.parametrize("size", [MIB + MIB // 2, 16 * MIB])
@pytest.mark.parametrize(
    "delivered",
    [
        pytest.param(answers, id="Content-Length"),
        pytest.param(lambda log: answers(chunked(log)), id="chunks"),
        pytest.param(until_closed, id="until the end"),
    ],
)
def test_conversation_log_has_a_larger_size_limit(size: int, delivered: Callable[[bytes], Script]) -> None:
    """S5, S39: a case with many transcripts could never be called again if its log could not be read."""
    log = log_of(size)
    assert size - 20_000 < len(log) < size
    with upstream(delivered(log)) as (_, client):
        entries = client.conversations(case_id="C1")
    assert {(entry.job_id, entry.call_status, len(entry.conversations)) for entry in entries[-2:]} == {
        ("J1", "Succeeded", LINES)
    }


@pytest.mark.parametrize(
    "at_once",
    [
        pytest.param(HEAD + b"Content-Length: %d\r\n\r\n" % (17 * MIB), id="with Content-Length"),
        pytest.param(HEAD + b"\r\n", id="without Content-Length"),
    ],
)
def test_conversation_log_beyond_its_limit_is_refused(at_once: bytes) -> None:
    """S39: 16 MiB; the next log is read."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(at_once)
        for _ in range(17):
            connection.send(b" " * MIB)
        connection.read_request()

    with upstream(script, answers(ok([]))) as (server, client):
        with pytest.raises(ProtocolError, match="AnswerTooLargeError"):
            client.conversations(case_id="C1")
        assert client.conversations(case_id="C1") == []
        assert server.connections == 2


def test_large_logs_are_read_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """S39: every thread of a worker can receive 16 MiB at the same time; small logs do not wait."""
    alone: list[bool] = []

    def judged(body: bytes) -> list[ConversationLog]:
        alone.append(client_module._large_log.locked())
        return conversation_logs(body)

    monkeypatch.setattr(client_module, "conversation_logs", judged)
    large, small = log_of(MIB + MIB // 2), ok([])
    with upstream(answers(large, small, large)) as (server, client):
        for _ in range(3):
            client.conversations(case_id="C1")
    assert alone == [True, False, True]
    assert not client_module._large_log.locked()
    assert server.connections == 1


def test_large_log_waits_for_another_one_within_its_time_out() -> None:
    """S39: after the time-out the query has failed (S5, S14), and the next one uses a new connection."""
    with (
        upstream(answers(log_of(2 * MIB)), answers(ok([]), log_of(2 * MIB)), status_timeout=0.5) as (server, client),
        client_module._large_log,
    ):
        with pytest.raises(Unavailable, match="ReadTimeoutError"):
            client.conversations(case_id="C1")
        assert client.conversations(case_id="C1") == []
        assert server.connections == 2


def test_connection_time_counts_towards_the_status_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """`status_timeout` is a total: the time to connect reduces the time for the answer."""
    granted: list[float | None] = []

    class Reader(transport._BoundedReader):
        def __init__(self, raw: io.RawIOBase, sock: socket.socket, room: int) -> None:
            granted.append(sock.gettimeout())
            super().__init__(raw, sock, room)

    monkeypatch.setattr(transport, "_BoundedReader", Reader)
    with upstream(answers(GOOD, GOOD), status_timeout=7) as (_, client):
        client.status(case_ref="C1", job_id="J1")
    assert granted[0] is not None
    assert 0 < granted[0] < 7


def test_nothing_is_read_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even bytes that have already arrived: otherwise a server that always has one more byte would never end."""
    near, far = socket.socketpair()
    with near, far:
        near.settimeout(5)
        response = transport.BoundedResponse(near)
        far.sendall(HEAD)
        later = time.monotonic() + 5
        monkeypatch.setattr("api_client.transport.monotonic", lambda: later)
        with pytest.raises(TimeoutError):
            response.begin()
        response.close()

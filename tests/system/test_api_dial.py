"""Dials over real sockets: the time of the first byte, and the meaning of each answer (S12, S13, S18)."""

import gzip
import json
import threading

import pytest
from urllib3.exceptions import ProtocolError as LibraryProtocolError

from api_client import CallRequest, NotSent, OutcomeUnknown, Rejected
from api_client.reasons import reason_of_status
from tests.rawserver import (
    PATIENCE,
    Connection,
    Script,
    answers,
    answers_and_closes,
    assert_discreet,
    http,
    ok,
    upstream,
)

JOB_ID = "1770463000471-447e-96ea-97523c61189b"
REQUEST = CallRequest("C1", "M1", call_person_id="P20260001")
RECORD = {"errorCode": 0, "jobId": JOB_ID, "personId": "P20260001", "callStatus": "Scheduling"}
STARTED = ok([RECORD], code=201, status=201)
COMPRESSED = http(201, gzip.compress(STARTED.partition(b"\r\n\r\n")[2]), headers={"Content-Encoding": "gzip"})
SECRETS = ("P20260001", "C1", "t0ken", "张三")


def nothing() -> None:
    """Replace `before_send` by a function without effect."""


def test_the_request_on_the_wire() -> None:
    """Section 5."""
    with upstream(answers(STARTED), token="t0ken") as (server, client):
        records = client.dial(CallRequest("案件-1", "M1"), before_send=nothing)
    assert [(record.job_id, record.error_code) for record in records] == [(JOB_ID, 0)]
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /api/v1/outbound-bot/call-v2 HTTP/1.1"
    assert {"Content-Type: application/json", "Accept-Encoding: identity", "Authorization: Bearer t0ken"} < set(lines)
    assert json.loads(body) == {"caseId": "案件-1", "mediationId": "M1", "callAuto": 0, "callPersonId": ""}
    assert "案件-1".encode() in body


def test_no_byte_leaves_before_before_send_has_returned() -> None:
    """S18: first the connection, then the phase `sending`, and only then the first byte to upstream."""
    may_read = threading.Event()
    seen: list[bytes] = []

    def script(connection: Connection) -> None:
        may_read.wait(PATIENCE)
        answers(STARTED)(connection)

    with upstream(script) as (server, client):

        def before_send() -> None:
            seen.append(server.accepted.get(timeout=PATIENCE).pending())
            may_read.set()

        client.dial(REQUEST, before_send=before_send)
    assert seen == [b""]
    assert len(server.requests) == 1


def test_every_dial_opens_a_new_connection() -> None:
    """S18: a kept-alive connection can be dead without notice, and then the outcome is unknown."""
    with upstream(answers(STARTED, STARTED)) as (server, client):
        client.dial(REQUEST, before_send=nothing)
        client.dial(REQUEST, before_send=nothing)
    assert (server.connections, len(server.requests)) == (2, 2)


class Stop(BaseException):
    """An interruption like the time limit of a worker or Ctrl-C."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("fence lost"),
        ConnectionResetError("Redis is away"),
        TimeoutError("Redis is slow"),
        LibraryProtocolError("an exception that the library would wrap"),
        NotSent("an error of ours"),
        Stop(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_exception_of_before_send_propagates_unchanged(error: BaseException) -> None:
    """S18: nothing was sent, and the caller gets the exact reason."""
    error.__cause__ = cause = KeyError("beneath")

    def before_send() -> None:
        raise error

    with upstream(answers(STARTED)) as (server, client):
        with pytest.raises(type(error)) as caught:
            client.dial(REQUEST, before_send=before_send)
        server.wait_for_scripts()  # its connection was closed
    assert caught.value is error
    assert (error.__cause__, error.__context__) == (cause, None)
    assert (server.connections, server.requests) == (1, [])


def test_suspended_process_does_not_dial_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """S18: more than 2 s after the start of the write of `sending`, nothing is sent."""

    def before_send() -> None:
        monkeypatch.setattr("api_client.gate.time.clock_gettime", lambda _clock: 1e12)

    with upstream(answers(STARTED)) as (server, client):
        with pytest.raises(NotSent) as caught:
            client.dial(REQUEST, before_send=before_send)
        server.wait_for_scripts()
    assert server.requests == []
    assert caught.value.reason == "too_late"
    assert_discreet(caught.value, *SECRETS)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 407, 410, 422, 429, 499])
def test_a_refused_request_started_nothing(status: int) -> None:
    """S12: 3xx, which is not followed, and 4xx except 408 and 409."""
    refusal = http(status, {"message": "张三"}, headers={"Location": "/elsewhere", "Retry-After": "0"})
    with upstream(answers(refusal, STARTED)) as (server, client), pytest.raises(Rejected) as caught:
        client.dial(REQUEST, before_send=nothing)
    assert str(caught.value).endswith(f": HTTP {status}")
    assert caught.value.reason == reason_of_status(status)
    assert (server.connections, len(server.requests)) == (1, 1)
    assert_discreet(caught.value, *SECRETS)


def test_refusal_is_decided_by_the_status_without_a_body() -> None:
    """S12: the status decides, even if the body never arrives."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(http(404, b"x" * 100)[:-50])
        connection.read_request()

    with upstream(script) as (_, client), pytest.raises(Rejected):
        client.dial(REQUEST, before_send=nothing)


def reset(connection: Connection) -> None:
    """Close the connection after the request."""
    connection.read_request()
    connection.reset()


def silent(connection: Connection) -> None:
    """Never answer."""
    connection.read_request()
    connection.read_request()


LOST: list[tuple[str, Script]] = [
    *((f"HTTP {status}", answers(http(status, {"code": 201, "data": [RECORD]}), STARTED))
      for status in (101, 199, 408, 409, 500, 502, 503, 504, 599, 600)),
    ("503 with Retry-After", answers(http(503, headers={"Retry-After": "0"}), STARTED)),
    ("time-out", silent),
    ("reset after the request", reset),
    ("closed without an answer", answers_and_closes(b"")),
    ("closed within the status line", answers_and_closes(b"HTTP/1.1 20")),
    ("closed within the headers", answers_and_closes(b"HTTP/1.1 201 Created\r\nContent-Le")),
    ("closed within the body", answers_and_closes(STARTED[:-9])),
    ("never ends the body", answers(STARTED[:-9])),
    ("no HTTP at all", answers(b"SSH-2.0-OpenSSH\r\n")),
    ("an empty body", answers(http(201))),
    ("no content", answers(http(204))),
    ("HTML", answers(http(200, b"<html>welcome</html>"))),
    ("no envelope", answers(http(201, [RECORD]))),
    ("inner code 500", answers(ok([RECORD], code=500))),
    ("inner code 400", answers(ok([RECORD], code=400))),
    ("data null", answers(ok(None, code=201))),
    ("data an object", answers(ok({"list": [RECORD]}, code=201))),
    ("data missing", answers(http(201, {"code": 201, "message": "张三"}))),
    ("compressed against our wish", answers(COMPRESSED)),
    ("lone surrogate", answers(http(201, b'{"code": 201, "data": [{"message": "\\ud83d"}]}'))),
    ("nested without end", answers(http(201, b'{"code": 201, "data": ' + b"[" * 100_000))),
]  # fmt: skip


REASONS = {
    **{f"HTTP {status}": "http_5xx" for status in (500, 502, 503, 504, 599)},
    "HTTP 408": "http_408",
    "HTTP 409": "http_409",
    "503 with Retry-After": "http_5xx",
    "time-out": "timeout",
    "never ends the body": "timeout",
    "reset after the request": "connection_lost",
    "closed without an answer": "connection_lost",
    "closed within the body": "connection_lost",
    "inner code 500": "inner_code",
    "inner code 400": "inner_code",
    "data null": "no_records",
    "data an object": "no_records",
    "data missing": "no_records",
}  # all others are unreadable


@pytest.mark.parametrize(
    ("script", "reason"), [pytest.param(script, REASONS.get(name, "unreadable"), id=name) for name, script in LOST]
)
def test_a_lost_answer_is_an_unknown_outcome(script: Script, reason: str) -> None:
    """S13, S14, S38: the phone may be ringing, so there is one request on the wire and never a second."""
    runs: list[None] = []
    with upstream(script, token="t0ken", call_timeout=0.5) as (server, client), pytest.raises(OutcomeUnknown) as caught:
        client.dial(REQUEST, before_send=lambda: runs.append(None))
    assert (server.connections, len(server.requests), len(runs)) == (1, 1, 1)
    assert caught.value.reason == reason
    assert_discreet(caught.value, *SECRETS)


@pytest.mark.parametrize(
    ("records", "jobs"),
    [
        pytest.param([RECORD, {"errorCode": 1002, "personId": "P2"}], [JOB_ID, None], id="one of two refused"),
        pytest.param([RECORD, None, "x"], [JOB_ID, None, None], id="records that are no objects"),
        pytest.param([], [], id="none"),
    ],
)
@pytest.mark.parametrize(("status", "code"), [(201, 201), (200, 200), (202, 201)])
def test_a_readable_list_is_an_answer(records: list[object], jobs: list[object], status: int, code: int) -> None:
    """S7, S13: an answer is never discarded."""
    with upstream(answers(ok(records, code=code, status=status))) as (_, client):
        assert [record.job_id for record in client.dial(REQUEST, before_send=nothing)] == jobs


def test_answer_after_a_100_continue_is_read() -> None:
    with upstream(answers(b"HTTP/1.1 100 Continue\r\n\r\n" + STARTED)) as (_, client):
        assert len(client.dial(REQUEST, before_send=nothing)) == 1


def test_request_that_cannot_be_encoded_is_not_sent() -> None:
    """A lone surrogate has no UTF-8 form."""
    with upstream(answers(STARTED)) as (server, client), pytest.raises(NotSent):
        client.dial(CallRequest("\ud800", "M1"), before_send=nothing)
    assert server.connections == 0

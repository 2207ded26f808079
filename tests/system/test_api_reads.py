"""Reads over real sockets: one poll is one request, and an invalid answer does not affect the next one (S21, S23)."""

import asyncio
import gzip
import logging
import re
import threading

import pytest

from api_client import ApiError, CallStatus, ProtocolError, Unavailable, UpstreamClient
from api_client.reasons import reason_of_status
from tests.fakes import PHONE
from tests.on_a_loop import BOTH_WAYS
from tests.rawserver import Connection, Script, answers, answers_and_closes, assert_discreet, http, ok, upstream

JOB_ID = "1770463000471-447e-96ea-97523c61189b"
STATUS = {"caseRef": "C1", "phoneNumber": PHONE, "jobId": JOB_ID, "callStatus": "Executing"}
GOOD = ok(STATUS)
COMPRESSED = http(200, gzip.compress(GOOD.partition(b"\r\n\r\n")[2]), headers={"Content-Encoding": "gzip"})
SECRETS = ("P20260001", "C1", JOB_ID, PHONE, "张三", "t0ken")


def poll(client: UpstreamClient) -> CallStatus:
    return client.status(case_ref="C1", job_id=JOB_ID)


@BOTH_WAYS
def test_a_query_names_case_and_job_and_nothing_else() -> None:
    """S21."""
    with upstream(answers(GOOD), token="t0ken") as (server, client):
        status = client.status(case_ref="案 1&x=y", job_id=JOB_ID)
    assert status == CallStatus(call_status="Executing", job_id=JOB_ID)
    lines = server.requests[0].decode().split("\r\n")
    query = f"caseRef=%E6%A1%88%201%26x%3Dy&jobId={JOB_ID}"
    assert lines[0] == f"GET /api/v1/outbound-bot/status?{query} HTTP/1.1"
    assert {"Accept-Encoding: identity", "Authorization: Bearer t0ken"} < set(lines)


def test_a_look_up_names_the_case_alone() -> None:
    """S14: then the answer names its job."""
    with upstream(answers(GOOD)) as (server, client):
        assert client.status(case_ref="C1").job_id == JOB_ID
    assert server.requests[0].startswith(b"GET /api/v1/outbound-bot/status?caseRef=C1 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("asked", "query"),
    [
        ({"case_id": "C1"}, "?caseId=C1"),
        ({"job_id": "J1"}, "?jobId=J1"),
        ({}, ""),
    ],
)
def test_conversation_logs_are_read(asked: dict[str, str], query: str) -> None:
    """S36."""
    log = {"callType": "follow_up", "jobId": JOB_ID, "conversations": '[{"speaker": "Robot", "script": "您好"}]'}
    with upstream(answers(ok([log]))) as (server, client):
        [read] = client.conversations(**asked)
    assert (read.call_type, read.job_id, read.conversations[0].script) == ("follow_up", JOB_ID, "您好")
    assert server.requests[0].startswith(f"GET /api/v1/outbound-bot/conversation-log{query} HTTP/1.1\r\n".encode())


@BOTH_WAYS
def test_polls_share_a_connection() -> None:
    with upstream(answers(*[GOOD] * 5)) as (server, client):
        for _ in range(5):
            poll(client)
    assert (server.connections, len(server.requests)) == (1, 5)


@BOTH_WAYS
def test_connection_closed_by_the_server_is_not_reused() -> None:
    with upstream(answers_and_closes(GOOD), answers(GOOD)) as (server, client):
        poll(client)
        server.wait_for_scripts()
        assert poll(client).call_status == "Executing"
    assert (server.connections, len(server.requests)) == (2, 2)


def reset(connection: Connection) -> None:
    connection.read_request()
    connection.reset()


def silent(connection: Connection) -> None:
    connection.read_request()
    connection.read_request()


FAILURES: list[tuple[str, Script, type[ApiError], int | None]] = [
    *((f"HTTP {status}", answers(http(status, {"code": 200, "data": STATUS}), GOOD), Unavailable, status)
      for status in (101, 301, 302, 307, 400, 401, 404, 408, 429, 500, 503)),
    ("HTTP 304", answers(http(304, length=False), GOOD), Unavailable, 304),
    ("time-out", silent, Unavailable, None),
    ("reset after the request", reset, Unavailable, None),
    ("closed without an answer", answers_and_closes(b""), Unavailable, None),
    ("closed within the body", answers_and_closes(GOOD[:-9]), Unavailable, None),
    ("never ends the body", answers(GOOD[:-9], GOOD), Unavailable, None),
    ("no HTTP at all", answers(b"SSH-2.0-OpenSSH\r\n", GOOD), ProtocolError, None),
    ("an endless status line", answers(b"HTTP/1.1 200 " + b"x" * 70_000, GOOD), ProtocolError, None),
    ("an empty body", answers(http(200), GOOD), ProtocolError, None),
    ("no content", answers(http(204), GOOD), ProtocolError, None),
    ("HTML", answers(http(200, b"<html>welcome</html>"), GOOD), ProtocolError, None),
    ("inner code 500", answers(ok(STATUS, code=500), GOOD), ProtocolError, None),
    ("data null", answers(ok(None), GOOD), ProtocolError, None),
    ("no callStatus", answers(ok({"jobId": JOB_ID}), GOOD), ProtocolError, None),
    ("another job's answer", answers(ok({**STATUS, "jobId": "J2"}), GOOD), ProtocolError, None),
    ("compressed against our wish", answers(COMPRESSED, GOOD),
     ProtocolError, None),
    ("two lengths", answers(http(200, b"{}", headers={"Content-Length": "9"}), GOOD), ApiError, None),
]  # fmt: skip


REASONS = {
    "time-out": "timeout",
    "never ends the body": "timeout",
    "reset after the request": "connection_lost",
    "closed without an answer": "connection_lost",
    "closed within the body": "connection_lost",
    "inner code 500": "inner_code",
    "data null": "no_status",
    "no callStatus": "no_status",
    "another job's answer": "other_job",
}  # all others are unreadable, or that of their HTTP status


@BOTH_WAYS
@pytest.mark.parametrize(
    ("script", "error", "status", "reason"),
    [
        pytest.param(
            script, error, status, reason_of_status(status) if status else REASONS.get(name, "unreadable"), id=name
        )
        for name, script, error, status in FAILURES
    ],
)
def test_failed_query_is_one_request_and_the_next_gets_its_own_answer(
    script: Script, error: type[ApiError], status: int | None, reason: str
) -> None:
    """S21, S23, S38, S39: one request, no redirect followed, nothing quoted, and the next poll gets its own answer."""

    with upstream(script, answers(GOOD), token="t0ken", status_timeout=0.5) as (server, client):
        with pytest.raises(error) as caught:
            poll(client)
        assert len(server.requests) <= 1
        assert status is None or str(caught.value).endswith(f": HTTP {status}")
        assert caught.value.reason == reason
        assert_discreet(caught.value, *SECRETS)
        assert poll(client).call_status == "Executing"


@BOTH_WAYS
@pytest.mark.parametrize(
    ("script", "connections"),
    [
        pytest.param(answers(http(503), GOOD), 1, id="a complete refusal is harmless"),
        pytest.param(answers(GOOD[:-9], GOOD), 2, id="incomplete"),
    ],
)
def test_connection_is_kept_only_after_a_complete_answer(script: Script, connections: int) -> None:
    live_on(script, connections)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(answers(ok({**STATUS, "jobId": "J2"}), GOOD), id="another job's answer"),
        pytest.param(answers(http(200, b"x"), GOOD), id="unreadable"),
    ],
)
def test_connection_with_an_unread_answer_is_closed(script: Script) -> None:
    """On an event loop, aiohttp closes a connection whose last answer was not read completely."""
    live_on(script, 2)


def live_on(script: Script, connections: int) -> None:
    with upstream(script, answers(GOOD), status_timeout=0.5) as (server, client):
        with pytest.raises(ApiError):
            poll(client)
        poll(client)
    assert server.connections == connections


@BOTH_WAYS
@pytest.mark.parametrize(
    ("status", "header", "expected"),
    [(503, "7", 7.0), (429, "900", 300.0), (503, None, None), (500, "7", None), (301, "7", None)],
)
def test_retry_after_is_read_from_429_and_503(status: int, header: str | None, expected: float | None) -> None:
    headers = {"Retry-After": header} if header else {}
    with upstream(answers(http(status, headers=headers))) as (server, client), pytest.raises(Unavailable) as caught:
        poll(client)
    assert caught.value.retry_after == expected
    assert len(server.requests) == 1


@BOTH_WAYS
def test_one_client_serves_many_threads() -> None:
    """Each thread gets the answers for its own job."""
    jobs = re.compile(rb"jobId=(\S+)")

    def script(connection: Connection) -> None:
        while request := connection.read_request():
            found = jobs.search(request)
            assert found
            connection.send(ok({"jobId": found[1].decode(), "callStatus": "Executing"}))

    answered: list[str | None] = []
    with upstream(script, pool_size=4) as (server, client):

        def watch(number: int) -> None:
            answered.extend(client.status(case_ref="C1", job_id=f"{number}-{no}").job_id for no in range(20))

        threads = [threading.Thread(target=watch, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(map(str, answered)) == sorted(f"{number}-{no}" for number in range(8) for no in range(20))
    assert len(server.requests) == 160


def test_no_query_is_sent_after_close() -> None:
    with upstream(answers(GOOD)) as (server, client):
        client.close()
        with pytest.raises(Unavailable, match="ClosedPoolError"):
            poll(client)
    assert server.connections == 0


def test_the_library_logs_no_address(caplog: pytest.LogCaptureFixture) -> None:
    """S37: its records contain whole URLs, always at DEBUG and for an odd header at WARNING."""
    odd = ok([]).replace(b"\r\n\r\n", b"\r\nno header at all\r\n\r\n")
    with caplog.at_level(logging.DEBUG), upstream(answers(odd, ok([])), pool_size=1) as (_, client):
        for _ in range(2):
            client.conversations(case_id="P20260001")
    assert "P20260001" not in caplog.text
    assert "personId" not in caplog.text


def test_unused_client_can_be_closed() -> None:
    """On an event loop the first query opens the connections."""
    client = UpstreamClient("http://127.0.0.1:9")
    asyncio.run(client.for_event_loop().close())
    client.close()

"""A request that bypasses its gate is prevented, and never counts as not sent (S18).

The gate works only because the libraries use our classes. Each sabotage is a way in which a later version of them might
no longer do so.
"""

import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

from api_client import CallRequest, NotSent, OutcomeUnknown, route, transport
from api_client.gate import Gate, GateShutError
from api_client.route import Route
from tests.rawserver import RawServer, Script, answers, answers_and_closes, http, ok, upstream

REQUEST = CallRequest("C1", "M1", call_person_id="P20260001")
RECORD = {"errorCode": 0, "jobId": "J-1", "personId": "P20260001", "callStatus": "Scheduling"}
STARTED = ok([RECORD], code=201, status=201)

Patch = pytest.MonkeyPatch


def options_dropped(patch: Patch) -> None:
    """The pool does not pass its options on to the connection."""
    patch.setattr(transport.GatedHTTPConnectionPool, "use", lambda pool, gate: setattr(pool, "gate", gate))


def unknown_options_refused(patch: Patch) -> None:
    """The connection has another class, without a gate."""
    patch.setattr(transport.GatedHTTPConnectionPool, "ConnectionCls", transport.BoundedHTTPConnection)


def class_ignored(patch: Patch) -> None:
    """The pool makes connections of the library's own class."""
    patch.setattr(HTTPConnectionPool, "_new_conn", lambda pool: HTTPConnection(pool.host, pool.port))


def pool_class_ignored(patch: Patch) -> None:
    """The manager makes pools of other classes."""
    patch.setattr(route, "_DIALLING", route._READING)


def connected_otherwise(patch: Patch) -> None:
    """The connection is established without a call of our `connect`."""
    patch.setattr(transport.GatedHTTPConnection, "connect", transport.BoundedHTTPConnection.connect)


def connected_early(patch: Patch) -> None:
    """The connection has a socket that is already connected."""
    made = transport.GatedHTTPConnection.__init__

    def init(connection: Any, *args: Any, **kwargs: Any) -> None:
        made(connection, *args, **kwargs)
        connection.sock = socket.create_connection((connection.host, connection.port))

    patch.setattr(transport.GatedHTTPConnection, "__init__", init)


def check_of_the_pool_gone(patch: Patch) -> None:
    """The pool returns a connection without our check and without its options."""
    options_dropped(patch)
    patch.setattr(transport.GatedHTTPConnectionPool, "_get_conn", HTTPConnectionPool._get_conn)


REFUSED = [options_dropped, unknown_options_refused, class_ignored, pool_class_ignored, connected_otherwise]


@pytest.mark.parametrize("sabotage", [*REFUSED, connected_early, check_of_the_pool_gone])
def test_no_byte_bypasses_the_gate(sabotage: Callable[[Patch], None], monkeypatch: Patch) -> None:
    """S18: the connection without the gate refuses the request."""
    runs: list[None] = []
    sabotage(monkeypatch)
    error = OutcomeUnknown if sabotage is check_of_the_pool_gone else NotSent
    with upstream(answers(STARTED)) as (server, client), pytest.raises(error):
        client.dial(REQUEST, before_send=lambda: runs.append(None))
    assert (server.requests, runs) == ([], [])


def test_a_connection_carries_one_request(monkeypatch: Patch) -> None:
    """S12: a second request on the same connection is refused as well."""
    sent = HTTPConnection.request

    def twice(connection: HTTPConnection, *args: Any, **kwargs: Any) -> None:
        sent(connection, *args, **kwargs)
        connection.getresponse().read()
        sent(connection, *args, **kwargs)

    monkeypatch.setattr(HTTPConnection, "request", twice)
    with upstream(answers(STARTED, STARTED)) as (server, client), pytest.raises(OutcomeUnknown):
        client.dial(REQUEST, before_send=lambda: None)
    assert len(server.requests) == 1


def test_a_connection_without_a_gate_sends_nothing() -> None:
    with upstream(answers(STARTED)) as (server, _):
        connection = transport.GatedHTTPConnection("127.0.0.1", server.port, timeout=5)
        with pytest.raises(GateShutError):
            connection.request("POST", "/")
        connection.close()
        server.wait_for_scripts()
    assert server.requests == []


def test_gate_asked_on_another_connection_stays_shut() -> None:
    """S18: the gate belongs to the connection that asked it."""
    gate = Gate(lambda: None)
    gate.arm()
    with RawServer(answers(STARTED)) as server:
        asked, other = (transport.GatedHTTPConnection("127.0.0.1", server.port, timeout=5, gate=gate) for _ in "12")
        asked.connect()
        other.sock = socket.create_connection(("127.0.0.1", server.port))
        with pytest.raises(GateShutError):
            other.request("POST", "/")
        with pytest.raises(GateShutError):
            asked.request("POST", "/")
        asked.close()
        other.close()
    assert server.requests == []


@pytest.fixture
def no_gate(monkeypatch: Patch) -> None:
    """Let dials use a pool without a gate."""

    def open_dial(way: Route, _gate: Gate) -> HTTPConnectionPool:
        return way.open_pool(1)

    monkeypatch.setattr(Route, "open_dial", open_dial)


@pytest.mark.parametrize(
    ("script", "jobs"),
    [
        pytest.param(answers(STARTED), ["J-1"], id="a readable list"),
        pytest.param(answers(ok([RECORD, {"errorCode": 1002}], code=201)), ["J-1", None], id="a refusal in it"),
        pytest.param(answers(http(404)), [], id="404"),
        pytest.param(answers(http(500, {"code": 201, "data": [RECORD]})), [], id="500"),
        pytest.param(answers(http(201, b"<html>")), [], id="unreadable"),
        pytest.param(answers_and_closes(STARTED[:-9]), [], id="half an answer"),
        pytest.param(answers_and_closes(b""), [], id="none"),
    ],
)
@pytest.mark.usefixtures("no_gate")
def test_request_sent_without_its_gate_is_an_unknown_outcome(
    script: Script, jobs: list[str | None], caplog: pytest.LogCaptureFixture
) -> None:
    """S18: it is stored as `unknown` and never sent again, but its jobs can be watched."""
    runs: list[None] = []
    with upstream(script) as (server, client), caplog.at_level(logging.ERROR), pytest.raises(OutcomeUnknown) as caught:
        client.dial(REQUEST, before_send=lambda: runs.append(None))
    assert (len(server.requests), runs) == (1, [])
    assert [record.job_id for record in caught.value.records] == jobs
    assert caught.value.reason == "past_gate"
    assert "gate" in caplog.text
    assert "P20260001" not in caplog.text


def test_error_after_a_bypassed_gate_has_no_records() -> None:
    with upstream(answers(http(500))) as (_, client), pytest.raises(OutcomeUnknown) as caught:
        client.dial(REQUEST, before_send=lambda: None)
    assert caught.value.records == []

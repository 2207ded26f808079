"""The simulated upstream as a process: its answers, its faults on the wire, its log, its port."""

import http.client
import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from simulator.testing import SimulatorProcess
from tests.fakes import PHONE

STATUS = "/api/v1/outbound-bot/status"
CALL = "/api/v1/outbound-bot/call-v2"
PATHS = {"call-v2": CALL, "status": STATUS, "conversation-log": "/api/v1/outbound-bot/conversation-log"}


@pytest.fixture(scope="module")
def process() -> Iterator[SimulatorProcess]:
    with SimulatorProcess() as running:
        yield running


@pytest.fixture
def sim(process: SimulatorProcess) -> SimulatorProcess:
    process.reset()
    return process


def connect(sim: SimulatorProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", sim.port), timeout=30)


def send(sim: SimulatorProcess, path: str = STATUS, body: dict[str, Any] | None = None) -> socket.socket:
    """Send one request and return its open connection, the answer unread."""
    connection = connect(sim)
    raw = b"" if body is None else json.dumps(body).encode()
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: sim\r\nContent-Length: {len(raw)}\r\n\r\n"
    connection.sendall(head.encode() + raw)
    return connection


def last(sim: SimulatorProcess) -> dict[str, Any]:
    return sim.log()[-1]


def asked(case_id: str) -> dict[str, Any]:
    return {"caseId": case_id, "mediationId": "17", "callAuto": 0, "callPersonId": ""}


def test_a_call_from_its_start_to_its_end(sim: SimulatorProcess) -> None:
    answer = sim.dial("A1", "17")
    assert answer["code"] == 201
    assert [record["personId"] for record in answer["data"]] == ["P-A1-1", "P-A1-2"]
    jobs = [record["jobId"] for record in answer["data"]]
    assert sim.status(caseRef="A1", jobId=jobs[0])["data"]["callStatus"] == "Scheduling"
    sim.end(jobs[0], "Failed")
    assert sim.status(caseRef="A1", jobId=jobs[0])["data"]["callStatus"] == "Failed"
    sim.settings(speed=100_000)
    sim.wait(lambda: sim.status(caseRef="A1", jobId=jobs[1])["data"]["callStatus"] == "Succeeded")
    talk, other = sim.conversations(caseId="A1")["data"]
    assert (talk["jobId"], other["jobId"]) == (jobs[1], jobs[0])  # newest first
    assert json.loads(talk["conversations"])[-1]["action"] == "EndDialogue"
    assert talk["recordUrl"].startswith("http://")


def test_only_the_named_person_is_called_s3(sim: SimulatorProcess) -> None:
    answer = sim.dial("A2", "M-1", call_person_id="P-A2-2")
    assert [(record["personId"], record["mediationId"]) for record in answer["data"]] == [("P-A2-2", "M-1")]


def test_a_script_sets_each_party(sim: SimulatorProcess) -> None:
    parties = [
        {"person_id": "X", "error_code": 1001, "start_time": "2026-03-01", "call_interval": 3},
        {"person_id": "Y", "drop": ["jobId"], "life": "blink"},
        {"person_id": "Z", "rings": False},
    ]
    sim.script("A3", parties=parties)
    refused, untold, silent = sim.dial("A3")["data"]
    assert (refused["errorCode"], refused["startTime"], refused["jobId"]) == (1001, "2026-03-01", None)
    assert "jobId" not in untold
    assert (silent["errorCode"], silent["jobId"]) == (0, None)
    assert sim.rings_per_person() == {("A3", "1", "Y"): 1}


def test_records_are_created_one_after_the_other_and_answered_after_the_last_s14(sim: SimulatorProcess) -> None:
    sim.script("A4", dial_delay=0.05, life="endless")
    jobs = [record["jobId"] for record in sim.dial("A4")["data"]]
    created = [int(job[:13]) for job in jobs]
    assert created[1] - created[0] >= 45  # two clocks can differ by a millisecond
    entry = last(sim)
    assert entry["job_ids"] == jobs
    assert entry["done_at"] * 1000 >= created[1]


def test_unknown_call_has_no_data(sim: SimulatorProcess) -> None:
    assert sim.status(caseRef="A5", jobId="unknown") == {"code": 200, "message": "success", "data": None}
    assert sim.conversations(caseId="A5")["data"] == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"caseId": 1, "mediationId": "1"}, "caseId"),
        ({"caseId": "A6"}, "mediationId"),
        ({"caseId": "A6", "mediationId": "1", "callAuto": "0"}, "callAuto"),
        ({"caseId": "A6", "mediationId": "1", "callPersonId": None}, "callPersonId"),
    ],
)
def test_invalid_request_makes_no_call(sim: SimulatorProcess, body: dict[str, Any], field: str) -> None:
    status, answer = sim.request("POST", CALL, body)
    assert (status, answer["code"], answer["message"].split(":")[0]) == (400, 400, field)
    assert sim.jobs() == []


@pytest.mark.parametrize("endpoint", PATHS)
@pytest.mark.parametrize(
    ("status", "headers"),
    [(500, {}), (429, {"Retry-After": "30"}), (404, {}), (302, {"Location": "http://127.0.0.1:1/"}), (408, {})],
)
def test_status_fault_answers_with_its_http_status(
    sim: SimulatorProcess, endpoint: str, status: int, headers: dict[str, str]
) -> None:
    sim.fault("status", endpoint, status=status, headers=headers, count=1)
    body = asked("B1") if endpoint == "call-v2" else None
    connection = http.client.HTTPConnection("127.0.0.1", sim.port, timeout=30)
    try:
        connection.request("POST" if body else "GET", PATHS[endpoint], json.dumps(body) if body else None)
        response = connection.getresponse()
        assert response.status == status
        assert headers.items() <= dict(response.getheaders()).items()
        response.read()
    finally:
        connection.close()
    assert sim.jobs() == []
    assert sim.request("GET", STATUS)[0] == 200


@pytest.mark.parametrize(
    ("processed", "rings"), [(False, 0), (True, 2)], ids=["before", "S14: after the phones began to ring"]
)
@pytest.mark.parametrize("kind", ["hang", "reset"])
def test_hang_fault_never_answers(sim: SimulatorProcess, kind: str, processed: bool, rings: int) -> None:
    sim.fault(kind, "call-v2", processed=processed, case_id="B2")
    with send(sim, CALL, asked("B2")) as connection:
        if kind == "reset":
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        else:
            sim.wait(lambda: last(sim)["case_id"] == "B2" and len(last(sim)["job_ids"]) == rings)
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)
    sim.wait(lambda: last(sim)["ended"] == ("reset" if kind == "reset" else "client gone"))
    assert len(sim.jobs("B2")) == rings
    assert (last(sim)["fault"], last(sim)["status"]) == (kind, None)
    assert sim.dial("B3")["code"] == 201  # the fault does not match another case


def test_dial_continues_after_the_client_disconnects_s14(sim: SimulatorProcess) -> None:
    sim.script("B4", dial_delay=1)
    send(sim, CALL, asked("B4")).close()
    sim.wait(lambda: last(sim)["ended"] == "client gone")
    sim.wait(lambda: len(sim.jobs("B4")) == 2)
    assert last(sim)["job_ids"] == [job["job_id"] for job in sim.jobs("B4")]


@pytest.mark.parametrize("kind", ["drip_header", "drip_body"])
def test_drip_fault_ends_in_a_valid_answer(sim: SimulatorProcess, kind: str) -> None:
    sim.fault(kind, "status", seconds=0)
    assert sim.status(caseRef="B5") == {"code": 200, "message": "success", "data": None}
    assert (last(sim)["ended"], last(sim)["fault"]) == ("answered", kind)


@pytest.mark.parametrize(
    ("kind", "first"), [("drip_header", rb"H"), ("drip_body", rb"HTTP/1\.1 200 OK\r\n.*\r\n\r\n\{")]
)
def test_a_drip_is_one_byte_at_a_time(sim: SimulatorProcess, kind: str, first: bytes) -> None:
    sim.fault(kind, "status", seconds=3600)
    with send(sim) as connection:
        received = b""
        while not re.fullmatch(first, received, re.DOTALL):
            received += connection.recv(4096)
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
    sim.wait(lambda: last(sim)["ended"] == "client gone")


@pytest.mark.parametrize(
    ("kind", "more", "expected"),
    [
        pytest.param("wrong_envelope", {}, (500, None), id="wrong envelope"),
        pytest.param("null_data", {}, (200, None), id="null data"),
        pytest.param("wrong_data", {}, (200, []), id="no object"),
        pytest.param("delay", {"seconds": 0.01}, (200, "C1"), id="delay"),
        pytest.param("delay", {"seconds": 0.01, "processed": False}, (200, "C1"), id="delay before"),
        pytest.param("huge", {}, (200, "C1"), id="huge"),
        pytest.param("huge", {"chunked": True}, (200, "C1"), id="huge without a length"),
    ],
)
def test_fault_changes_the_answer(
    sim: SimulatorProcess, kind: str, more: dict[str, Any], expected: tuple[int, object]
) -> None:
    job = sim.dial("C1")["data"][0]["jobId"]
    sim.fault(kind, "status", job_id=job, count=1, **more)
    answer = sim.status(caseRef="C1", jobId=job)
    data = answer["data"]
    assert (answer["code"], data["caseRef"] if isinstance(data, dict) else data) == expected
    assert last(sim)["fault"] == kind
    assert last(sim)["bytes"] > (5 * 1024 * 1024 if kind == "huge" else 0)
    assert sim.status(caseRef="C1", jobId=job)["data"]["jobId"] == job  # its count was 1


def test_other_job_fault_answers_with_the_end_of_another_job_s23(sim: SimulatorProcess) -> None:
    job = sim.dial("C2")["data"][0]["jobId"]
    fault = sim.fault("other_job", "status")
    data = sim.status(caseRef="C2", jobId=job)["data"]
    assert data["jobId"] != job
    assert data["callStatus"] == "Succeeded"
    sim.clear(fault)
    assert sim.status(caseRef="C2", jobId=job)["data"]["callStatus"] == "Scheduling"


def test_garbage_fault_is_not_json(sim: SimulatorProcess) -> None:
    sim.fault("garbage")
    with pytest.raises(ValueError, match=r"decode|Expecting"):
        sim.status(caseRef="C3")


def test_summary_lists_the_paths_and_the_fields_of_their_bodies(sim: SimulatorProcess) -> None:
    paths = sim.request("GET", "/_sim")[1]["paths"]
    assert paths["POST /_sim/outage"] == ["seconds"]
    assert paths["POST /_sim/script"] == ["case_id", "life", "dial_delay", "parties"]
    assert {"kind", "endpoint", "count", "case_id", "processed"} <= set(paths["POST /_sim/faults"])
    assert paths["GET /_sim/faults"] == paths["POST /_sim/reset"] == []


@pytest.mark.parametrize(
    ("path", "body", "line"),
    [
        ("/script", {"life": "normal"}, "case_id: Field required"),
        ("/faults", {"kind": "hang", "count": "two"}, "count: Input should be a valid integer"),
        ("/settings", {"speed": 0}, "speed: Input should be greater than 0"),
        ("/end", {"job_id": "unknown"}, "job_id: no call 'unknown' was made"),
        ("/outage", {}, "seconds: Field required"),
        ("/end", None, "body: is no JSON"),
        ("/nothing", {}, "path: POST /_sim/nothing is none of"),
    ],
)
def test_invalid_control_input_names_its_field(
    sim: SimulatorProcess, path: str, body: dict[str, Any] | None, line: str
) -> None:
    status, answer = sim.request("POST", f"/_sim{path}", body)
    assert status == 400
    assert answer["error"].startswith(line)


def test_log_records_requests_and_their_connections(sim: SimulatorProcess) -> None:
    before = len(sim.log())
    job = sim.dial("D1", "17")["data"][0]["jobId"]
    with send(sim, f"{STATUS}?caseRef=D1&jobId={job}&phoneNumber={PHONE}") as connection:
        port = connection.getsockname()[1]
        connection.recv(1)
        sim.request("POST", "/api/v1/outbound-bot/call", asked("D1"))
        dial, status, old = sim.log()[before:]
    assert (dial["body"], dial["status"], dial["ended"]) == (asked("D1"), 201, "answered")
    assert (status["remote_port"], status["query"]) == (port, {"caseRef": "D1", "jobId": job})
    assert (status["mediation_id"], status["person_id"], status["phone_number_sent"]) == ("17", "P-D1-1", True)
    assert dial["mono"] <= dial["done_mono"] <= status["mono"]
    assert (old["endpoint"], old["status"]) == (None, 404)  # this path is not in the API
    assert PHONE not in sim.log_path.read_text(encoding="utf-8")
    assert [entry["no"] for entry in sim.status_requests(job)] == [status["no"]]
    assert sim.calls_per_pair()["D1", "17"] == 1
    kept = sim.request("GET", "/_sim/requests")[1]["requests"]
    assert kept == [dial, status, old]


def test_outage_refuses_connections_and_keeps_the_calls_s29(sim: SimulatorProcess) -> None:
    job = sim.dial("F1")["data"][0]["jobId"]

    def is_open() -> bool:
        try:
            connect(sim).close()
        except OSError:
            return False
        return True

    sim.fault("hang", "status", count=1)
    with send(sim) as hanging:
        sim.outage(1)
        assert hanging.recv(1) == b""  # open connections are closed, too
        sim.wait(lambda: not is_open())
    sim.wait(is_open)
    assert sim.status(jobId=job)["data"]["jobId"] == job

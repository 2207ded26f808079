"""Serve the three requests of the API: read, log, execute, then answer or apply a fault."""

import asyncio
import hmac
import json
import time
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from simulator import answers
from simulator.answers import Answer, refusal, success
from simulator.faults import Fault, body_of, spoil
from simulator.state import SIM, Simulation
from simulator.wire import Exchange

_BASE = "/api/v1/outbound-bot"
ENDPOINTS = {
    ("POST", f"{_BASE}/call-v2"): "call-v2",
    ("GET", f"{_BASE}/status"): "status",
    ("GET", f"{_BASE}/conversation-log"): "conversation-log",
}
_SECRET = "phoneNumber"  # noqa: S105 - the name of a field whose value is never logged


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """One parsed request; `endpoint` is None if upstream has no such path."""

    endpoint: str | None
    query: dict[str, str]
    body: Any
    case_id: str | None
    mediation_id: str | None
    job_id: str | None
    person_id: str | None

    @property
    def phone_number_sent(self) -> bool:
        """Whether the query or the body contains a phone number."""
        return _SECRET in self.query or (isinstance(self.body, dict) and _SECRET in self.body)


def authorised(request: web.Request, token: str | None) -> bool:
    """Return whether the request carries the bearer token, if one is required."""
    if token is None:
        return True
    return hmac.compare_digest(request.headers.get("Authorization", "").encode(), f"Bearer {token}".encode())


async def handle(request: web.Request) -> web.StreamResponse:
    """Serve any request outside the control paths."""
    sim = request.app[SIM]
    at, mono = time.time(), time.monotonic()
    asked = _read(request, await request.read(), sim)
    allowed = authorised(request, sim.config.token)
    fault = sim.faults.take(asked.endpoint, asked.case_id, asked.job_id) if allowed and asked.endpoint else None
    no = _arrived(sim, request, asked, fault, at=at, mono=mono)
    exchange = Exchange(request)
    try:
        if not allowed:
            answer = refusal(401, "未授权")
            await exchange.send(answer.http, answer.encode(), headers={"WWW-Authenticate": "Bearer"})
        elif fault:
            await _misbehave(sim, asked, fault, no, exchange)
        else:
            answer = await _process(sim, asked, no)
            await exchange.send(answer.http, answer.encode())
    finally:
        ended = exchange.ended or ("stopped" if sim.stopping else "client gone")
        sim.log.done(no, at=time.time(), mono=time.monotonic(), status=exchange.status, size=exchange.sent, ended=ended)
    if exchange.response is None:
        raise ConnectionResetError
    return exchange.response


def _read(request: web.Request, raw: bytes, sim: Simulation) -> ParsedRequest:
    query = dict(request.query)
    try:
        body = json.loads(raw) if raw else None
    except ValueError:
        body = None
    fields = body if isinstance(body, dict) else {}
    given = {name: str(value) for name, value in (*query.items(), *fields.items()) if value not in (None, "")}
    job_id = given.get("jobId")
    call = sim.book.by_job.get(job_id) if job_id else None
    return ParsedRequest(
        endpoint=ENDPOINTS.get((request.method, request.path)),
        query=query,
        body=body,
        case_id=given.get("caseId") or given.get("caseRef") or (call.case_id if call else None),
        mediation_id=given.get("mediationId") or (call.mediation_id if call else None),
        job_id=job_id,
        person_id=given.get("callPersonId") or given.get("personId") or (call.person_id if call else None),
    )


def _arrived(
    sim: Simulation, request: web.Request, asked: ParsedRequest, fault: Fault | None, *, at: float, mono: float
) -> int:
    peer = request.transport.get_extra_info("peername") if request.transport else None
    body = asked.body
    return sim.log.arrived(
        at=at,
        mono=mono,
        endpoint=asked.endpoint,
        method=request.method,
        path=request.path,
        query={name: value for name, value in asked.query.items() if name != _SECRET},
        body={name: value for name, value in body.items() if name != _SECRET} if isinstance(body, dict) else body,
        phone_number_sent=asked.phone_number_sent,
        remote_port=peer[1] if peer else None,
        case_id=asked.case_id,
        mediation_id=asked.mediation_id,
        job_id=asked.job_id,
        person_id=asked.person_id,
        fault=fault.kind if fault else None,
    )


async def _misbehave(sim: Simulation, asked: ParsedRequest, fault: Fault, no: int, exchange: Exchange) -> None:
    takes_effect = fault.takes_effect
    if fault.kind == "delay" and not takes_effect:
        await asyncio.sleep(fault.seconds or 0)
        takes_effect = True
    answer = await _process(sim, asked, no) if takes_effect else success(None)
    answer = spoil(fault, answer)
    body = body_of(fault, answer)
    match fault.kind:
        case "hang":
            await exchange.hang()
        case "reset":
            await exchange.reset()
        case "drip_header" | "drip_body":
            from_body = fault.kind == "drip_body"
            await exchange.drip(answer.http, body, seconds=fault.seconds or 0, from_body=from_body)
        case "delay" if fault.takes_effect:
            await asyncio.sleep(fault.seconds or 0)
            await exchange.send(answer.http, body)
        case _:
            await exchange.send(answer.http, body, headers=fault.headers, chunked=fault.chunked)


async def _process(sim: Simulation, asked: ParsedRequest, no: int) -> Answer:
    """Execute the request and return its valid answer."""
    match asked.endpoint:
        case "call-v2":
            task: asyncio.Task[Answer] = asyncio.create_task(_call(sim, asked.body, no))
            sim.tasks.add(task)
            task.add_done_callback(sim.tasks.discard)
            return await asyncio.shield(task)  # upstream continues to dial when its client disconnects
        case "status":
            return _status(sim, asked.query)
        case "conversation-log":
            return _conversations(sim, asked.query)
        case _:
            return refusal(404, "接口不存在")


async def _call(sim: Simulation, body: Any, no: int) -> Answer:
    wrong = _wrong(body)
    if wrong:
        return refusal(400, wrong)
    case_id, mediation_id, person_id = body["caseId"], body["mediationId"], body.get("callPersonId", "")
    script = sim.script(case_id)
    delay = sim.dial_delay if script.dial_delay is None else script.dial_delay
    records: list[dict[str, Any]] = []
    for party in script.people(case_id, person_id):
        if records and delay:
            await asyncio.sleep(delay)
        now = time.time()
        call = None
        if party.is_called:
            call = sim.book.open(
                party.life or script.life,
                case_id=case_id,
                mediation_id=mediation_id,
                person_id=party.person_id,
                person_type=party.person_type,
                request=no,
                now=now,
            )
            sim.log.dialled(no, at=now, job_id=call.job_id, person_id=party.person_id)
        records.append(answers.record(party, mediation_id, call, now))
    return success(records, 201)


def _wrong(body: Any) -> str | None:
    """Return the fault in the body of a call-v2, with the field; None if the body is valid."""
    if not isinstance(body, dict):
        return "body: must be a JSON object"
    for name in ("caseId", "mediationId"):
        if not isinstance(body.get(name), str) or not body[name]:
            return f"{name}: must be a string that is not empty"
    if type(body.get("callAuto", 0)) is not int or body.get("callAuto", 0) not in (0, 1):
        return "callAuto: must be 0 or 1"
    if not isinstance(body.get("callPersonId", ""), str):
        return "callPersonId: must be a string"
    return None


def _status(sim: Simulation, query: dict[str, str]) -> Answer:
    call = sim.book.find(
        case_ref=query.get("caseRef", ""), job_id=query.get("jobId", ""), phone_number=query.get(_SECRET, "")
    )
    return success(answers.status(sim.book, call, time.time()) if call else None)


def _conversations(sim: Simulation, query: dict[str, str]) -> Answer:
    calls = sim.book.select(
        case_id=query.get("caseId", ""), person_id=query.get("personId", ""), job_id=query.get("jobId", "")
    )
    now = time.time()
    return success([answers.conversation(sim.book, call, now) for call in calls])
